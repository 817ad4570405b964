# SPDX-License-Identifier: BSD-2-Clause
"""Functions and services, and how much of everything a mesh has room for."""

import re
from collections.abc import Collection, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Literal, NamedTuple, Self, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from ebpfmesh.model.base import (
    Address,
    Invalid,
    Model,
    Name,
    Port,
    check_address,
    few,
    integer,
    repeated,
    show,
)
from ebpfmesh.model.pool import Pool
from ebpfmesh.model.ports import port_prefixes
from ebpfmesh.model.rate import Rate, rate_field
from ebpfmesh.model.readiness import Health, Ready
from ebpfmesh.model.uplink import Published, check_published, on

BYTES = WithJsonSchema(
    {
        "anyOf": [
            {"type": "integer", "minimum": 4096},
            {"type": "string", "pattern": "^[0-9]+[KMGT]?$"},
        ]
    }
)
Weight = Annotated[int, Field(ge=0, le=100, description="an integer from 0 to 100")]
Capability = Literal[
    "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "NET_BIND_SERVICE", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "SYS_CHROOT", "SYS_NICE",
]  # fmt: skip
"""What a command may ask for: no more than its own namespaces and files are worth."""
USER = "^([a-z_][a-z0-9_-]{0,31}|[0-9]{1,9})(:([a-z_][a-z0-9_-]{0,31}|[0-9]{1,9}))?$"
Datapath = Literal["tc", "af_xdp", "xdp"]
StopSignal = Literal[
    "SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGKILL"
]
SOURCE_CHARACTERS = 256 << 10
"""Of the text of a program."""
FRAMES, FRAME, QUEUES = 4096, 2048, 16
"""Packets that a queue of AF_XDP has room for, the bytes that each takes, and most queues."""
STOP_SECONDS = 30
"""The longest stop: half as long as one change of a mesh waits for another."""
LIFE = ("restart", "stop_signal", "stop_seconds", "drain_seconds")
"""Keys about how a command is started and ended, which may change while it runs."""
SANDBOX = (
    "user", "env", "workdir", "volumes", "rootfs", "image", "capabilities", "pids", "tmp",
)  # fmt: skip
"""Keys about the sandbox of a command."""
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_bytes(value: object, info: ValidationInfo) -> object:
    """Bytes of a text such as ``64M``; anything but a string is left to the field's own checks."""
    if not isinstance(value, str):
        return value
    if not (match := re.fullmatch(r"([0-9]{1,15})([KMGT]?)", value)):
        hint = 'a number of bytes, or a string such as "512K", "64M" or "1G"'
        raise Invalid(f'"{info.field_name}" cannot be {show(value)}', hint=hint)
    return int(match[1]) * _UNITS[match[2]]


def memory_text(size: int) -> str:
    """Bytes as people write them, exactly: ``64M``."""
    unit = max((u for u in _UNITS if size % _UNITS[u] == 0), key=_UNITS.__getitem__)
    return f"{size // _UNITS[unit]}{unit}"


def power_of_two(number: int) -> int:
    """The number, if it is one; raises Invalid."""
    if number & number - 1:
        hint = f"{1 << number.bit_length() - 1} or {1 << number.bit_length()}"
        raise Invalid(f"{number} is no power of two", hint=hint)
    return number


def _command(words: tuple[str, ...]) -> tuple[str, ...]:
    """A command the kernel can execute: a program, and no NUL in any word."""
    for index, word in enumerate(words):
        if "\0" in word or not (word or index):
            hint = 'the program and its arguments, such as ["iperf3", "-s"]'
            raise Invalid(f'"command" cannot hold {show(word)} here', path=(index,), hint=hint)
    return words


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise Invalid(f"it cannot hold {show(text)}", hint="leave out the NUL")
    return text


def _environment(values: dict[str, str]) -> dict[str, str]:
    for name, value in values.items():
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
            hint = "letters, digits and _, such as LANG"
            raise Invalid(f"a variable cannot be called {show(name)}", hint=hint)
        _no_nul(value)
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


def _volumes(texts: tuple[str, ...]) -> tuple[str, ...]:
    for index, text in enumerate(texts):
        try:
            Volume.parse(_no_nul(text))
        except Invalid as fault:
            fault.path = (index,)
            raise
    for index, _, target in repeated([Volume.parse(text).target for text in texts]):
        raise Invalid(f"there are two volumes at {target}", path=(index,), hint="leave out one")
    return texts


def _once(names: tuple[str, ...]) -> tuple[str, ...]:
    for index, _, name in repeated(names):
        raise Invalid(f"{name} is there twice", path=(index,), hint="name it once")
    return names


Publish = Annotated[
    tuple[str, ...], Field(strict=False), BeforeValidator(few), AfterValidator(check_published)
]


class Limits(Model):
    """How many entries the maps of a mesh have room for; fixed while the mesh is up.

    A range of ports takes several of ``rules`` or ``services``: one for each prefix of it. What
    ``sockets`` limited is kept with each socket now, so it is taken and has no effect.
    """

    functions: int = integer(1024, 1, 65535)
    tenants: int = integer(16, 1, 255)
    services: int = integer(1024, 1, 65535)
    rules: int = integer(16384, 1, 1 << 20)
    prefixes: int = integer(1024, 1, 1 << 16)
    flows: int = integer(28672, 512, 1 << 21)
    half_open: int = integer(4096, 256, 1 << 20)
    fragments: int = integer(4096, 64, 1 << 20)
    sockets: int = integer(8192, 64, 1 << 20)


class Timeouts(Model):
    """Seconds that a flow without packets lives; they may change while the mesh is up."""

    handshake: int = integer(60, 1, 1 << 24)
    established: int = integer(432000, 1, 1 << 24)
    closing: int = integer(120, 1, 1 << 24)
    udp: int = integer(120, 1, 1 << 24)
    icmp: int = integer(30, 1, 1 << 24)


