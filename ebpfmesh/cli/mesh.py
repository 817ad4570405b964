# SPDX-License-Identifier: BSD-2-Clause
"""Commands for a whole mesh: up, plan, down, gc; and compile, for all of them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import click

from ebpfmesh.cli import output
from ebpfmesh.cli.base import Command, settings
from ebpfmesh.cli.choose import check_file_mesh, need_change
from ebpfmesh.errors import MeshError

CHANGES = 8
"""Exit code of `plan --exit-code` if there are any."""
FILE = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@click.command(
    cls=Command,
    examples=(
        "ebpfmesh up examples/edge.toml",
        "ebpfmesh -v up examples/edge.toml",
        "ebpfmesh --json up examples/edge.toml",
    ),
)
@FILE
def up(file: Path) -> None:
    """Make the mesh as FILE says.

    Only what differs is done, and told; a second time there is nothing to do. If it fails, the
    mesh is as it was before.

    Programs are compiled unless they are kept from before: see `ebpfmesh compile`.
    """
    from ebpfmesh import apply, config, model

    need_change("up")
    wanted = config.load(file)
    check_file_mesh(file, wanted.name)
    with _located(file), output.steps(f"mesh {wanted.name}") as step:
        done = apply.up(wanted, step)
    output.operations(wanted.name, done, warnings=model.warnings(wanted))


@contextlib.contextmanager
def _located(file: Path) -> Iterator[None]:
    """What goes wrong with a function of a mesh file is told with its line."""
    from ebpfmesh import config

    try:
        yield
    except MeshError as error:
        for one in (error, *error.others):
            config.locate(one, file)
        raise


@click.command(
    cls=Command,
    examples=(
        "ebpfmesh plan examples/edge.toml",
        "ebpfmesh plan examples/edge.toml --json",
        "ebpfmesh plan examples/edge.toml --exit-code || echo changed",
    ),
)
@FILE
@click.option("--exit-code", "tells", is_flag=True, help="Exit with 8 if there are changes.")
def plan(file: Path, *, tells: bool) -> None:
    """Show what `up FILE` would do, and do nothing.

    A function that has another command or other limits is made anew: it goes, and comes again.
    """
    from ebpfmesh import apply, config, model

    wanted = config.load(file)
    check_file_mesh(file, wanted.name)
    with _located(file):
        found = apply.plan(wanted)
    output.operations(wanted.name, found, output.step, warnings=model.warnings(wanted))
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


COMMANDS = (up, plan, compile_, down, gc)
