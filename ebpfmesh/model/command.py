# SPDX-License-Identifier: BSD-2-Clause
"""The command of a function: what it can be, and what it may have in its sandbox."""

import re
from typing import Literal, NamedTuple

from ebpfmesh.model.base import Invalid, repeated, show

Capability = Literal[
    "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "NET_BIND_SERVICE", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "SYS_CHROOT", "SYS_NICE",
]  # fmt: skip
"""What a command may ask for: no more than its own namespaces and files are worth."""
USER = "^([a-z_][a-z0-9_-]{0,31}|[0-9]{1,9})(:([a-z_][a-z0-9_-]{0,31}|[0-9]{1,9}))?$"
StopSignal = Literal[
    "SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGKILL"
]
STOP_SECONDS = 30
"""The longest stop: half as long as one change of a mesh waits for another."""
LIFE = ("restart", "stop_signal", "stop_seconds", "drain_seconds")
"""Keys about how a command is started and ended, which may change while it runs."""
SANDBOX = (
    "user", "env", "workdir", "volumes", "rootfs", "image", "capabilities", "pids", "tmp",
)  # fmt: skip
"""Keys about the sandbox of a command."""


def check_command(words: tuple[str, ...]) -> tuple[str, ...]:
    """A command the kernel can execute: a program, and no NUL in any word."""
    for index, word in enumerate(words):
        if "\0" in word or not (word or index):
            hint = 'the program and its arguments, such as ["iperf3", "-s"]'
            raise Invalid(f'"command" cannot hold {show(word)} here', path=(index,), hint=hint)
    return words


def no_nul(text: str) -> str:
    """A text that the kernel takes; raises Invalid."""
    if "\0" in text:
        raise Invalid(f"it cannot hold {show(text)}", hint="leave out the NUL")
    return text


def check_environment(values: dict[str, str]) -> dict[str, str]:
    """Variables by name."""
    for name, value in values.items():
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
            hint = "letters, digits and _, such as LANG"
            raise Invalid(f"a variable cannot be called {show(name)}", hint=hint)
        no_nul(value)
    return values


class Volume(NamedTuple):
    """A file or directory of the host's, and where a command sees it.

    The source TMP is a new, empty directory in memory.
    """

    source: str
    target: str
    writable: bool

    @property
    def from_host(self) -> bool:
        """Whether there is a source."""
        return self.source != TMP

    @classmethod
    def parse(cls, text: str) -> "Volume":
        """What an element of ``volumes`` says; raises Invalid."""
        source, *rest = text.split(":")
        writable = rest[-1:] == ["rw"]
        target = rest[:-1] if writable or rest[-1:] == ["ro"] else rest
        volume = cls(source, target[0] if target else source, writable)
        if source == TMP and target:
            volume = cls(TMP, volume.target, writable=True)
        paths = [path for path in volume[:2] if path != TMP]
        if len(target) > 1 or not paths or not all(map(_is_plain, paths)):
            hint = 'such as "/srv/site", "/srv/site:/data:rw" or "tmp:/var/lib/nginx"'
            raise Invalid(f"a volume cannot be {show(text)}", hint=hint)
        if volume.target in _KEPT:
            hint = f"choose another place than {', '.join(_KEPT)}"
            raise Invalid(f"a volume cannot be at {volume.target}", hint=hint)
        return volume


def _is_plain(path: str) -> bool:
    """Whether a path is absolute, and leads down only."""
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return path == f"/{'/'.join(parts)}"


TMP = "tmp"
_KEPT = ("/", "/proc", "/sys", "/dev")


def check_volumes(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Volumes, each at a place of its own."""
    for index, text in enumerate(texts):
        try:
            Volume.parse(no_nul(text))
        except Invalid as fault:
            fault.path = (index,)
            raise
    for index, _, target in repeated([Volume.parse(text).target for text in texts]):
        raise Invalid(f"there are two volumes at {target}", path=(index,), hint="leave out one")
    return texts


def once(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names that are there once."""
    for index, _, name in repeated(names):
        raise Invalid(f"{name} is there twice", path=(index,), hint="name it once")
    return names
