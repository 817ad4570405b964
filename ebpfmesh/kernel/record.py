# SPDX-License-Identifier: BSD-2-Clause
"""The record of a mesh: what joins its names to ids, interfaces and namespaces.

An SQLite file in /run/ebpfmesh/MESH/, so that a change costs the same whatever the size and a
crash leaves the state before or after it. A row is written before the thing it stands for is made
and deleted after it is gone: what has no row is not ours. Who changes a mesh holds its lock.
"""

import contextlib
import fcntl
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from ebpfmesh.errors import MeshError, MissingPrivilege, NotFound
from ebpfmesh.model import Function, Limits, Mesh, Policy, Service

RUN = Path("/run/ebpfmesh")
LOCK_SECONDS = 60.0
Kind = Literal["function", "tenant", "service"]

_SCHEMA = """
CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE id (kind TEXT, name TEXT, id INTEGER, PRIMARY KEY (kind, name), UNIQUE (kind, id));
CREATE TABLE function (name TEXT PRIMARY KEY, ready INTEGER, model TEXT, place TEXT);
CREATE TABLE service (name TEXT PRIMARY KEY, model TEXT, row INTEGER, rows INTEGER);
CREATE TABLE policy (match TEXT PRIMARY KEY, id INTEGER UNIQUE, model TEXT, shape INTEGER);
CREATE INDEX policy_shape ON policy (shape);
"""
_FUNCTION = TypeAdapter(Function)
_SERVICE = TypeAdapter(Service)
_POLICY = TypeAdapter(Policy)


@dataclass(frozen=True)
class Place:
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
class FunctionRow:
    """A function of the record; not ``ready``: it was being made or removed when work stopped."""

    mesh: str
    id: int
    function: Function
    place: Place
    ready: bool


