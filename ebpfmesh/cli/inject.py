# SPDX-License-Identifier: BSD-2-Clause
"""Commands for programs of others in the way of packets."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ebpfmesh.cli import complete, output
from ebpfmesh.cli.base import Command, Group, settings
from ebpfmesh.cli.choose import need_change, the_mesh
from ebpfmesh.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ebpfmesh.model import Injection, Mesh

SUFFIXES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9}
FILE = click.Path(path_type=Path)


def _edit(what: str, change: "Callable[[Mesh], Mesh]") -> None:
    from ebpfmesh import apply

    mesh = the_mesh()
    with output.steps(what) as step:
        done = apply.edit(mesh, change, step)
    output.operations(mesh, done)


def _numbers(
    _context: click.Context, _option: click.Parameter, texts: "Sequence[str]"
) -> dict[str, int]:
    """NAME=N, with N an integer or one with k, M or G behind it."""
    found = {}
    for text in texts:
        name, _, number = text.partition("=")
        digits = number.rstrip("kKMG")
        factor = SUFFIXES.get(number[len(digits) :])
        if not name or factor is None or not digits.lstrip("-").isdecimal():
            raise click.BadParameter(f"{text!r} is not NAME=N, such as rate=10M.")
        found[name] = int(digits) * factor
    return found


class _Inject(Group):
    """What is no command of it is a file to inject."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        own = args and args[0] in self.commands and args[0] != "file"
        return super().resolve_command(ctx, args if own else ["file", *args])

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for line in ("FILE.c --at PLACE", "set NAME PARAMETER=N ...", "--new NAME"):
            formatter.write_usage(ctx.command_path, line)


@click.group(
    cls=_Inject,
    invoke_without_command=True,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    examples=(
        "ebpfmesh inject --new greeter",
        "ebpfmesh inject greeter.c --at phone/egress",
        "ebpfmesh inject set greeter limit=1000",
    ),
)
@click.option("--new", metavar="NAME", help="Write NAME.c, a commented function to begin with.")
@click.pass_context
def inject(context: click.Context, new: str | None) -> None:
    """Put a function of yours into the kernel, in the way of packets.

    FILE is written with one header, mesh_function.h (bpf/functions/ has examples). It is
    compiled, its instructions are checked, the verifier takes it, its cost is measured. Then it
    meets every packet of PLACE that policy lets pass: FUNCTION/egress is what a function sends,
    FUNCTION/ingress what it gets; tenant:NAME/egress and tenant:NAME/ingress are for all functions
    of a tenant.
    """
    if new is not None:
        _write_new(new)
    elif context.invoked_subcommand is None:
        raise click.UsageError("name a file to inject, or --new NAME", context)


def _write_new(name: str) -> None:
    from ebpfmesh.inject.template import new_file

    path = new_file(name, Path.cwd())
    output.done(f"+ {path.name}")
    output.say(f"hint: ebpfmesh inject {path.name} --at FUNCTION/egress")


@inject.command(
    "file",
    hidden=True,
    examples=(
        "ebpfmesh inject greeter.c --at phone/ingress --name back",
        "ebpfmesh inject greeter.c --at tenant:operator/ingress --name all --param limit=1k",
        "ebpfmesh inject greeter.c --at phone/egress --name first --before greeter",
    ),
)
@click.argument("file", type=FILE)
@click.option("--at", metavar="PLACE", required=True, help="Whose packets, and which way.")
@click.option("--name", metavar="NAME", help="What to call it; the file's name if left out.")
@click.option("--tenant", metavar="T", help="With the rights of this tenant, as [[tenant]] says.")
@click.option("--before", metavar="NAME", help="Packets meet it before this one.")
@click.option("--after", metavar="NAME", help="Packets meet it right after this one.")
@click.option("--param", "parameters", metavar="NAME=N", multiple=True, callback=_numbers,
              help="A parameter, other than the file says; may be repeated.")  # fmt: skip
