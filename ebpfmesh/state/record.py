# SPDX-License-Identifier: BSD-2-Clause
"""The record of a mesh: what joins its names to ids, interfaces and namespaces.

An SQLite file in /run/ebpfmesh/MESH/, so that a change costs the same whatever the size and a
crash leaves the state before or after it. A row is written before the thing it stands for is made
and deleted after it is gone: what has no row is not ours. Who changes a mesh holds its lock.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

from ebpfmesh.errors import NotFound
from ebpfmesh.kernel.netns import NetnsId
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.prefixes import Block, block_of, packed
from ebpfmesh.model import Function, Identity, Limits, Mesh, Policy, Scope, Service
from ebpfmesh.state import files
from ebpfmesh.state.files import file_of, is_there
from ebpfmesh.state.objects import Objects
from ebpfmesh.state.rows import match_of


class Record(Objects):
    """One mesh's record, open. Reading needs no lock.

    Raises NotFound if there is none, MissingPrivilege to who may not look, and what ``Tables``
    does.
    """

    def __init__(self, mesh: str) -> None:
        self.directory = files.RUN / mesh
        path = file_of(mesh)
        if not is_there(path):
            if Pins(mesh).exist():
                hint = "ebpfmesh up FILE makes it anew, down removes what is left"
                raise NotFound(f"the record of mesh {mesh} is lost", hint=hint)
            raise NotFound(f"there is no mesh {mesh}", hint="start it: ebpfmesh up FILE")
        super().__init__(mesh, path)
        self._inode = path.stat().st_ino

    @staticmethod
    def exists(mesh: str) -> bool:
        """Whether there is a record, be it one that cannot be read."""
        return is_there(file_of(mesh))

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

    @property
    def home(self) -> NetnsId:
        """The host namespace it was made in."""
        return self._read(_home, self._get("netns"), "netns")

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
        read = lambda both: (int(both[0]), int(both[1]))  # noqa: E731
        return self._read(read, found, "listener") if found else None

    def limits(self) -> Limits:
        """The sizes of the maps."""
        return self._read(Limits.model_validate, self._get("limits"), "limits")

    def base(self) -> Mesh:
        """The mesh without its functions, services, policies, uplinks and remotes."""
        return self._read(Mesh.model_validate_json, json.dumps(self._get("mesh")), "mesh")

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

    def _naming(self, identity: str, limit: int = -1) -> dict[int, str]:
        """Id and text of policies that name an identity."""
        query = "SELECT id, model FROM policy WHERE source = ?1 UNION "
        query += "SELECT id, model FROM policy WHERE destination = ?1 LIMIT ?2"
        return dict(self._all(query, identity, limit))

    def _published(self, uplinks: Iterable[str]) -> Iterator[str]:
        """Names of the services that are published at one of these uplinks."""
        query = "SELECT DISTINCT service.name FROM service, json_each(service.model, '$.publish')"
        query += " WHERE substr(value, 1, length(?1) + 1) = ?1 || ':'"
        return (row[0] for uplink in uplinks for row in self._all(query, uplink))

    def _one_of_each(self, column: str, names: Collection[str]) -> list[str]:
        """A function of each tenant or group that has one."""
        query = f"SELECT name FROM function WHERE {column} = ? AND ready LIMIT 1"  # noqa: S608
        return [row[0] for name in names for row in self._all(query, name)]


def _home(text: str) -> NetnsId:
    found = NetnsId.parse(text)
    if found is None:
        raise ValueError(text)
    return found
