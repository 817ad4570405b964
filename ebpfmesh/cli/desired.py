# SPDX-License-Identifier: BSD-2-Clause
"""What a mesh shall be, as commands are given it, and the command that writes what it is."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from ebpfmesh.cli import output
from ebpfmesh.cli.base import Command, settings
from ebpfmesh.cli.choose import check_file_mesh, need_change, the_mesh
from ebpfmesh.errors import MeshError, UsageError

if TYPE_CHECKING:
    from ebpfmesh.config.documents import Document
    from ebpfmesh.model import Mesh

_Item = TypeVar("_Item")
FILE = click.argument("file", type=click.Path(path_type=Path, allow_dash=True), required=False)
NO_PRUNE = click.option(
    "--no-prune", is_flag=True, help="Leave functions, services, … that FILE does not name."
)


def each(file: Path | None, do: "Callable[[Mesh], None]") -> None:
    """Do it with the mesh of FILE; without, with each that is described in /etc/ebpfmesh."""
    from ebpfmesh import config
    from ebpfmesh.config import home

    def read(path: Path) -> None:
        documents = config.read(path)
        wanted = config.mesh_of(documents)
        check_file_mesh(path, wanted.name)
        if file is None:
            home.check_name(path, wanted.name)
        with _located(documents):
            do(wanted)

    if file is None:
        for_all(home.described(settings().mesh).values(), read)
    else:
        read(file)


def for_all(items: Iterable[_Item], do: Callable[[_Item], None]) -> None:
    """Do it with each; what goes wrong with one keeps no other, and is told in the end."""
    errors: list[MeshError] = []
    for item in items:
        try:
            do(item)
        except MeshError as error:
            errors += [error, *error.others]
    if errors:
        errors[0].others = tuple(errors[1:])
        raise errors[0]


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
        "ebpfmesh export >edge.toml",
        "ebpfmesh export --mesh edge -o .",
        "ebpfmesh export | ebpfmesh plan -",
    ),
)
@click.option(
    "-o", "--output", "to", metavar="FILE", type=click.Path(path_type=Path),
    help="Write it to a file; or to a directory, what is injected beside it.",
)  # fmt: skip
def export(to: Path | None) -> None:
    """Print the mesh that is up as a mesh file.

    `up` of that file finds nothing to do, and makes the same mesh elsewhere. The texts of injected
    functions stand in it; in a directory, as MESH.toml, they are files beside it. Comments say what
    a file cannot. With `-o /etc/ebpfmesh` it is what `up` without a file makes, at boot.
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
    before = os.umask(0)
    os.umask(before | 0o022)  # whoever may write it says what root runs
    try:
        for path, whole in zip(written, texts.values(), strict=True):
            with click.open_file(path, "w", encoding="utf-8", atomic=path.is_file()) as stream:
                stream.write(whole)
    finally:
        os.umask(before)
    if settings().json:
        output.data(mesh=name, files=list(map(str, written)))
        return
    for path in written:
        output.done(f"+ file {path}")


COMMANDS = (export,)
