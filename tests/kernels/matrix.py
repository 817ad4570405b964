# SPDX-License-Identifier: BSD-2-Clause
"""What matrix.toml says: the kernels, and which tests may be skipped on each."""

import functools
import platform
import tomllib
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

FILE = Path(__file__).with_name("matrix.toml")


@dataclass(frozen=True)
class Kernel:
    """A kernel of the matrix; ``skips`` are patterns of tests, by reason."""

    series: str
    package: str
    skips: dict[str, list[str]] = field(default_factory=dict)

    def allows(self, test: str, reason: str) -> bool:
        """Whether a test (FILE::NAME) may be skipped for this reason."""
        # Not fnmatch's [sets]: the names of tests have brackets of their own.
        patterns = (one.replace("[", "[[]") for one in self.skips.get(reason, ()))
        return any(fnmatchcase(test, pattern) for pattern in patterns)


@functools.cache
def kernels() -> dict[str, Kernel]:
    """The matrix, by series."""
    tables = tomllib.loads(FILE.read_text())
    return {series: Kernel(series, **table) for series, table in tables.items()}


def series_of(release: str = "") -> str:
    """What a kernel is listed under: 6.12 for 6.12.117+deb12-amd64; of the running one if empty."""
    return ".".join((release or platform.release()).split(".")[:2])


def may_skip(test: str, reason: str) -> bool:
    """Whether the matrix lets the running kernel skip a test; what is not in it may skip none."""
    kernel = kernels().get(series_of())
    return kernel is not None and kernel.allows(test, reason)
