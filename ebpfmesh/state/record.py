# SPDX-License-Identifier: BSD-2-Clause
"""The record of a mesh: what joins its names to ids, interfaces and namespaces.

An SQLite file in /run/ebpfmesh/MESH/, so that a change costs the same whatever the size and a
crash leaves the state before or after it. A row is written before the thing it stands for is made
and deleted after it is gone: what has no row is not ours. Who changes a mesh holds its lock.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from ebpfmesh.errors import NotFound
from ebpfmesh.kernel import private
from ebpfmesh.kernel.keys import Places
from ebpfmesh.kernel.netns import NetnsId
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.prefixes import Block, block_of, packed
from ebpfmesh.model import (
    Address,
    Function,
    Identity,
    Injection,
    Limits,
    Mesh,
    Policy,
    Pool,
    Probe,
    Remote,
    Scope,
    Service,
    Uplink,
    probes_of,
)
from ebpfmesh.state.tables import COMMAND, POOL, REMOTE, UPLINK, Entry, Kind, Tables

__all__ = [
    "Attachment",
    "CommandRow",
    "Entry",
    "FunctionRow",
    "InjectionRow",
    "Kind",
    "ProgramRow",
    "Record",
    "RemoteRow",
    "UplinkRow",
    "all_records",
    "pool_key",
]
RUN = Path("/run/ebpfmesh")
Split = tuple[int, int, int]
"""Ids of the program that chooses, of the one that most flows meet, and of the canary."""
Chain = tuple[int | Split, ...]
"""Ids of programs, in the order in which packets meet them."""

_FUNCTION = TypeAdapter(Function)
_SERVICE = TypeAdapter(Service)
_POLICY = TypeAdapter(Policy)
_INJECTION = TypeAdapter(Injection)


@dataclass(frozen=True)
class Attachment:
    """Where a function is: what was made for it, and what was there before.

    ``ifindex`` is 0 until the interface exists.
    """

    netns: str
    made_netns: bool
    interface: str
    made_interface: bool
    netns_inode: int = 0
    ifindex: int = 0


@dataclass(frozen=True)
class InjectionRow:
    """What is injected, with ids of programs, 0 for none.

    ``before`` is the one before it, ``canary`` the one that some flows meet, by ``split``.
    """

    injection: Injection
    program: int
    before: int
    canary: int
    split: int

    @property
    def programs(self) -> set[int]:
        """All of them."""
        return {self.program, self.before, self.canary, self.split} - {0}

    @property
    def running(self) -> set[int]:
        """Ids of those that packets meet and that somebody wrote: its own, and its canary's."""
        return {self.program, self.canary} - {0}


@dataclass(frozen=True)
class ProgramRow:
    """A program: what it was injected as last, and what ``inject`` made of its text."""

    id: int
    injection: Injection
    compiled: dict[str, Any]


@dataclass(frozen=True)
class CommandRow:
    """What there is to know of a function's command besides what the kernel does.

    ``stopped``: somebody asked for it. ``restarts``: how often it was started again by itself,
    ``failures`` how often since it last ran well. ``started`` is Unix time, 0 before it was;
    ``last_exit`` how the run before ended, None if there was none, or if nobody knows.
    """

    stopped: bool = False
    restarts: int = 0
    failures: int = 0
    started: float = 0
    last_exit: int | None = None


@dataclass(frozen=True)
class FunctionRow:
    """A function of the record; not ``ready``: it was being made or removed when work stopped."""

    mesh: str
    id: int
    function: Function
    attachment: Attachment
    ready: bool


@dataclass(frozen=True)
class UplinkRow:
    """An uplink, and what it was found to be.

    ``addresses`` are the host's there on which services are published. Not ``ready``: it was being
    made or removed when work stopped. ``ifindex`` is never 0. ``without`` is why it has no XDP
    although something would be quicker with it.
    """

    uplink: Uplink
    ifindex: int
    addresses: tuple[Address, ...]
    ready: bool
    without: str = ""

    @property
    def name(self) -> str:
        """What it is called."""
        return self.uplink.name