class Record:
    """One mesh's record, open. Reading needs no lock."""

    def __init__(self, mesh: str, *, create: bool = False) -> None:
        self.mesh = mesh
        self.directory = RUN / mesh
        path = self.directory / "record.db"
        if create:
            self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        elif not path.exists():
            raise NotFound(f"there is no mesh {mesh}", hint="start it: ebpfmesh up FILE")
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=LOCK_SECONDS)
            self._db.execute("PRAGMA synchronous = OFF")  # a tmpfs: there is no disk to wait for
            if create and not self._all("SELECT name FROM sqlite_master"):
                with self.transaction():
                    for statement in _SCHEMA.strip().split(";\n"):
                        self._db.execute(statement)
        except sqlite3.Error as error:
            raise MeshError(f"{path}: {error}", hint="remove what is left: ebpfmesh gc") from error

    @staticmethod
    def exists(mesh: str) -> bool:
        """Whether there is a record, be it an unfinished one."""
        return (RUN / mesh).is_dir()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def remove(self) -> None:
        """Delete the record and all that stands beside it."""
        self.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes of the block, or none."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _all(self, query: str, *values: object) -> list[Any]:
        return self._db.execute(query, values).fetchall()

    def get(self, key: str, default: Any = None) -> Any:
        """A setting: any JSON value."""
        rows = self._all("SELECT value FROM setting WHERE key = ?", key)
        return json.loads(rows[0][0]) if rows else default

    def set(self, key: str, value: Any) -> None:
        """Write a setting."""
        self._db.execute("REPLACE INTO setting VALUES (?, ?)", (key, json.dumps(value)))

    def id_of(self, kind: Kind, name: str) -> int:
        """The id of a name, given now if it has none: the smallest from 1 that is free."""
        rows = self._all("SELECT id FROM id WHERE kind = ? AND name = ?", kind, name)
        if rows:
            return int(rows[0][0])
        free = self._all(
            "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM id WHERE kind = ?1 AND id = 1) UNION ALL "
            "SELECT id + 1 FROM id AS a WHERE kind = ?1 AND NOT EXISTS "
            "(SELECT 1 FROM id WHERE kind = ?1 AND id = a.id + 1) LIMIT 1",
            kind,
        )
        number = int(free[0][0])
        self._db.execute("INSERT INTO id VALUES (?, ?, ?)", (kind, name, number))
        return number

    def names(self, kind: Kind) -> dict[int, str]:
        """Names by id."""
        return dict(self._all("SELECT id, name FROM id WHERE kind = ?", kind))

    def forget_ids(self) -> list[int]:
        """Free the ids of names that nothing uses any more; those of tenants."""
        self._db.execute(
            "DELETE FROM id WHERE kind = 'function' AND name NOT IN (SELECT name FROM function)"
        )
        self._db.execute(
            "DELETE FROM id WHERE kind = 'service' AND name NOT IN (SELECT name FROM service)"
        )
        tenants = self._all(
            "DELETE FROM id WHERE kind = 'tenant' AND name NOT IN "
            "(SELECT json_extract(model, '$.tenant') FROM function) RETURNING id"
        )
        return [row[0] for row in tenants]

    def functions(self) -> list[FunctionRow]:
        """All functions, by name."""
        rows = self._all("SELECT name, ready, model, place FROM function ORDER BY name")
        ids = {name: number for number, name in self.names("function").items()}
        return [_function_row(self.mesh, ids[name], *rest) for name, *rest in rows]

    def function(self, name: str) -> FunctionRow | None:
        """One function, or None."""
        rows = self._all("SELECT ready, model, place FROM function WHERE name = ?", name)
        return _function_row(self.mesh, self.id_of("function", name), *rows[0]) if rows else None

    def put_function(self, function: Function, place: Place, *, ready: bool) -> None:
        """Write a function's row."""
        text = json.dumps(place.__dict__)
        values = (function.name, int(ready), function.model_dump_json(), text)
        self._db.execute("REPLACE INTO function VALUES (?, ?, ?, ?)", values)

    def delete_function(self, name: str) -> None:
        """Delete a function's row."""
        self._db.execute("DELETE FROM function WHERE name = ?", (name,))

    def address_owner(self, address: str) -> str | None:
        """Name of the function or service that has this address."""
        for table in ("function", "service"):
            rows = self._all(
                f"SELECT name FROM {table} WHERE ? IN "  # noqa: S608
                "(json_extract(model, '$.address4'), json_extract(model, '$.address6'))",
                address,
            )
            if rows:
                return str(rows[0][0])
        return None

    def hosts(self) -> list[tuple[str, str]]:
        """(address, name) of all functions and services."""
        return self._all(
            " UNION ALL ".join(
                f"SELECT json_extract(model, '$.{field}') AS address, name FROM {table} "  # noqa: S608
                "WHERE address IS NOT NULL"
                for table in ("function", "service")
                for field in ("address4", "address6")
            )
        )

    def services(self) -> list[Service]:
        """All services, by name."""
        rows = self._all("SELECT model FROM service ORDER BY name")
        return [_SERVICE.validate_json(text) for (text,) in rows]

    def table(self, service: str) -> tuple[int, int]:
        """First row and number of rows a service has in mesh_maglev; (0, 0): none."""
        rows = self._all("SELECT row, rows FROM service WHERE name = ?", service)
        return rows[0] if rows else (0, 0)

    def tables(self) -> list[tuple[int, int]]:
        """(first row, number of rows) of all services, by row."""
        return self._all("SELECT row, rows FROM service WHERE rows > 0 ORDER BY row")

    def put_service(self, service: Service, row: int, rows: int) -> None:
        """Write a service's row."""
        values = (service.name, service.model_dump_json(), row, rows)
        self._db.execute("REPLACE INTO service VALUES (?, ?, ?, ?)", values)

    def delete_service(self, name: str) -> None:
        """Delete a service's row."""
        self._db.execute("DELETE FROM service WHERE name = ?", (name,))

    def policies(self) -> list[tuple[int, Policy]]:
        """(id, policy) of all policies, in the order they were added."""
        rows = self._all("SELECT id, model FROM policy ORDER BY id")
        return [(number, _POLICY.validate_json(text)) for number, text in rows]

    def put_policy(self, policy: Policy, shape: int) -> int:
        """Write a policy's row, in the place of one with the same match; its id."""
        match = json.dumps([str(part) for part in policy.match])
        rows = self._all("SELECT id FROM policy WHERE match = ?", match)
        number = (
            rows[0][0] if rows else self._all("SELECT ifnull(max(id), 0) + 1 FROM policy")[0][0]
        )
        values = (match, number, policy.model_dump_json(), shape)
        self._db.execute("REPLACE INTO policy VALUES (?, ?, ?, ?)", values)
        return int(number)

    def delete_policy(self, policy: Policy) -> None:
        """Delete a policy's row."""
        match = json.dumps([str(part) for part in policy.match])
        self._db.execute("DELETE FROM policy WHERE match = ?", (match,))

    def shapes(self) -> int:
        """Bit n: some policy has shape n."""
        return sum(1 << row[0] for row in self._all("SELECT DISTINCT shape FROM policy"))

    def drop_dangling(self) -> None:
        """Take names that lead nowhere out of services, and policies with such names away."""
        whole = self.model()
        for service in whole.services:
            self.put_service(service, *self.table(service.name))
        kept = {policy.match for policy in whole.policies}
        for _, policy in self.policies():
            if policy.match not in kept:
                self.delete_policy(policy)

    def limits(self) -> Limits:
        """The sizes of the maps."""
        return Limits.model_validate(self.get("limits"))

    def model(self, without: Collection[str] = ()) -> Mesh:
        """The mesh as it is: the functions that are ready and not among ``without``.

        Names that then lead nowhere are left out of services and policies.
        """
        rows = [row for row in self.functions() if row.ready and row.function.name not in without]
        functions = tuple(row.function for row in rows)
        known = {function.name for function in functions}
        services = tuple(
            service.model_copy(
                update={"functions": tuple(f for f in service.functions if f in known)}
            )
            for service in self.services()
        )
        names = {
            "function": known,
            "tenant": {function.tenant for function in functions},
            "service": {service.name for service in services},
        }
        policies = tuple(
            policy
            for _, policy in self.policies()
            if all(i.name in names.get(i.kind, {""}) for i in (policy.source, policy.destination))
        )
        base = Mesh.model_validate_json(json.dumps(self.get("mesh")))
        parts = {"functions": functions, "services": services, "policies": policies}
        return base.model_copy(update=parts)