class Endpoint(Model):
    """What packets can be sent to by name; ``None`` for an address: none of that family."""

    name: Name
    address4: Annotated[IPv4Address, AfterValidator(check_address)] | None = None
    address6: Annotated[IPv6Address, AfterValidator(check_address)] | None = None

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Its addresses, IPv4 first: one or two."""
        return tuple(a for a in (self.address4, self.address6) if a is not None)

    @model_validator(mode="after")
    def _has_address(self) -> Self:
        if not self.addresses:
            raise Invalid("it has no address", hint="give it an IPv4 or an IPv6 address")
        return self


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
        tuple[str, ...], Field(strict=False), BeforeValidator(few), AfterValidator(_command)
    ] = Field(default=(), description='an array of strings, such as ["iperf3", "-s"]')
    user: str | None = Field(
        default=None, pattern=USER, max_length=64, description='such as "www-data" or "1000:1000"'
    )
    env: Annotated[dict[str, str], BeforeValidator(few), AfterValidator(_environment)] = Field(
        default={}, description='a table of strings, such as {LANG = "C.UTF-8"}'
    )
    workdir: Annotated[str, AfterValidator(_no_nul)] | None = Field(
        default=None, pattern="^/", max_length=4095, description="an absolute path"
    )
    volumes: Annotated[
        tuple[str, ...], Field(strict=False), BeforeValidator(few), AfterValidator(_volumes)
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
    capabilities: Annotated[tuple[Capability, ...], Field(strict=False), AfterValidator(_once)] = (
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


class Service(Endpoint):
    """A stable address and port in front of functions, or a range of ports.

    ``functions`` are the names of its backends, or of groups of them. It may be empty: a service
    without backends is there and refuses, as while its last function is being replaced. A range
    has ``ports`` ports from ``port`` on, which become as many from ``target_port`` on.

    Of new flows each backend gets a part by its weight: 1 if ``weights`` does not say, its own or
    its group's, none with 0, while what it has stays. With ``affinity`` "source" a client's address
    alone chooses. ``backends`` are the functions behind it with their weights; a mesh as people
    write it has none: see ``backed``. ``publish`` says on which ports of uplinks the outside
    reaches it, each a ``Published``.
    """

    port: Port
    target_port: Port
    ports: int = integer(1, 1, 65535)
    protocol: Literal["tcp", "udp"] = "tcp"
    functions: tuple[Name, ...] = ()
    affinity: Literal["none", "source"] = Field(default="none", description='"none" or "source"')
    weights: dict[Name, Weight] = Field(
        default_factory=dict, description="a table of integers from 0 to 100, such as {web-1 = 0}"
    )
    backends: dict[Name, Weight] = Field(default_factory=dict)
    publish: Publish = ()

    @property
    def published(self) -> tuple[Published, ...]:
        """Where the outside reaches it."""
        return tuple(map(Published.parse, self.publish))

    def published_on(self, uplinks: Collection[str]) -> "Service":
        """The same, published on these uplinks alone."""
        kept = on(self.publish, uplinks)
        return self if kept == self.publish else self.model_copy(update={"publish": kept})

    @property
    def entries(self) -> int:
        """How much it takes of limits.services: one for each prefix of its ports."""
        ranges = [(self.port, self.last_port), *(one[1:] for one in self.published)]
        return sum(len(port_prefixes(*ports)) for ports in ranges)

    @property
    def last_port(self) -> int:
        """The last of its ports."""
        return self.port + self.ports - 1

    @property
    def shift(self) -> int:
        """What is added to a port of its own to make the backend's."""
        return self.target_port - self.port

    @property
    def frontends(self) -> tuple[tuple[Address, int, int, str], ...]:
        """What clients connect to: (address, first port, last, protocol), one for each address."""
        ports = self.port, self.last_port
        return tuple((address, *ports, self.protocol) for address in self.addresses)

    def backed(self, groups: Mapping[str, tuple[str, ...]]) -> "Service":
        """The service with its ``backends``, and the ``weights`` that make a difference to them."""
        backends, weights = {}, dict[str, int]()
        for name in self.functions:
            usual = self.weights.get(name, 1)
            weights |= {name: usual} if usual != 1 else {}
            for function in groups.get(name, (name,)):
                backends[function] = self.weights.get(function, usual)
                weights |= {function: backends[function]} if backends[function] != usual else {}
        return self.model_copy(update={"backends": backends, "weights": weights})

    def only(self, names: Collection[str]) -> "Service":
        """The service with those of its functions, groups and backends that are among ``names``."""
        kept = tuple(name for name in self.functions if name in names)
        weights = {name: weight for name, weight in self.weights.items() if name in names}
        backends = {name: weight for name, weight in self.backends.items() if name in names}
        update = {"functions": kept, "weights": weights, "backends": backends}
        return self.model_copy(update=update)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        for index, _, name in repeated(self.functions):
            path = ("functions", index)
            raise Invalid(f'"functions" names "{name}" twice', path=path, hint="name it once")
        for key, first in (("port", self.port), ("target_port", self.target_port)):
            if first + self.ports - 1 > 65535:
                what = f'"{key}" cannot be {self.ports} ports from {first} on'
                raise Invalid(what, path=(key,), hint="ports end at 65535")
        for index, one in enumerate(self.published):
            if one.last - one.first != self.ports - 1:
                what = f'"publish" has {one.last - one.first + 1} ports in {one}, '
                what += f"the service has {self.ports}"
                hint = "a range becomes one of the same length"
                raise Invalid(what, path=("publish", index), hint=hint)
        return self
