# SPDX-License-Identifier: BSD-2-Clause
"""Command lines taken apart as click does it before it runs anything."""

import re
import shlex
from collections.abc import Iterator

import click

from ebpfmesh.cli.base import Group, Settings
from ebpfmesh.cli.main import cli

BETWEEN = {"|", "||", "&&", ";", "&", "(", ")"}


def parse(words: list[str]) -> Settings:
    """The options for all commands; raises what click does of a line that is wrong."""
    settings = Settings()
    command: click.Command = cli
    parent: click.Context | None = None
    name = "ebpfmesh"
    while True:
        parent = command.make_context(name, words, parent=parent, obj=settings)
        if not isinstance(command, Group):
            return settings
        words = [*parent._protected_args, *parent.args]
        if command.invoke_without_command and not words:
            return settings
        name, command, words = command.resolve_command(parent, words)


def calls(line: str) -> Iterator[list[str]]:
    """Of a line for a shell the words of each ebpfmesh in it, without redirections."""
    line = re.sub(r"\$\([^)]*\)", "1", line)
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;()<>")
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    for word in [*_without_comment(lexer), ";"]:
        if word not in BETWEEN:
            words.append(word)
            continue
        while words and "=" in words[0]:  # variables
            del words[0]
        if words and words[0].rpartition("/")[2] == "ebpfmesh":
            yield list(_without_redirections(words[1:]))
        words = []


def _without_comment(words: Iterator[str]) -> Iterator[str]:
    for word in words:
        if word.startswith("#"):
            return
        yield word


def _without_redirections(words: list[str]) -> Iterator[str]:
    given = iter(words)
    for word in given:
        if set(word) <= set("<>&"):
            next(given, None)
        else:
            yield word