def _function_row(mesh: str, number: int, ready: int, model: str, place: str) -> FunctionRow:
    where = Place(**json.loads(place))
    return FunctionRow(mesh, number, _FUNCTION.validate_json(model), where, bool(ready))


def all_records() -> list[str]:
    """Names of the meshes that have a record here, be it an unfinished one."""
    return sorted(path.name for path in RUN.glob("*") if path.is_dir())


@contextlib.contextmanager
def locked(mesh: str) -> Iterator[None]:
    """Hold the mesh's lock; waits for another process, LOCK_SECONDS at most.

    The lock's file goes with the mesh: whoever leaves last, and finds no record, removes it.
    """
    deadline = time.monotonic() + LOCK_SECONDS
    while (lock := _try_lock(mesh)) is None:
        if time.monotonic() > deadline:
            raise MeshError(
                f"another process has been changing mesh {mesh} for {LOCK_SECONDS:.0f} s",
                hint=f"fuser {RUN}/{mesh}.lock shows it",
            )
        time.sleep(0.02)
    try:
        yield
    finally:
        if not (RUN / mesh).exists():
            (RUN / f"{mesh}.lock").unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                RUN.rmdir()
        os.close(lock)


def _try_lock(mesh: str) -> int | None:
    """A descriptor that holds the lock, or None while somebody else does."""
    path = RUN / f"{mesh}.lock"
    try:
        RUN.mkdir(mode=0o755, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PermissionError as error:
        what = f"cannot write {RUN}: CAP_DAC_OVERRIDE is needed"
        raise MissingPrivilege(what, hint="run as root") from error
    except FileNotFoundError:  # RUN went between the two calls
        return None
    with contextlib.suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The one before us may have removed the file we wait on.
        if os.fstat(lock).st_ino == path.stat().st_ino:
            return lock
    os.close(lock)
    return None