def inject_file(file: Path, before: str | None, after: str | None, **values: Any) -> None:
    """Inject FILE at PLACE."""
    from ebpfmesh.config import edit

    need_change("inject")
    if before and after:
        raise UsageError("--before and --after exclude each other", hint="name one of them")
    injection = _injection(file, **values)
    beside = {"before": before, "after": after}
    _edit(f"inject {injection.name}", lambda mesh: edit.inject(mesh, injection, **beside))


def _injection(file: Path, *, name: str | None, **values: Any) -> "Injection":
    from ebpfmesh.config.documents import read_source
    from ebpfmesh.config.explain import make
    from ebpfmesh.model import Injection

    chosen = name or file.stem.replace("_", "-").lower()
    source = read_source(file)
    return make(Injection, name=chosen, file=file.name, source=source, **values)


@inject.command(
    "set",
    examples=(
        "ebpfmesh inject set greeter limit=1000",
        "ebpfmesh inject set greeter limit=9k",
        "ebpfmesh inject set greeter limit=1500 --json",
    ),
)
@click.argument("name", shell_complete=complete.injected)
@click.argument("parameters", metavar="PARAMETER=N", nargs=-1, required=True, callback=_numbers)
def inject_set(name: str, parameters: dict[str, int]) -> None:
    """Change parameters of what is injected, while packets flow."""
    from ebpfmesh.config import edit

    need_change("inject set")

    def change(mesh: "Mesh") -> "Mesh":
        given = {one.name: one.parameters for one in mesh.injections}.get(name, {})
        return edit.swap(mesh, name, parameters=given | parameters)

    _edit(f"inject set {name}", change)


@inject.command(
    "reset",
    examples=(
        "ebpfmesh inject reset greeter",
        "ebpfmesh inject reset second -v",
        "ebpfmesh inject reset third --json",
    ),
)
@click.argument("name", shell_complete=complete.injected)
def inject_reset(name: str) -> None:
    """Close the circuit breaker of NAME, which opened because it was too slow: packets meet it.

    It opens again if NAME is still too slow for five seconds. `show injected NAME` and `doctor`
    say whether one is open.
    """
    from ebpfmesh import apply

    need_change("inject reset")
    mesh = the_mesh()
    with output.steps(f"inject reset {name}") as step:
        apply.reset(mesh, name, step)
    if settings().json:
        output.data(mesh=mesh, reset=name)
    else:
        output.done(f"~ injection {name}  circuit breaker open → closed")


def _percent(_context: click.Context, _option: click.Parameter, text: str | None) -> int | None:
    """N or N%, from 1 to 99."""
    if text is None:
        return None
    digits = text.removesuffix("%")
    if not digits.isdecimal() or not 1 <= int(digits) <= 99:
        raise click.BadParameter(f"{text!r} is no percentage from 1% to 99%.")
    return int(digits)


def _seconds(_context: click.Context, _option: click.Parameter, text: str | None) -> int | None:
    """N, Ns, Nm or Nh."""
    if text is None:
        return None
    factor = {"s": 1, "m": 60, "h": 3600}.get(text[-1:], 1)
    digits = text.rstrip("smh") if text[-1:] in "smh" else text
    if not digits.isdecimal() or not 1 <= int(digits) * factor <= 86400:
        raise click.BadParameter(f"{text!r} is no time from 1s to 24h, such as 60s.")
    return int(digits) * factor


@click.command(
    cls=Command,
    examples=(
        "ebpfmesh swap greeter new.c",
        "ebpfmesh swap greeter greeter.c --param limit=1k",
        "ebpfmesh swap greeter new.c --canary 10% --for 2s",
    ),
)
@click.argument("name", shell_complete=complete.injected)
@click.argument("file", type=FILE)
@click.option("--param", "parameters", metavar="NAME=N", multiple=True, callback=_numbers,
              help="A parameter; those that are not given are as FILE says.")  # fmt: skip
@click.option("--canary", "share", metavar="N%", callback=_percent,
              help="Only so many of the flows meet FILE, the others go on as before.")  # fmt: skip
@click.option("--for", "seconds", metavar="TIME", callback=_seconds,
              help="With --canary: promote FILE after 60s, 5m, …, or roll it back.")  # fmt: skip
