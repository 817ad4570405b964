#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Check that what comments and documents name exists: files, and functions of the code.

    scripts/names.py [ROOT]

Looked at are comments and docstrings of C, Python and shell, and the text of Markdown. Checked are

    flow.h, lib/flow.h, ebpfmesh/plan.py   the end of the path of a file
    flow_find()                            an identifier of the code
    mesh_drops, ``Mesh.function``          the same, each part of it
    bpf/lib/                               a directory

A file of others begins with linux/ (the kernel's tree, or its headers) or bcc/; where a comment
names one of these, functions in it may be theirs.

Exit: 0 all exist, 1 otherwise, each reported as FILE:LINE: NAME.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

FOREIGN = ("linux/", "bcc/")
FILE = re.compile(r"(?<![\w./*…<-])(?:[\w-]+/)*[\w-]+\.(?:c|h|py|sh|j2|md)\b(?![\w(/])")
DIRECTORY = re.compile(
    r"(?<![\w./<-])(?:bpf|ebpfmesh|tests|scripts|vagrant)/(?:[\w-]+/)*(?![\w.-])"
)
CALL = re.compile(r"(?<![\w.])([a-z]\w*)\(\)")
OURS = re.compile(r"\b(mesh_\w*[a-z0-9])\b(?!\*)")
QUOTED = re.compile(r"``([A-Za-z_][\w.]*\w)(?:\(\))?``")

Comment = tuple[int, str]
"""The line at which it begins, and what it says."""


def c_parts(text: str) -> tuple[list[Comment], str]:
    """Comments of a C file, and the rest."""
    comments: list[Comment] = []

    def keep(match: re.Match[str]) -> str:
        if match[0].startswith('"'):
            return match[0]
        comments.append((text.count("\n", 0, match.start()) + 1, match[0]))
        return " "

    code = re.sub(r'"(?:\\.|[^"\\\n])*"|/\*.*?\*/|//[^\n]*', keep, text, flags=re.DOTALL)
    return comments, code


def python_parts(text: str) -> tuple[list[Comment], str]:
    """Comments and docstrings of a Python file, and the rest."""
    statements = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Expr)]
    strings = {one.lineno for one in statements if isinstance(one.value, ast.Constant)}
    comments, code = [], []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        line = token.start[0]
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and line in strings):
            comments.append((line, token.string))
        else:
            code.append(token.string)
    return comments, " ".join(code)


def shell_parts(text: str) -> tuple[list[Comment], str]:
    """Comments of a shell script, and all of it."""
    lines = enumerate(text.split("\n"), start=1)
    return [(number, line) for number, line in lines if line.lstrip().startswith("#")], text


def text_parts(text: str) -> tuple[list[Comment], str]:
    """The paragraphs of a document, and no code: what is in a fence are commands and examples."""
    outside = re.sub(r"^```.*?^```", lambda m: "\n" * m[0].count("\n"), text, flags=re.S | re.M)
    found = re.finditer(r"(?:.+\n?)+", outside)
    return [(outside.count("\n", 0, one.start()) + 1, one[0]) for one in found], ""


PARTS = {
    ".c": c_parts, ".h": c_parts, ".py": python_parts, ".sh": shell_parts, ".md": text_parts,
}  # fmt: skip


def parts(file: Path) -> tuple[list[Comment], str]:
    """What a file says in words, and its code."""
    split = PARTS.get(file.suffix)
    return split(file.read_text()) if split else ([], "")


def files(root: Path) -> list[Path]:
    """All files below ``root`` that are no caches, builds or installations."""
    skipped = {".git", ".venv", ".cache", ".hypothesis", "build", "dist", "__pycache__"}
    return [
        file
        for file in sorted(root.rglob("*"))
        if file.is_file() and not skipped & set(file.relative_to(root).parts)
    ]


def missing(root: Path) -> Iterator[str]:
    """FILE:LINE: NAME of each name that leads nowhere."""
    every = files(root)
    ends = {end for file in every for end in path_ends(file.relative_to(root))}
    said = {file: parts(file) for file in every}
    words = {word for _, code in said.values() for word in re.findall(r"\w+", code)}
    words |= {file.stem for file in every}  # a module's name
    for file, (comments, _) in said.items():
        for first, comment in comments:
            for name, at in sorted(gone(comment, ends, words), key=lambda found: found[1]):
                line = first + comment.count("\n", 0, at)
                yield f"{file.relative_to(root)}:{line}: {name}"


def path_ends(path: Path) -> Iterator[str]:
    """Names of a file, however short; those of its directories are whole and end in a slash."""
    for start in range(len(path.parts)):
        yield "/".join(path.parts[start:])
    for parent in path.parents:
        yield f"{parent}/"


def gone(comment: str, ends: set[str], words: set[str]) -> Iterator[tuple[str, int]]:
    """The names in a comment that are of no file and in no code, and where they stand."""
    for match in (*FILE.finditer(comment), *DIRECTORY.finditer(comment)):
        if match[0] not in ends and not match[0].startswith(FOREIGN):
            yield match[0], match.start()
    foreign = any(match[0].startswith(FOREIGN) for match in FILE.finditer(comment))
    for pattern in (OURS, QUOTED) if foreign else (CALL, OURS, QUOTED):
        for match in pattern.finditer(comment):
            if not words.issuperset(match[1].split(".")):
                yield match[1], match.start()


def main() -> int:
    """The command line."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]
    found = list(missing(root))
    sys.stdout.writelines(f"{line}\n" for line in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
