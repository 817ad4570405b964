# SPDX-License-Identifier: BSD-2-Clause
"""Commands for a whole mesh: up, plan, down, gc; and compile, for all of them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ebpfmesh.cli import output
from ebpfmesh.cli.base import NO_WAIT, WAIT, Command, settings
from ebpfmesh.cli.choose import need_change, the_mesh
from ebpfmesh.cli.desired import FILE, NO_PRUNE, each, for_all
from ebpfmesh.errors import UsageError

if TYPE_CHECKING:
    from ebpfmesh.model import Mesh
    from ebpfmesh.operation import Operation

CHANGES = 8
"""Exit code of `plan --exit-code` if there are any."""
ROLLBACK = click.option(
    "--rollback", is_flag=True, help="Without FILE: return to the programs of the version before."
)


@click.command(
    cls=Command,
    examples=(
        "ebpfmesh up examples/edge.toml --json",
        "ebpfmesh export | ebpfmesh up - --no-prune",
        "ebpfmesh -v up --mesh edge",
    ),
)
@FILE
@NO_PRUNE
@ROLLBACK
@WAIT
@NO_WAIT
def up(
    file: Path | None, *, no_prune: bool, rollback: bool, wait: float | None, no_wait: bool
) -> None:
    """Make the mesh as FILE says.

    FILE is a mesh file, `-` for standard input, or a directory, of which all *.toml are one mesh.
    Without FILE all that /etc/ebpfmesh describes is made, or of that the mesh that --mesh names:
    each MESH.toml there is a mesh, and each directory MESH. EBPFMESH_ETC names another place.

    Only what differs is done, and told; a second time there is nothing to do. If it fails, the
    mesh is as it was before.

    New functions are waited for: until the ports listen that services send to, or what `ready` of
    the file says, for 30 seconds, or as it says, or --wait. Services send a function nothing until
    it is ready. One that ends, or is not ready in time, is a failure; with `on_failure = "keep"` in
    the file what was done stays, and the exit code is 1. So it is with a function that was there
    and whose command ended: it is started again, unless `stop` stopped it.

    A function whose command, image, user or volumes changed is not made anew: services send its new
    flows to others, what is connected has `drain_seconds` to end, the command is stopped, and the
    new one gets flows once it is ready. One function after the other; a failure ends it, and puts
    those before it back in the same way.

    Programs are compiled unless they are kept from before: see `ebpfmesh compile`. A mesh that
    runs programs of another version gets those of this one, each in the place of the old one, while
    packets flow; `--rollback` puts the old ones back, until the next `up FILE`.
    """
    from ebpfmesh import apply

    need_change("up")
    if rollback:
        name = _of_rollback(file, no_prune=no_prune)
        with output.steps(f"mesh {name}") as step:
            done = apply.revert(name, step)
        output.operations(name, done)
        return

    def make(wanted: "Mesh") -> None:
        try:
            with output.steps(f"mesh {wanted.name}") as step:
                seconds = 0 if no_wait else wait
                done = apply.up(wanted, step, prune=not no_prune, wait=seconds)
        except apply.Unready as error:
            if error.done:
                output.operations(wanted.name, error.done, warnings=_warnings(wanted, error.done))
            else:  # it may be why
                for text in apply.barred_volumes(wanted.name, wanted.functions):
                    output.warn(text)
            raise
        texts = [*_warnings(wanted, done), *_without(wanted.name, done)]
        output.operations(wanted.name, done, warnings=texts)

    each(file, make)


def _without(mesh: str, operations: "Sequence[Operation]") -> list[str]:
    """Uplinks that these operations would have had XDP at, if their drivers had it."""
    from ebpfmesh.observe import uplinks
    from ebpfmesh.operation import AddFunction, AddUplink

    new = {one.name for one in operations if isinstance(one, AddUplink)}
    more = any(isinstance(one, AddFunction) and one.object.datapath != "tc" for one in operations)
    found = uplinks.without_xdp(mesh) if new or more else {}
    return [f"uplink {name}: no XDP: {why}" for name, why in found.items() if more or name in new]


def _warnings(wanted: "Mesh", operations: "Sequence[Operation]") -> list[str]:
    """What of a mesh file is hardly meant, and which of its commands stay stopped."""
    from ebpfmesh import apply, model
    from ebpfmesh.observe import masquerade, uplinks
    from ebpfmesh.operation import AddFunction

    stopped = apply.stay_stopped(wanted.name, operations)
    texts = (f"function {one} is stopped: ebpfmesh start {one} starts it" for one in stopped)
    new = [one.object for one in operations if isinstance(one, AddFunction)]
    barred = apply.barred_volumes(wanted.name, new)
    of_host = *uplinks.taken_in(wanted), *masquerade.in_mesh(wanted)
    return [*model.warnings(wanted), *texts, *barred, *of_host]


def _of_rollback(file: Path | None, *, no_prune: bool) -> str:
    """The mesh whose programs are to be those of before."""
    if file is not None:
        what = f"{file}: a mesh file has no say in a rollback, which changes programs alone"
        raise UsageError(what, hint="leave it out; --mesh says which mesh")
    if no_prune:
        what = "--no-prune has no say in a rollback, which changes programs alone"
        raise UsageError(what, hint="leave it out")
    return the_mesh()


@click.command(
    cls=Command,
    examples=(
        "ebpfmesh plan examples/edge.toml",
        "ebpfmesh plan examples/edge.toml --json --exit-code || echo changed",
        "ebpfmesh plan --rollback",
    ),
)
@FILE
@NO_PRUNE
@ROLLBACK
@click.option("--exit-code", "tells", is_flag=True, help="Exit with 8 if there are changes.")
def plan(file: Path | None, *, no_prune: bool, rollback: bool, tells: bool) -> None:
    """Show what `up FILE` would do, or `up --rollback`, and do nothing.

    A function that has another address is made anew: it goes, and comes again. Limits, tenant and
    audit change where it is; `env` alone counts at the next start of its command. Another command,
    image or user rolls over the replicas, one by one; of a function that is the only one behind a
    service the plan says so, as that service waits for it.
    `programs A → B` tells that those of another version run; the names are made of what they were
    compiled from.
    """
    from ebpfmesh import apply

    found: list[Operation] = []

    def tell(name: str, steps: "Iterable[Operation]", warnings: Iterable[str] = ()) -> None:
        found.extend(steps)
        output.operations(name, steps, output.step, warnings=warnings)

    if rollback:
        name = _of_rollback(file, no_prune=no_prune)
        tell(name, apply.plan_revert(name))
    else:

        def show(wanted: "Mesh") -> None:
            steps = apply.plan(wanted, prune=not no_prune)
            tell(wanted.name, steps, _warnings(wanted, steps))

        each(file, show)
    if tells and found:
        click.get_current_context().exit(CHANGES)


@click.command(
    "compile",
    cls=Command,
    examples=(
        "ebpfmesh compile",
        "ebpfmesh -v compile",
        "ebpfmesh compile --json",
    ),
)
def compile_() -> None:
    """Compile the programs now, so that no `up` has to.

    `make setup` does it. They are kept beside the installation, for all meshes; a new version is
    compiled again. If EBPFMESH_COMPILED names a directory they are kept there, by any `up` too;
    only root may write there. If it is empty, every `up` compiles.
    """
    from ebpfmesh import apply

    need_change("compile")
    with output.steps("compile") as step:
        place, done = apply.compile_ahead(step)
    if settings().json:
        output.data(directory=place, compiled=done)
        return
    for name in done:
        output.done(f"+ program {name}")
    output.done(f"{'kept in' if done else 'nothing to do: all are kept in'} {place}")


@click.command(
    cls=Command,
    examples=("ebpfmesh down", "ebpfmesh -v down --mesh edge", "ebpfmesh down --all"),
)
@click.option("--all", "every", is_flag=True, help="All meshes that there are.")
def down(*, every: bool) -> None:
    """Remove the mesh and all that was made for it.

    Commands of functions are ended. A mesh that is not there is no error.
    """
    from ebpfmesh.observe import view

    need_change("down")
    if every and settings().mesh:
        hint = "leave out one of them (is EBPFMESH_MESH set?)"
        raise UsageError("--all and --mesh cannot both be meant", hint=hint)
    if not settings().mesh and not view.left():
        output.say("no mesh is up")
    elif every:
        for_all(view.left(), _down)
    else:
        _down(settings().mesh or view.only_mesh(view.meshes() or view.left()))


def _down(name: str) -> None:
    from ebpfmesh import apply

    with output.steps(f"mesh {name}") as step:
        removed = apply.down(name, step)
    if settings().json:
        output.data(mesh=name, removed=bool(removed), notes=removed[1:])
        return
    for line in removed:
        output.done(f"- {line}")
    if not removed:
        output.say(f"there is no mesh {name}")


@click.command(cls=Command, examples=("ebpfmesh gc", "ebpfmesh gc --json", "ebpfmesh gc -v"))
def gc() -> None:
    """Remove what is left of meshes and functions that no longer work.

    After a crash, a container that is gone, or an interface removed under us. Touches only what
    is ours.
    """
    from ebpfmesh import apply

    need_change("gc")
    with output.steps("looking for leftovers") as step:
        removed = apply.gc(step)
    if settings().json:
        output.data(removed=removed)
        return
    for line in removed:
        output.done(f"- {line}")
    if not removed:
        output.done("nothing to do")


COMMANDS = (up, plan, compile_, down, gc)