@dataclass(frozen=True)
class RemoteRow:
    """A remote; its id is of the same kind as a function's.

    Not ``ready``: it was being made or removed when work stopped.
    """

    id: int
    remote: Remote
    ready: bool

    @property
    def name(self) -> str:
        """What it is called."""
        return self.remote.name


_UPLINK = TypeAdapter(UplinkRow)
_REMOTE = TypeAdapter(RemoteRow)


class Record(Tables):
    """One mesh's record, open. Reading needs no lock.

    Raises NotFound if there is none, MissingPrivilege to who may not look, and what ``Tables``
    does.
    """

    def __init__(self, mesh: str) -> None:
        self.mesh = mesh
        self.directory = RUN / mesh
        path = file_of(mesh)
        if not _is_there(path):
            if Pins(mesh).exist():
                hint = "ebpfmesh up FILE makes it anew, down removes what is left"
                raise NotFound(f"the record of mesh {mesh} is lost", hint=hint)
            raise NotFound(f"there is no mesh {mesh}", hint="start it: ebpfmesh up FILE")
        super().__init__(path)
        self._inode = path.stat().st_ino

    @staticmethod
    def exists(mesh: str) -> bool:
        """Whether there is a record, be it one that cannot be read."""
        return _is_there(file_of(mesh))

    def check(self) -> None:
        """Raise UnreadableRecord unless all of it can be read."""
        self.check_pages()
        self.model()
        _ = self.home

    @property
    def is_current(self) -> bool:
        """Whether it is still the mesh's record: not once the mesh was down, be it up again."""
        try:
            return self._path.stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    def version(self) -> int:
        """Another number once another process has written."""
        return int(self._all("PRAGMA data_version")[0][0])

    def functions(self) -> list[FunctionRow]:
        """All functions, by name."""
        rows = self._all("SELECT name, ready, model, attachment FROM function ORDER BY name")
        ids = {name: number for number, name in self.names("function").items()}
        return [self._function_row(ids.get(name, 0), *rest) for name, *rest in rows]

    def function(self, name: str) -> FunctionRow | None:
        """One function, or None."""
        rows = self._all("SELECT ready, model, attachment FROM function WHERE name = ?", name)
        return self._function_row(self.find_id("function", name) or 0, *rows[0]) if rows else None

    def _function_row(self, number: int, ready: int, model: str, attachment: str) -> FunctionRow:
        where = self._read(lambda text: Attachment(**json.loads(text)), attachment)
        function = self._read(_FUNCTION.validate_json, model)
        return FunctionRow(self.mesh, number, function, where, bool(ready))

    def command(self, function: str) -> CommandRow:
        """What there is to know of a function's command."""
        rows = self._all("SELECT value FROM setting WHERE key = ?", COMMAND + function)
        return self._read(_command, rows[0][0]) if rows else CommandRow()

    def commands(self) -> dict[str, CommandRow]:
        """The same of all functions of which there is something, by name."""
        found = self._settings(COMMAND).items()
        return {name: self._read(lambda one: CommandRow(**one), value) for name, value in found}

    def pools(self) -> dict[str, int]:
        """The inode that the memory of each pool was made with, by ``pool_key``."""
        found = self._settings(POOL).items()
        return {key: self._read(int, value) for key, value in found}

    def members(self, tenant: str, pool: Pool) -> list[str]:
        """Names of the functions that share a pool."""
        rows = (row.function for row in self.functions())
        return [one.name for one in rows if one.tenant == tenant and pool in one.pools]

    def uplinks(self) -> list[UplinkRow]:
        """All uplinks, by name."""
        rows = sorted(self._settings(UPLINK).items())
        return [self._read(_UPLINK.validate_json, json.dumps(value)) for _, value in rows]

    def uplink(self, name: str) -> UplinkRow | None:
        """One uplink, or None."""
        return next((row for row in self.uplinks() if row.name == name), None)

    def remotes(self) -> list[RemoteRow]:
        """All remotes, by name."""
        rows = sorted(self._settings(REMOTE).items())
        return [self._read(_REMOTE.validate_json, json.dumps(value)) for _, value in rows]

    def remote(self, name: str) -> RemoteRow | None:
        """One remote, or None."""
        rows = self._all("SELECT value FROM setting WHERE key = ?", REMOTE + name)
        return self._read(_REMOTE.validate_json, rows[0][0]) if rows else None

    def places(self) -> Places:
        """Where services can be published."""
        return {row.name: (row.ifindex, row.addresses) for row in self.uplinks()}

    def address_owner(self, address: Address) -> str | None:
        """Name of the function or service that has this address."""
        owners = self.owners(packed(address), packed(address))
        return owners[0][1] if owners else None

    def owners(self, first: bytes, last: bytes) -> list[tuple[Kind, str]]:
        """Kind and name of those with an address from ``first`` to ``last``."""
        query = "SELECT DISTINCT kind, name FROM address WHERE packed BETWEEN ? AND ?"
        return self._all(query, first, last)

    def hosts(self) -> list[tuple[str, str]]:
        """(address, name) of all functions and services."""
        return self._all("SELECT address, name FROM address ORDER BY kind, name, packed")

    def services(self) -> list[Service]:
        """All services, by name."""
        rows = self._all("SELECT model FROM service ORDER BY name")
        return [self._read(_SERVICE.validate_json, text) for (text,) in rows]

    def service(self, name: str) -> Service | None:
        """One service, without its backends, or None."""
        return next(iter(self._services([name])), None)

    def services_of(self, functions: Collection[str]) -> list[Service]:
        """The services that have one of these functions, with all of their backends."""
        query = "SELECT service FROM backend WHERE name = ?1 OR name = "
        query += "(SELECT group_name FROM function WHERE name = ?1)"
        names = {row[0] for name in functions for row in self._all(query, name)}
        services = self._services(sorted(names))
        whole = "SELECT name FROM function WHERE group_name = ? AND ready"
        groups = {
            name: members
            for name in {name for service in services for name in service.functions}
            if (members := tuple(row[0] for row in self._all(whole, name)))
        }
        return [service.backed(groups) for service in services]

    def probes(self, function: Function) -> tuple[Probe, ...]:
        """What a function is asked to be ready, as ``Mesh.probes`` has it."""
        services = self.services_of((function.name,))
        ports = {(one.protocol, one.target_port) for one in services if one.ports == 1}
        return probes_of(function, ports)

    def only_ready(self, service: Service) -> Service:
        """A service whose backends have no weight if they are not ready."""
        unready = self.unready()
        if unready.keys().isdisjoint(service.backends):
            return service
        weights = {
            name: 0 if name in unready else weight for name, weight in service.backends.items()
        }
        return service.model_copy(update={"backends": weights})

    def table(self, service: str) -> tuple[int, int]:
        """First row and number of rows a service has in mesh_maglev; (0, 0): none."""
        rows = self._all("SELECT row, rows FROM service WHERE name = ?", service)
        return rows[0] if rows else (0, 0)

    def policies(self) -> list[tuple[int, Policy]]:
        """(id, policy) of all policies, in the order they were added."""
        rows = self._all("SELECT id, model FROM policy ORDER BY id")
        return [(number, self._read(_POLICY.validate_json, text)) for number, text in rows]

    def policy_id(self, policy: Policy) -> int | None:
        """Id of the policy with this match."""
        rows = self._all("SELECT id FROM policy WHERE match = ?", match_of(policy))
        return int(rows[0][0]) if rows else None

    def injections(self) -> list[InjectionRow]:
        """What is injected, in the order of names, places and ranks."""
        rows = self._all(
            "SELECT model, program, before, canary, split FROM injection ORDER BY name"
        )
        found = [
            InjectionRow(self._read(_INJECTION.validate_json, model), *programs)
            for model, *programs in rows
        ]
        return sorted(found, key=lambda row: (row.injection.at, row.injection.rank))

    def injection(self, name: str) -> InjectionRow | None:
        """What is injected under a name, or None."""
        return next((row for row in self.injections() if row.injection.name == name), None)

    @property
    def injects(self) -> bool:
        """Whether something is injected, or was until now."""
        query = "SELECT 1 FROM injection UNION SELECT 1 FROM chain UNION SELECT 1 FROM program"
        return bool(self._all(query))

    def program(self, number: int) -> ProgramRow:
        """A program that is injected, or was before the one that is."""
        rows = self._all("SELECT model, compiled FROM program WHERE id = ?", number)
        model, compiled = rows[0]
        injection = self._read(_INJECTION.validate_json, model)
        return ProgramRow(number, injection, self._read(json.loads, compiled))

    def programs(self) -> list[int]:
        """Ids of all programs."""
        return [number for (number,) in self._all("SELECT id FROM program ORDER BY id")]

    def chains(self) -> dict[Chain, int]:
        """The block of mesh_injected that each chain of programs has."""
        rows = self._all("SELECT programs, block FROM chain")
        return {self._read(_chain, programs): block for programs, block in rows}

    @property
    def home(self) -> NetnsId:
        """The host namespace it was made in."""
        return self._read(_home, self._get("netns"))

    @property
    def build(self) -> str:
        """What the programs that run were compiled from; ``unknown``: an older version's."""
        return str(self._get("build", "unknown"))

    @property
    def making(self) -> bool:
        """Whether the first ``up`` has not come to its end."""
        return bool(self._get("making"))

    @property
    def listener(self) -> tuple[int, int] | None:
        """Process and start of who was sent events last; None if nobody is to be."""
        found = self._get("listener")
        return self._read(lambda both: (int(both[0]), int(both[1])), found) if found else None

    def limits(self) -> Limits:
        """The sizes of the maps."""
        return self._read(Limits.model_validate, self._get("limits"))

    def base(self) -> Mesh:
        """The mesh without its functions, services, policies, uplinks and remotes."""
        return self._read(Mesh.model_validate_json, json.dumps(self._get("mesh")))

    def _frame(self, gone: Collection[str] = ()) -> Mesh:
        """The mesh without its functions, services and policies; all else there is little of."""
        rows = [row for row in self.uplinks() if row.ready and row.name not in gone]
        there = {row.name for row in rows}
        beyond = (row.remote for row in self.remotes() if row.ready)
        parts = {
            "uplinks": tuple(row.uplink for row in rows),
            "remotes": tuple(one for one in beyond if one.uplink in there),
        }
        return self.base().model_copy(update=parts)

    def model(self, without: Collection[str] = (), without_uplinks: Collection[str] = ()) -> Mesh:
        """The mesh as it is: the functions and uplinks that are ready and not ``without``.

        Names that then lead nowhere are left out of services and policies.
        """
        rows = [row for row in self.functions() if row.ready and row.function.name not in without]
        policies = [policy for _, policy in self.policies()]
        injections = [row.injection for row in self.injections()]
        functions = [row.function for row in rows]
        frame = self._frame(without_uplinks)
        return frame.made_of(functions, self.services(), policies, injections)

    def part(self, scope: Scope) -> Mesh:
        """The mesh as it is, as far as a change of this scope can see it.

        Of services that rules, addresses or uplinks lead to it has no functions, of groups one.
        """
        rules = tuple(map(self._named, scope.rules))
        policies = self._policies_of(replace(scope, rules=rules))
        ends = {i for rule in (*policies, *rules) for i in (rule.source, rule.destination)}
        names: dict[str, set[str]] = {"function": set(), "group": set(), "tenant": set()}
        names["service"] = set()
        for identity in ends:
            if identity.name and identity.kind in names:
                names[identity.kind].add(identity.name)
        changed = self._services(scope.services)
        addresses = {*scope.addresses, *(a for service in changed for a in service.addresses)}
        spans = [(packed(address), packed(address)) for address in addresses]
        blocks = [block_of(identity.prefix) for identity in ends if identity.prefix]
        spans += [(block.first, block.last) for block in blocks]
        for first, last in spans:
            for kind, name in self.owners(first, last):
                names[kind].add(name)
        uplinks = {*scope.uplinks, *(one.uplink for s in changed for one in s.published)}
        names["service"].update(self._published(uplinks))
        others = self._services(sorted(names["service"].difference(scope.services)))
        services = [*changed, *(service.only(()) for service in others)]
        names["function"].update(self._one_of_each("tenant", names["tenant"]))
        names["function"].update(self._one_of_each("group_name", names["group"]))
        names["function"].update(self._backends(changed), self._members(scope.functions))
        return self._frame().made_of(self._ready(names["function"]), services, policies)

    def around(self, functions: Sequence[Function]) -> tuple[Mesh, Mesh]:
        """The mesh with some functions and without, as far as removing them changes anything.

        Costs the same however many other functions and rules there are.
        """
        gone = {function.name for function in functions}
        texts: dict[int, str] = {}
        for identity in self._left_by(functions):
            texts |= self._naming(str(identity))
        near = {name for function in functions for name in (function.name, function.group) if name}
        query = "SELECT service FROM backend WHERE name = ?"
        services = self._services(
            sorted({row[0] for name in near for row in self._all(query, name)})
        )
        others = self._ready(self._backends(services) - gone)
        left = {("function" if one.kind == "group" else one.kind, one.name)
                for one in self._left_by(functions)}  # fmt: skip
        injections = (row.injection for row in self.injections())
        parts = {
            "injections": tuple(one for one in injections if one.target in left),
            "functions": (*functions, *others),
            "services": tuple(services),
            "policies": tuple(self._policies(texts)),
        }
        return self._frame().model_copy(update=parts), self._frame().made_of(others, services, ())

    def _left_by(self, functions: Sequence[Function]) -> Iterator[Identity]:
        """What no function is once these are gone."""
        gone = {function.name for function in functions}
        beyond = {row.remote.tenant for row in self.remotes()}
        yield from (Identity("function", name) for name in gone)
        kinds: tuple[tuple[Literal["tenant", "group"], str], ...]
        kinds = ("tenant", "tenant"), ("group", "group_name")
        for kind, column in kinds:
            query = f"SELECT name FROM function WHERE {column} = ? AND ready LIMIT ?"  # noqa: S608
            kept = {None, *(beyond if kind == "tenant" else ())}
            for name in {getattr(function, kind) for function in functions} - kept:
                if gone.issuperset(row[0] for row in self._all(query, name, len(gone) + 1)):
                    yield Identity(kind, name)

    def _named(self, rule: Policy) -> Policy:
        """A rule with ``group:NAME`` where ``function:NAME`` means a group of this mesh."""
        ends = {i.name for i in (rule.source, rule.destination) if i.kind == "function"}
        return rule.named({name for name in ends if self.group(name)})

    def function_in(self, netns_inode: int) -> str | None:
        """Name of the function that has this namespace."""
        query = "SELECT name FROM function WHERE json_extract(attachment, '$.netns_inode') = ?"
        rows = self._all(query, netns_inode)
        return rows[0][0] if rows else None

    def group(self, name: str) -> tuple[str, ...]:
        """The functions of a group, those that are being made or removed too; () if it is none."""
        query = "SELECT name FROM function WHERE group_name = ? ORDER BY length(name), name"
        return tuple(row[0] for row in self._all(query, name))

    def _members(self, names: Iterable[str]) -> set[str]:
        """Names of functions, for those that are names of groups their functions'."""
        return {one for name in names for one in self.group(name) or (name,)}

    def _backends(self, services: Iterable[Service]) -> set[str]:
        return self._members({name for service in services for name in service.functions})

    def _ready(self, names: Iterable[str]) -> list[Function]:
        rows = (self.function(name) for name in sorted(names))
        return [row.function for row in rows if row and row.ready]

    def _policies_of(self, scope: Scope) -> list[Policy]:
        """Policies of a scope, and for each prefix near one of its own or its addresses' one."""
        texts: dict[int, str] = {}
        for rule in scope.rules:
            texts |= self._all("SELECT id, model FROM policy WHERE match = ?", match_of(rule))
        for identity in scope.about:
            texts |= self._naming(str(identity))
        ends = (i for rule in scope.rules for i in (rule.source, rule.destination))
        blocks = [block_of(identity.prefix) for identity in ends if identity.prefix]
        near = {name for block in blocks for name in self.prefixes_inside(block)}
        blocks += [Block(128, packed(address)) for address in scope.addresses]
        near |= {name for block in blocks for name in self.prefixes_around(block)}
        for name in near:
            texts |= self._naming(f"outside:{name}", limit=1)
        return self._policies(texts)

    def _policies(self, texts: dict[int, str]) -> list[Policy]:
        return [self._read(_POLICY.validate_json, texts[number]) for number in sorted(texts)]

    def _naming(self, identity: str, limit: int = -1) -> dict[int, str]:
        """Id and text of policies that name an identity."""
        query = "SELECT id, model FROM policy WHERE source = ?1 UNION "
        query += "SELECT id, model FROM policy WHERE destination = ?1 LIMIT ?2"
        return dict(self._all(query, identity, limit))

    def _services(self, names: Sequence[str]) -> list[Service]:
        query = "SELECT model FROM service WHERE name = ?"
        texts = (row for name in names for row in self._all(query, name))
        return [self._read(_SERVICE.validate_json, text) for (text,) in texts]

    def _published(self, uplinks: Iterable[str]) -> Iterator[str]:
        """Names of the services that are published at one of these uplinks."""
        query = "SELECT DISTINCT service.name FROM service, json_each(service.model, '$.publish')"
        query += " WHERE substr(value, 1, length(?1) + 1) = ?1 || ':'"
        return (row[0] for uplink in uplinks for row in self._all(query, uplink))

    def _one_of_each(self, column: str, names: Collection[str]) -> list[str]:
        """A function of each tenant or group that has one."""
        query = f"SELECT name FROM function WHERE {column} = ? AND ready LIMIT 1"  # noqa: S608
        return [row[0] for name in names for row in self._all(query, name)]


def _chain(text: str) -> Chain:
    """A chain, of programs and of splits with the two programs behind each."""
    return tuple(tuple(one) if isinstance(one, list) else one for one in json.loads(text))


def match_of(policy: Policy) -> str:
    return json.dumps([str(part) for part in policy.match])


def pool_key(tenant: str, pool: Pool) -> str:
    """What tells apart pools, also those of one name before and after a change."""
    return f"{tenant}/{pool.name}/{pool.members}/{pool.slots}/{pool.bytes}"


def file_of(mesh: str) -> Path:
    return RUN / mesh / "record.db"


def _command(text: str) -> CommandRow:
    return CommandRow(**json.loads(text))


def all_records() -> list[str]:
    """Names of the meshes that have a record here, or only what stands beside one."""
    return [name for name in private.names(RUN) if (RUN / name).is_dir()]


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError as error:
        raise private.closed(RUN) from error


def _home(text: str) -> NetnsId:
    found = NetnsId.parse(text)
    if found is None:
        raise ValueError(text)
    return found
