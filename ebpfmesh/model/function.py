# SPDX-License-Identifier: BSD-2-Clause
"""A function: a container of the mesh, and what runs in it."""

from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ebpfmesh.model.base import Invalid, Model, Name, few, integer
from ebpfmesh.model.command import (
    LIFE,
    SANDBOX,
    STOP_SECONDS,
    USER,
    Capability,
    StopSignal,
    check_command,
    check_environment,
    check_volumes,
    no_nul,
    once,
)
from ebpfmesh.model.endpoint import Endpoint
from ebpfmesh.model.pool import Pool
from ebpfmesh.model.rate import Rate, rate_field
from ebpfmesh.model.readiness import Health, Ready
from ebpfmesh.model.sizes import BYTES, memory_text, parse_bytes, power_of_two

Datapath = Literal["tc", "af_xdp", "xdp"]
SOURCE_CHARACTERS = 256 << 10
"""Of the text of a program."""
FRAMES, FRAME, QUEUES = 4096, 2048, 16
"""Packets that a queue of AF_XDP has room for, the bytes that each takes, and most queues."""


class FunctionSettings(Model):
    """What a function may have besides its name and addresses."""

    tenant: Name = "default"
    cpu: float | None = Field(
        default=None, ge=0.01, le=8192, description="a number of CPUs from 0.01 to 8192"
    )
    memory: Annotated[int, BeforeValidator(parse_bytes), BYTES] | None = Field(
        default=None, ge=4096, le=1 << 50, description='4096 or more, such as "64M" or "1G"'
    )
    rate: Rate | None = rate_field()
    datapath: Datapath = Field(default="tc", description='"tc", "af_xdp" or "xdp"')
    frames: Annotated[int, AfterValidator(power_of_two)] = integer(FRAMES, 64, 1 << 16)
    queues: int = integer(1, 1, QUEUES)
    frames_in: Name | None = Field(default=None, description="the name of a pool")
    program: str | None = Field(
        default=None, min_length=1, max_length=4095,
        description="a C file, by its path from the mesh file",
    )  # fmt: skip
    source: str | None = Field(
        default=None, max_length=SOURCE_CHARACTERS, description="C, as a file would hold it"
    )
    audit: bool = Field(default=False, description="true or false")
    netns: str | None = Field(
        default=None,
        pattern=r"^(/[\x21-\x7e]+|[A-Za-z0-9][A-Za-z0-9._:@+-]*)$",
        max_length=4095,
        description="a name under /run/netns, or an absolute path",
    )
    command: Annotated[
        tuple[str, ...], Field(strict=False), BeforeValidator(few), AfterValidator(check_command)
    ] = Field(default=(), description='an array of strings, such as ["iperf3", "-s"]')
    user: str | None = Field(
        default=None, pattern=USER, max_length=64, description='such as "www-data" or "1000:1000"'
    )
    env: Annotated[dict[str, str], BeforeValidator(few), AfterValidator(check_environment)] = Field(
        default={}, description='a table of strings, such as {LANG = "C.UTF-8"}'
    )
    workdir: Annotated[str, AfterValidator(no_nul)] | None = Field(
        default=None, pattern="^/", max_length=4095, description="an absolute path"
    )
    volumes: Annotated[
        tuple[str, ...], Field(strict=False), BeforeValidator(few), AfterValidator(check_volumes)
    ] = Field(
        default=(), description='an array of "PATH", "SOURCE:PATH", "SOURCE:PATH:rw" or "tmp:PATH"'
    )
    rootfs: str | None = Field(
        default=None,
        pattern=r"^/[^:,\\\x00]*$",
        max_length=4095,
        description="an absolute path, without : , and \\",
    )
    image: str | None = Field(
        default=None,
        pattern="^[a-zA-Z0-9][a-zA-Z0-9._:/@-]*$",
        max_length=512,
        description="the name of an image",
    )
    capabilities: Annotated[tuple[Capability, ...], Field(strict=False), AfterValidator(once)] = (
        Field(default=(), description=f"an array of {', '.join(get_args(Capability))}")
    )
    ready: Ready | None = Field(default=None, description="a table, such as {port = 8080}")
    health: Health | None = Field(default=None, description="a table, such as {interval = 10}")
    pids: int = integer(1024, 1, 1 << 22)
    tmp: Annotated[int, BeforeValidator(parse_bytes), BYTES] = Field(
        default=64 << 20, ge=4096, le=1 << 50, description='4096 or more, such as "64M" or "1G"'
    )
    privileged: bool = Field(default=False, description="true or false")

    restart: Literal["no", "on-failure", "always"] = Field(
        default="no", description='"no", "on-failure" or "always"'
    )
    stop_signal: StopSignal = Field(
        default="SIGTERM", description=f"one of {', '.join(get_args(StopSignal))}"
    )
    stop_seconds: int = integer(3, 0, STOP_SECONDS)
    drain_seconds: int = integer(10, 0, 300)

    @property
    def has_frames(self) -> bool:
        """Whether frames for it meet XDP at its own interface."""
        return self.datapath != "tc"

    @property
    def sandboxed(self) -> bool:
        """Whether its command has a sandbox."""
        return bool(self.command) and not self.privileged

    @model_validator(mode="after")
    def _has_what_to_probe(self) -> Self:
        for key, probe in (("ready", self.ready), ("health", self.health)):
            inside = probe and probe.kind in ("command", "file")
            if probe and inside and not self.command:
                what = f'"{key}" looks inside of a command, and there is none'
                raise Invalid(what, path=(key, probe.kind), hint="give it a command, or a port")
            if probe and probe.kind == "port" and self.datapath == "af_xdp":
                what = f'"{key}" looks for a socket, and datapath = "af_xdp" has none at a port'
                raise Invalid(what, path=(key, "port"), hint="name a file or a command instead")
        if self.ready and not self.ready.kind and not self.command:
            hint = "give it a port, or leave out ready"
            what = '"ready" does not say what is waited for, and there is no command'
            raise Invalid(what, path=("ready",), hint=hint)
        return self

    @model_validator(mode="after")
    def _has_who_takes_frames(self) -> Self:
        if self.datapath == "af_xdp" and not (self.command or self.netns):
            what = 'datapath = "af_xdp" hands packets to a command, and there is none'
            hint = "give it a command or the netns of a container, or leave out datapath"
            raise Invalid(what, path=("datapath",), hint=hint)
        for key, usual in (("frames", FRAMES), ("queues", 1), ("frames_in", None)):
            if self.datapath != "af_xdp" and getattr(self, key) != usual:
                what = f'"{key}" is about datapath = "af_xdp"'
                hint = f'say datapath = "af_xdp", or leave out {key}'
                raise Invalid(what, path=(key,), hint=hint)
        room = 0 if self.frames_in else self.frames * self.queues * FRAME
        if self.datapath == "af_xdp" and self.memory is not None and self.memory <= room:
            what = f"{room // FRAME} frames take {memory_text(room)}, and it may use no more"
            raise Invalid(what, path=("memory",), hint="raise memory, or lower frames")
        return self

    @model_validator(mode="after")
    def _has_frames_for_a_program(self) -> Self:
        key = "program" if self.program is not None else "source"
        if getattr(self, key) is None:
            return self
        if self.datapath != "xdp":
            what = f'"{key}" is about datapath = "xdp"'
            raise Invalid(what, path=(key,), hint=f'say datapath = "xdp", or leave out {key}')
        if self.command:
            what = f'"{key}" is all of a function, and a command would be another'
            raise Invalid(what, path=("command",), hint=f"leave out command, or {key}")
        return self

    @model_validator(mode="after")
    def _has_a_sandbox_to_set(self) -> Self:
        fields = type(self).model_fields
        given = [key for key in (*SANDBOX, *LIFE) if getattr(self, key) != fields[key].default]
        if given and not self.command:
            what = f'"{given[0]}" is about a command, and there is none'
            raise Invalid(
                what, path=(given[0],), hint=f"give it a command, or leave out {given[0]}"
            )
        given = [key for key in given if key in SANDBOX]
        if given and self.privileged:
            what = f'"{given[0]}" is about a sandbox, and a privileged command has none'
            hint = f"leave out {given[0]}, or privileged"
            raise Invalid(what, path=(given[0],), hint=hint)
        if self.privileged and not self.command:
            hint = "give it a command, or leave out privileged"
            raise Invalid(
                '"privileged" is about a command, and there is none',
                path=("privileged",),
                hint=hint,
            )
        if self.rootfs and self.image:
            hint = "leave out one of them"
            raise Invalid('it has both "rootfs" and "image"', path=("image",), hint=hint)
        if self.netns and (power := [one for one in self.capabilities if one.startswith("NET_")]):
            what = f"{power[0]} cannot be had in a network namespace that others made"
            raise Invalid(what, path=("capabilities",), hint="leave out netns")
        return self


class Function(FunctionSettings, Endpoint):
    """A container of the mesh, alone or of a ``group``: replicas that have one name together.

    ``pools`` are those that its command shares with others of its tenant; ``frames_in`` says in
    which of them its frames are.
    """

    group: Name | None = None
    pools: tuple[Pool, ...] = ()
