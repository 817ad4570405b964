# SPDX-License-Identifier: BSD-2-Clause
"""What tells that a function is ready for new flows, and whether it still is."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ebpfmesh.model.base import Invalid, Model, Port, few, integer, show

KINDS = ("port", "command", "file")


def _file(path: str) -> str:
    if "\0" in path:
        raise Invalid(f"a file cannot be called {show(path)}", hint="leave out the NUL")
    return path


def _command(words: tuple[str, ...]) -> tuple[str, ...]:
    for index, word in enumerate(words):
        if "\0" in word or not (word or index):
            hint = 'the program and its arguments, such as ["test", "-e", "/run/ready"]'
            raise Invalid(f'"command" cannot hold {show(word)} here', path=(index,), hint=hint)
    return words


class Probe(Model):
    """A port that listens, a command that ends with 0, or a file that is there; or none of them."""

    port: Port | None = Field(default=None, description="an integer from 1 to 65535")
    protocol: Literal["tcp", "udp"] = Field(default="tcp", description='"tcp" or "udp"')
    command: Annotated[
        tuple[str, ...], Field(strict=False), BeforeValidator(few), AfterValidator(_command)
    ] = Field(default=(), description='an array of strings, such as ["test", "-e", "/run/ready"]')
    file: Annotated[str, AfterValidator(_file)] | None = Field(
        default=None, pattern="^/", max_length=4095, description="an absolute path"
    )

    @property
    def kind(self) -> str:
        """Which of ``KINDS`` it is; empty: none."""
        return next((kind for kind in KINDS if getattr(self, kind)), "")

    def __str__(self) -> str:
        """What is waited for, such as ``port 8080``."""
        match self.kind:
            case "port":
                return f"port {self.port}" + ("/udp" if self.protocol == "udp" else "")
            case "command":
                return f"command {self.command[0]}"
            case "file":
                return f"file {self.file}"
        return ""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        given = [kind for kind in KINDS if getattr(self, kind)]
        if len(given) > 1:
            what = f'it has both "{given[0]}" and "{given[1]}"'
            raise Invalid(what, path=(given[1],), hint="leave out one of them")
        if self.protocol != "tcp" and self.kind != "port":
            what = '"protocol" is about a port, and there is none'
            raise Invalid(what, path=("protocol",), hint="add port, or leave out protocol")
        return self


class Ready(Probe):
    """When a function is ready; without a probe: when the ports listen that services send to."""

    seconds: int = integer(30, 1, 86400)


class Health(Probe):
    """When a function that was ready still is; without a probe: as it was ready."""

    interval: int = integer(5, 1, 86400)
    failures: int = integer(3, 1, 1000)
