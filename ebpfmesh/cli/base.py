# SPDX-License-Identifier: BSD-2-Clause
"""What all commands share: the options that go before or after any of them, and examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from ebpfmesh.cli import complete
from ebpfmesh.cli.complete import Completer


@dataclass
class Settings:
    """The shared options, as given anywhere on the line or in the environment."""

    mesh: str = ""
    json: bool = False
    verbose: bool = False
    quiet: bool = False
    no_color: bool = False


def settings() -> Settings:
    """The settings of the command that runs."""
    return click.get_current_context().ensure_object(Settings)


def _remember(context: click.Context, option: click.Parameter, value: object) -> None:
    if isinstance(value, str):
        from ebpfmesh.model import check_mesh_name  # costs time, and is seldom given

        check_mesh_name(value)
    if value and option.name:
        setattr(context.ensure_object(Settings), option.name, value)
    if option.name == "no_color" and value:
        context.color = False


def _shared(
    *names: str, text: str, metavar: str | None = None, offer: Completer | None = None
) -> click.Option:
    """An option of every command; only the first command of the line asks the environment."""
    return click.Option(
        names, metavar=metavar, help=text, is_flag=metavar is None, callback=_remember,
        expose_value=False, is_eager=True, allow_from_autoenv=False, shell_complete=offer,
        envvar=f"EBPFMESH_{names[-1].removeprefix('--').replace('-', '_').upper()}",
    )  # fmt: skip


SHARED = (
    _shared(
        "--mesh",
        metavar="NAME",
        text="The mesh; needed if there are several.",
        offer=complete.meshes,
    ),
    _shared("-j", "--json", text="Print JSON."),
    _shared("-v", "--verbose", text="Print every step to stderr."),
    _shared("-q", "--quiet", text="Print only errors and what is asked for."),
    _shared("--no-color", text="No colours."),
)


class _Sharing(click.Command):
    """Takes the shared options, and shows examples at the end of its help."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.examples = examples

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *SHARED]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own = [p for p in self.get_params(ctx) if isinstance(p, click.Option) and p not in SHARED]
        for title, params in (("Options", own), ("Options of every command", SHARED)):
            records = [record for p in params if (record := p.get_help_record(ctx))]
            with formatter.section(title):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.examples:
            with formatter.section("Examples"):
                formatter.write("".join(f"  {line}\n" for line in self.examples))
        super().format_epilog(ctx, formatter)


class Command(_Sharing):
    """A command of ebpfmesh."""


class Group(_Sharing, click.Group):
    """A command that has commands."""

    command_class = Command
    group_class = type

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Options, and then the commands."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


WAIT = click.option(
    "--wait", metavar="SECONDS", type=click.FloatRange(min=0), help="For functions to get ready."
)
NO_WAIT = click.option("--no-wait", is_flag=True, help="They get flows at once, ready or not.")