def swap(
    name: str, file: Path, parameters: dict[str, int], share: int | None, seconds: int | None
) -> None:
    """Put FILE in the place of what is injected as NAME; no packet is lost, none meets both.

    Maps with the same name and layout are shared, so that it goes on with what the other knew. One
    of another layout is refused, unless FILE says by MESH_MIGRATE how a value becomes a new one:
    then the entries are converted right before the flip. Other names begin empty. The other is
    kept: `rollback NAME` brings it back.

    With --canary both run, and count for themselves: `show canary NAME` compares them, `promote`
    and `rollback` decide. With --for this command waits and decides by itself: FILE is rolled back
    if it drops a larger share of its packets, beyond the interval of 95 %, or met too few to tell;
    at once if its circuit breaker opens.
    """
    from ebpfmesh.config import edit
    from ebpfmesh.config.documents import read_source

    need_change("swap")
    if seconds and not share:
        raise UsageError("--for is about a canary", hint="say --canary 10% too")
    new = {"file": file.name, "source": read_source(file), "parameters": parameters}
    if share is None:
        _edit(f"swap {name}", lambda mesh: edit.swap(mesh, name, canary=None, **new))
        return
    _edit(f"swap {name}", lambda mesh: edit.canary(mesh, name, share=share, **new))
    if seconds:
        _decide(name, seconds)


def _decide(name: str, seconds: int) -> None:
    """Wait, and promote a canary or roll it back."""
    from ebpfmesh import apply
    from ebpfmesh.config import edit
    from ebpfmesh.observe import view
    from ebpfmesh.observe.canary import read_canary

    mesh = the_mesh()
    with output.steps(f"canary {name}") as step:
        for left in range(seconds, 0, -1):
            step(f"{left} s left")
            time.sleep(1)
            with view.opened(mesh) as seen:
                found = read_canary(seen, name)
            if found.canary.live.open:
                break
    output.say(f"canary {name}: {found.judgement}")
    if found.judgement in ("worse", "too few packets", "too slow"):
        done = apply.rollback(mesh, name)
    else:
        done = apply.edit(mesh, lambda whole: edit.promote(whole, name))
    output.operations(mesh, done)


@click.command(
    cls=Command,
    examples=(
        "ebpfmesh promote greeter",
        "ebpfmesh promote second -v",
        "ebpfmesh promote third --json",
    ),
)
@click.argument("name", shell_complete=complete.injected)
def promote(name: str) -> None:
    """Put the canary of NAME in its place: all flows meet it, with the maps it has."""
    from ebpfmesh.config import edit

    need_change("promote")
    _edit(f"promote {name}", lambda mesh: edit.promote(mesh, name))


@click.command(
    cls=Command,
    examples=(
        "ebpfmesh rollback greeter",
        "ebpfmesh rollback greeter -v",
        "ebpfmesh rollback greeter --json",
    ),
)
@click.argument("name", shell_complete=complete.injected)
def rollback(name: str) -> None:
    """Put back what was injected as NAME before the last swap; once more undoes that.

    It has the maps it had: those that both share go on, with what both wrote; its own, those from
    which entries migrated among them, are as it left them. What packets changed since in migrated
    entries is not in those. Of a NAME with a canary, the canary goes and nothing else changes.
    """
    from ebpfmesh import apply

    need_change("rollback")
    mesh = the_mesh()
    with output.steps(f"rollback {name}") as step:
        done = apply.rollback(mesh, name, step)
    output.operations(mesh, done)


@click.command(
    cls=Command,
    examples=(
        "ebpfmesh eject greeter",
        "ebpfmesh eject second -v",
        "ebpfmesh eject third --json",
    ),
)
@click.argument("name", shell_complete=complete.injected)
def eject(name: str) -> None:
    """Take what is injected as NAME out of the way of packets, and its maps with it."""
    from ebpfmesh.config import edit

    need_change("eject")
    _edit(f"eject {name}", lambda mesh: edit.eject(mesh, name))


COMMANDS = (inject, swap, promote, rollback, eject)
