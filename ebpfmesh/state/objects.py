# SPDX-License-Identifier: BSD-2-Clause
"""The functions, services, policies and all else of a record, each read by its name."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, TypeAdapter

from ebpfmesh.kernel.keys import Places
from ebpfmesh.kernel.prefixes import packed
from ebpfmesh.model import Address, Function, Injection, Policy, Pool, Probe, Service, probes_of
from ebpfmesh.state.rows import (
    Attachment,
    Chain,
    CommandRow,
    FunctionRow,
    InjectionRow,
    ProgramRow,
    RemoteRow,
    UplinkRow,
    check_pool_key,
    match_of,
)
from ebpfmesh.state.tables import COMMAND, POOL, REMOTE, UPLINK, Kind, Tables, unreadable

_FUNCTION = TypeAdapter(Function)
_SERVICE = TypeAdapter(Service)
_POLICY = TypeAdapter(Policy)
_INJECTION = TypeAdapter(Injection)
_UPLINK = TypeAdapter(UplinkRow)
_REMOTE = TypeAdapter(RemoteRow)
_ATTACHMENT = TypeAdapter(Attachment)
_COMMAND = TypeAdapter(CommandRow)
_INODE = TypeAdapter(Annotated[int, Field(ge=0, lt=1 << 64)])
R = TypeVar("R", Function, UplinkRow, RemoteRow)


class Objects(Tables):
    """A record as far as each thing in it can be read by itself."""

    def __init__(self, mesh: str, path: Path) -> None:
        super().__init__(path)
        self.mesh = mesh

    def functions(self) -> list[FunctionRow]:
        """All functions, by name."""
        rows = self._all("SELECT name, ready, model, attachment FROM function ORDER BY name")
        ids = {name: number for number, name in self.names("function").items()}
        return [self._function_row(ids.get(name, 0), name, *rest) for name, *rest in rows]

    def function(self, name: str) -> FunctionRow | None:
        """One function, or None."""
        rows = self._all("SELECT ready, model, attachment FROM function WHERE name = ?", name)
        number = self.find_id("function", name) or 0
        return self._function_row(number, name, *rows[0]) if rows else None

    def _function_row(
        self, number: int, name: str, ready: int, model: str, attachment: str
    ) -> FunctionRow:
        where = self._read(_ATTACHMENT.validate_json, attachment, f"function {name}")
        function = self._row(_FUNCTION, "function", name, model)
        if not number:
            raise unreadable(self._path, f"function {name}: it has no number")
        return FunctionRow(self.mesh, number, function, where, bool(ready))

    def function_in(self, netns_inode: int) -> str | None:
        """Name of the function that has this namespace."""
        query = "SELECT name FROM function WHERE json_extract(attachment, '$.netns_inode') = ?"
        rows = self._all(query, netns_inode)
        return rows[0][0] if rows else None

    def group(self, name: str) -> tuple[str, ...]:
        """The functions of a group, those that are being made or removed too; () if it is none."""
        query = "SELECT name FROM function WHERE group_name = ? ORDER BY length(name), name"
        return tuple(row[0] for row in self._all(query, name))

    def command(self, function: str) -> CommandRow:
        """What there is to know of a function's command."""
        rows = self._all("SELECT value FROM setting WHERE key = ?", COMMAND + function)
        return self._command(function, rows[0][0]) if rows else CommandRow()

    def _command(self, function: str, text: str) -> CommandRow:
        return self._read(_COMMAND.validate_json, text, f"the command of function {function}")

    def commands(self) -> dict[str, CommandRow]:
        """The same of all functions of which there is something, by name."""
        return {name: self._command(name, text) for name, text in self._texts(COMMAND).items()}

    def pools(self) -> dict[str, int]:
        """The inode that the memory of each pool was made with, by ``pool_key``."""
        texts = self._texts(POOL).items()
        found = {key: self._read(_INODE.validate_json, text, f"pool {key}") for key, text in texts}
        for key in found:
            self._read(check_pool_key, key, f"pool {key}")
        return found

    def members(self, tenant: str, pool: Pool) -> list[str]:
        """Names of the functions that share a pool."""
        rows = (row.function for row in self.functions())
        return [one.name for one in rows if one.tenant == tenant and pool in one.pools]

    def uplinks(self) -> list[UplinkRow]:
        """All uplinks, by name."""
        rows = sorted(self._texts(UPLINK).items())
        return [self._row(_UPLINK, "uplink", *row) for row in rows]

    def uplink(self, name: str) -> UplinkRow | None:
        """One uplink, or None."""
        return next((row for row in self.uplinks() if row.name == name), None)

    def remotes(self) -> list[RemoteRow]:
        """All remotes, by name."""
        rows = sorted(self._texts(REMOTE).items())
        return [self._remote(*row) for row in rows]

    def remote(self, name: str) -> RemoteRow | None:
        """One remote, or None."""
        rows = self._all("SELECT value FROM setting WHERE key = ?", REMOTE + name)
        return self._remote(name, rows[0][0]) if rows else None

    def _remote(self, name: str, text: str) -> RemoteRow:
        row = self._row(_REMOTE, "remote", name, text)
        if row.id != self.find_id("function", name):
            raise unreadable(self._path, f"remote {name}: its number is not {row.id}")
        return row

    def _row(self, kind: TypeAdapter[R], what: str, name: str, text: str) -> R:
        """What a row of this name says of itself."""
        what = f"{what} {name}"
        found = self._read(kind.validate_json, text, what)
        if found.name != name:
            raise unreadable(self._path, f"{what}: it is called {found.name} inside")
        return found

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
        rows = self._all("SELECT model, name FROM service ORDER BY name")
        return [self._service(*row) for row in rows]

    def _service(self, text: str, name: str) -> Service:
        return self._read(_SERVICE.validate_json, text, f"service {name}")

    def service(self, name: str) -> Service | None:
        """One service, without its backends, or None."""
        return next(iter(self._services([name])), None)

    def _services(self, names: Sequence[str]) -> list[Service]:
        query = "SELECT model, name FROM service WHERE name = ?"
        rows = (row for name in names for row in self._all(query, name))
        return [self._service(*row) for row in rows]

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
        return [(number, self._policy(text, number)) for number, text in rows]

    def _policy(self, text: str, number: int) -> Policy:
        return self._read(_POLICY.validate_json, text, f"rule {number}")

    def policy_id(self, policy: Policy) -> int | None:
        """Id of the policy with this match."""
        rows = self._all("SELECT id FROM policy WHERE match = ?", match_of(policy))
        return int(rows[0][0]) if rows else None

    def _policies(self, texts: dict[int, str]) -> list[Policy]:
        return [self._policy(texts[number], number) for number in sorted(texts)]

    def injections(self) -> list[InjectionRow]:
        """What is injected, in the order of names, places and ranks."""
        rows = self._all(
            "SELECT name, model, program, before, canary, split FROM injection ORDER BY name"
        )
        found = []
        for name, model, *programs in rows:
            injection = self._read(_INJECTION.validate_json, model, f"injection {name}")
            found.append(InjectionRow(injection, *programs))
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
        what = f"program {number}"
        if not rows:
            raise unreadable(self._path, f"{what}: there is none")
        model, compiled = rows[0]
        injection = self._read(_INJECTION.validate_json, model, what)
        return ProgramRow(number, injection, self._read(json.loads, compiled, what))

    def programs(self) -> list[int]:
        """Ids of all programs."""
        return [number for (number,) in self._all("SELECT id FROM program ORDER BY id")]

    def chains(self) -> dict[Chain, int]:
        """The block of mesh_injected that each chain of programs has."""
        rows = self._all("SELECT programs, block FROM chain")
        return {self._read(_chain, programs, f"chain {block}"): block for programs, block in rows}


def _chain(text: str) -> Chain:
    """A chain, of programs and of splits with the two programs behind each."""
    return tuple(tuple(one) if isinstance(one, list) else one for one in json.loads(text))
