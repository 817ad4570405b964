# SPDX-License-Identifier: BSD-2-Clause
"""Commands for a whole mesh: up, plan, down, gc; and compile, for all of them."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ebpfmesh.cli import output
from ebpfmesh.cli.base import Command, settings
from ebpfmesh.cli.choose import check_file_mesh, need_change, the_mesh
from ebpfmesh.errors import MeshError, UsageError

if TYPE_CHECKING:
    from ebpfmesh.config.file import Document
    from ebpfmesh.model import Mesh

CHANGES = 8
"""Exit code of `plan --exit-code` if there are any."""
FILE = click.argument("file", type=click.Path(path_type=Path, allow_dash=True), required=False)
ROLLBACK = click.option(
    "--rollback", is_flag=True, help="Without FILE: return to the programs of the version before."
)


@click.command(
    cls=Command,
    examples=(
        "ebpfmesh up examples/edge.toml",
        "ebpfmesh -v up examples/edge.toml --json",
        "ebpfmesh export | ebpfmesh up -",
    ),
)
@FILE
@ROLLBACK
def up(file: Path | None, *, rollback: bool) -> None:
    """Make the mesh as FILE says.

    FILE is a mesh file, `-` for standard input, or a directory, of which all *.toml are one mesh.
    Only what differs is done, and told; a second time there is nothing to do. If it fails, the
    mesh is as it was before.

    Programs are compiled unless they are kept from before: see `ebpfmesh compile`. A mesh that
    runs programs of another version gets those of this one, each in the place of the old one, while
    packets flow; `--rollback` puts the old ones back, until the next `up FILE`.
    """
    from ebpfmesh import apply, model

    need_change("up")
    if file is None or rollback:
        name = _of_rollback(file, rollback=rollback)
        with output.steps(f"mesh {name}") as step:
            done = apply.revert(name, step)
        output.operations(name, done)
        return
    wanted, documents = _read(file)
    with _located(documents), output.steps(f"mesh {wanted.name}") as step:
        done = apply.up(wanted, step)
    output.operations(wanted.name, done, warnings=model.warnings(wanted))


def _of_rollback(file: Path | None, *, rollback: bool) -> str:
    """The mesh whose programs are to be those of before; UsageError if that was not asked for."""
    if not rollback:
        raise click.MissingParameter(param_type="argument", param_hint="'FILE'")
    if file is not None:
        what = f"{file}: a mesh file has no say in a rollback, which changes programs alone"
        raise UsageError(what, hint="leave it out; --mesh says which mesh")
    return the_mesh()


def _read(file: Path) -> "tuple[Mesh, Sequence[Document]]":
    """The mesh of FILE, and what it was read from."""
    from ebpfmesh import config

    documents = config.read(file)
    wanted = config.mesh_of(documents)
    check_file_mesh(file, wanted.name)
    return wanted, documents


@contextlib.contextmanager
def _located(documents: "Sequence[Document]") -> Iterator[None]:
    """What goes wrong with a function of a mesh file is told with its line."""
    from ebpfmesh import config

    try:
        yield
    except MeshError as error:
        for one in (error, *error.others):
            config.locate(one, documents)
        raise


@click.command(
    cls=Command,
    examples=(
        "ebpfmesh plan examples/edge.toml",
        "ebpfmesh plan examples/edge.toml --json --exit-code || echo changed",
        "ebpfmesh plan --rollback",
    ),
)
@FILE
@ROLLBACK
@click.option("--exit-code", "tells", is_flag=True, help="Exit with 8 if there are changes.")
def plan(file: Path | None, *, rollback: bool, tells: bool) -> None:
    """Show what `up FILE` would do, or `up --rollback`, and do nothing.

    A function that has another command or address is made anew: it goes, and comes again. Limits,
    tenant and audit change where it is.
    `programs A → B` tells that those of another version run; the names are made of what they were
    compiled from.
    """
    from ebpfmesh import apply, model

    if file is None or rollback:
        name = _of_rollback(file, rollback=rollback)
        found = apply.plan_revert(name)
        output.operations(name, found, output.step)
    else:
        wanted, documents = _read(file)
        with _located(documents):
            found = apply.plan(wanted)
        output.operations(wanted.name, found, output.step, warnings=model.warnings(wanted))
    if tells and found:
        click.get_current_context().exit(CHANGES)


@click.command(
    cls=Command,
    examples=(
        "ebpfmesh export >edge.toml",
        "ebpfmesh export --mesh edge -o .",
        "ebpfmesh export | ebpfmesh plan -",
    ),
)
@click.option(
    "-o", "--output", "to", metavar="FILE", type=click.Path(path_type=Path, writable=True),
    help="Write it to a file; or to a directory, what is injected beside it.",
)  # fmt: skip
def export(to: Path | None) -> None:
    """Print the mesh that is up as a mesh file.

    `up` of that file finds nothing to do, and makes the same mesh elsewhere. The texts of injected
    functions stand in it; in a directory, as MESH.toml, they are files beside it. Comments say what
    a file cannot.
    """
    from ebpfmesh import apply
    from ebpfmesh.config import write

    need_change("export")
    name = the_mesh()
    mesh = apply.snapshot(name)
    if to is None:
        whole = write.text(*mesh)
        output.data(mesh=name, text=whole) if settings().json else output.text(whole)
        return
    if not to.parent.is_dir():
        what = f"{to}: there is no directory {to.parent}"
        raise UsageError(what, hint="make it, or choose another place")
    texts = write.files(*mesh) if to.is_dir() else {"": write.text(*mesh)}
    written = [to / file for file in texts]
    for path, whole in zip(written, texts.values(), strict=True):
        with click.open_file(path, "w", encoding="utf-8", atomic=path.is_file()) as stream:
            stream.write(whole)
    if settings().json:
        output.data(mesh=name, files=list(map(str, written)))
    for path in [] if settings().json else written:
        output.done(f"+ file {path}")


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
    examples=("ebpfmesh down", "ebpfmesh down --mesh edge", "ebpfmesh -v --mesh edge down"),
)
def down() -> None:
    """Remove the mesh and all that was made for it.

    Commands of functions are ended. A mesh that is not there is no error.
    """
    from ebpfmesh import apply
    from ebpfmesh.observe import view

    need_change("down")
    if not settings().mesh and not view.left():
        output.say("no mesh is up")
        return
    name = settings().mesh or view.only_mesh(view.meshes() or view.left())
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


COMMANDS = (up, plan, export, compile_, down, gc)
