# SPDX-License-Identifier: BSD-2-Clause
"""Who writes the record: rows, ids, rows of the Maglev map, and the steps of a change.

Only who holds the mesh's lock does; ``locked`` gives it.
"""

import contextlib
import dataclasses
import fcntl
import itertools
import json
import os
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from pathlib import Path
from stat import S_IMODE
from typing import Any, Self

from pydantic import TypeAdapter

from ebpfmesh import _abi
from ebpfmesh.errors import Busy, MeshError, MissingPrivilege
from ebpfmesh.kernel import private
from ebpfmesh.kernel.netns import NetnsId
from ebpfmesh.kernel.prefixes import block_of, packed
from ebpfmesh.model import Address, Function, Injection, Mesh, Policy, Service
from ebpfmesh.state import record
from ebpfmesh.state.record import (
    Attachment,
    Chain,
    CommandRow,
    InjectionRow,
    Record,
    RemoteRow,
    UplinkRow,
    file_of,
    match_of,
)
from ebpfmesh.state.tables import (
    APPLICATION,
    ASIDE,
    COMMAND,
    LOCK_SECONDS,
    POOL,
    REMOTE,
    SCHEMA,
    UNREADY,
    UPLINK,
    VERSION,
    Denied,
    Entry,
    Kind,
    Setting,
    connect,
    no_room,
)

UNDO_PAGES = 256 << 10
"""Bytes of the record that only an undo may fill: steps it undoes give it more than it takes."""
UNDO_JOURNAL = 512 << 10
"""Bytes of SQLite's journal, which has the pages of one transaction: of a rule with many ports."""
_USED = {
    "function": "SELECT 1 FROM function WHERE name = ?1 UNION ALL "
    "SELECT 1 FROM setting WHERE key = 'remote/' || ?1",
    "tenant": "SELECT 1 FROM function WHERE tenant = ?1 UNION ALL "
    "SELECT 1 FROM setting WHERE key BETWEEN 'remote/' AND 'remote/~' "
    "AND json_extract(value, '$.remote.tenant') = ?1",
    "group": "SELECT 1 FROM function WHERE group_name = ?1",
    "service": "SELECT 1 FROM service WHERE name = ?1",
}


class Writer(Record):
    """One mesh's record, open to be changed; the caller has its lock."""

    def __init__(self, mesh: str) -> None:
        super().__init__(mesh)
        self._unsure: set[tuple[Kind, str]] = set()  # names that something may no longer use
        self._hosts: dict[tuple[str, str], bool] = {}  # lines that came or went

    @classmethod
    def create(cls, wanted: Mesh, home: NetnsId) -> Self:
        """The record of a mesh that there is nothing of yet, in the host namespace ``home``.

        Until ``made`` it is one that nobody but ``up`` finishes.
        """
        private.directory(record.RUN)
        private.directory(record.RUN / wanted.name)
        parts = ("functions", "services", "policies", "injections", "uplinks", "remotes")
        base = wanted.model_copy(update=dict.fromkeys(parts, ()))
        settings = {
            "netns": str(home),
            "limits": wanted.limits.model_dump(),
            "mesh": base.model_dump(mode="json"),
            "making": True,
        }
        _write(file_of(wanted.name), settings)
        return cls(wanted.name)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes of the block, or none; within another one, a part of it."""
        if self._in_transaction():
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._in_transaction():  # not where SQLite found no room and did it itself
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _in_transaction(self) -> bool:
        return self._db.in_transaction

    def put_function(self, function: Function, attachment: Attachment, *, ready: bool) -> None:
        """Write a function's row."""
        text = json.dumps(attachment.__dict__)
        model, about = function.model_dump_json(), (function.tenant, function.group)
        values = (function.name, int(ready), model, text, *about)
        with self.transaction():
            self._leave(function.name)
            self._db.execute("REPLACE INTO function VALUES (?, ?, ?, ?, ?, ?)", values)
            self._put_addresses("function", function.name, function.addresses)

    def delete_function(self, name: str) -> None:
        """Delete a function's row."""
        with self.transaction():
            self._leave(name)
            self._unsure.add(("function", name))
            self._db.execute("DELETE FROM function WHERE name = ?", (name,))
            self.set_unready(name, "")
            self.set_unready(name, "", asked=True)
            self._db.execute("DELETE FROM setting WHERE key = ?", (COMMAND + name,))
            self._put_addresses("function", name, ())

    def put_command(self, function: str, row: CommandRow) -> None:
        """Write what there is to know of a function's command."""
        values = (COMMAND + function, json.dumps(dataclasses.asdict(row)))
        self._db.execute("REPLACE INTO setting VALUES (?, ?)", values)

    def put_pool(self, key: str, inode: int) -> None:
        """Write what the memory of a pool is known by."""
        self._db.execute("REPLACE INTO setting VALUES (?, ?)", (POOL + key, json.dumps(inode)))

    def delete_pool(self, key: str) -> None:
        """Delete a pool's row."""
        self._db.execute("DELETE FROM setting WHERE key = ?", (POOL + key,))

    def put_uplink(self, row: UplinkRow) -> None:
        """Write an uplink's row."""
        values = (UPLINK + row.name, TypeAdapter(UplinkRow).dump_json(row).decode())
        self._db.execute("REPLACE INTO setting VALUES (?, ?)", values)

    def delete_uplink(self, name: str) -> None:
        """Delete an uplink's row."""
        self._db.execute("DELETE FROM setting WHERE key = ?", (UPLINK + name,))

    def put_remote(self, row: RemoteRow) -> None:
        """Write a remote's row; it has an address as functions have."""
        values = (REMOTE + row.name, TypeAdapter(RemoteRow).dump_json(row).decode())
        with self.transaction():
            self._unsure.add(("tenant", row.remote.tenant))
            self._db.execute("REPLACE INTO setting VALUES (?, ?)", values)
            self._put_addresses("function", row.name, row.remote.addresses)

    def delete_remote(self, name: str) -> None:
        """Delete a remote's row."""
        with self.transaction():
            self._unsure.add(("function", name))
            self._db.execute("DELETE FROM setting WHERE key = ?", (REMOTE + name,))
            self.set_unready(name, "")
            self.set_unready(name, "", asked=True)
            self._put_addresses("function", name, ())

    def change_denied(self, gone: Collection[Denied], new: Collection[Denied]) -> None:
        """Write what is denied no more, and what is from now on."""
        delete = "DELETE FROM denied WHERE uplink = ? AND length = ? AND first = ?"
        with self.transaction():
            self._db.executemany(delete, ((one.uplink, *one.block) for one in gone))
            insert = "INSERT INTO denied VALUES (?, ?, ?, 0)"
            self._db.executemany(insert, ((one.uplink, *one.block) for one in new))

    def add_denied(self, packets: Mapping[Denied, int]) -> None:
        """Add to what was dropped for prefixes, as far as they are denied still."""
        update = "UPDATE denied SET packets = packets + ? "
        update += "WHERE uplink = ? AND length = ? AND first = ?"
        rows = ((number, one.uplink, *one.block) for one, number in packets.items())
        with self.transaction():
            self._db.executemany(update, rows)

    def set_unready(self, function: str, why: str, *, asked: bool = False) -> None:
        """Write down why a function gets no new flows of services; empty: this is no reason."""
        key = (ASIDE if asked else UNREADY) + function
        if why:
            self._db.execute("REPLACE INTO setting VALUES (?, ?)", (key, json.dumps(why)))
        else:
            self._db.execute("DELETE FROM setting WHERE key = ?", (key,))

    def _leave(self, function: str) -> None:
        """Tenant and group of a function may have no other one."""
        rows = self._all("SELECT tenant, group_name FROM function WHERE name = ?", function)
        for tenant, group in rows:
            self._unsure.add(("tenant", tenant))
            if group:
                self._unsure.add(("group", group))

    def _put_addresses(self, kind: Kind, name: str, addresses: Sequence[Address]) -> None:
        old = self._all("SELECT address FROM address WHERE kind = ? AND name = ?", kind, name)
        if sorted(text for (text,) in old) != sorted(map(str, addresses)):
            where = "WHERE kind = ? AND name = ?"
            self._db.execute(f"DELETE FROM address {where}", (kind, name))  # noqa: S608
            rows = [(packed(address), kind, name, str(address)) for address in addresses]
            self._db.executemany("INSERT INTO address VALUES (?, ?, ?, ?)", rows)
            self._change_hosts({(text, name) for (text,) in old}, False)
            self._change_hosts({(str(address), name) for address in addresses}, True)

    def _change_hosts(self, lines: set[tuple[str, str]], there: bool) -> None:
        for line in lines:
            if self._hosts.get(line) == (not there):
                del self._hosts[line]  # undone
            else:
                self._hosts[line] = there

    def host_changes(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """What of ``hosts`` went and what came since it was last asked for."""
        gone = [line for line, there in self._hosts.items() if not there]
        new = [line for line, there in self._hosts.items() if there]
        self._hosts.clear()
        return gone, new

    def put_service(self, service: Service, row: int, rows: int, depths: int) -> None:
        """Write a service's row; ``depths`` has a bit for each number of bits of its keys."""
        size = service.entries
        old = self._all("SELECT size FROM service WHERE name = ?", service.name)
        text = service.model_dump_json(exclude={"backends"})
        values = (service.name, text, row, rows, depths, size)
        with self.transaction():
            self._db.execute("REPLACE INTO service VALUES (?, ?, ?, ?, ?, ?)", values)
            self._count("services", size - sum(number for (number,) in old))
            self._put_backends(service.name, service.functions)
            self._put_addresses("service", service.name, service.addresses)

    def delete_service(self, name: str) -> None:
        """Delete a service's row."""
        with self.transaction():
            self._unsure.add(("service", name))
            old = self._all("DELETE FROM service WHERE name = ? RETURNING size", name)
            self._count("services", -sum(number for (number,) in old))
            self._put_backends(name, ())
            self._put_addresses("service", name, ())

    def _put_backends(self, service: str, names: Sequence[str]) -> None:
        """Write which functions and groups a service names; nothing where it does already.

        Undoing what had no room must need little.
        """
        old = self._all("SELECT name FROM backend WHERE service = ?", service)
        if sorted(name for (name,) in old) == sorted(names):
            return
        self._db.execute("DELETE FROM backend WHERE service = ?", (service,))
        rows = [(name, service) for name in names]
        self._db.executemany("INSERT INTO backend VALUES (?, ?)", rows)

    def put_policy(self, policy: Policy, entries: Sequence[Entry]) -> int:
        """Write a policy's row, in the place of one with the same match; its id."""
        with self.transaction():
            number = self.policy_id(policy)
            if number is None:
                number = int(self._all("SELECT ifnull(max(id), 0) + 1 FROM policy")[0][0])
            ends = str(policy.source), str(policy.destination)
            values = (match_of(policy), number, policy.model_dump_json(), *ends)
            self._db.execute("REPLACE INTO policy VALUES (?, ?, ?, ?, ?)", values)
            self._put_entries(number, entries)
        return number

    def delete_policy(self, policy: Policy) -> None:
        """Delete a policy's row."""
        number = self.policy_id(policy)
        if number is not None:
            ends = (policy.source, policy.destination)
            kinds: tuple[Kind, ...] = ("function", "tenant", "service", "group")
            self._unsure |= {(kind, i.name) for i in ends for kind in kinds if i.kind == kind}
            with self.transaction():
                self._db.execute("DELETE FROM policy WHERE id = ?", (number,))
                self._put_entries(number, ())

    def put_injection(self, row: InjectionRow) -> None:
        """Write what is injected under a name, and what its program was injected as last."""
        injection = row.injection
        text, last = injection.model_dump_json(), injection.alone
        with self.transaction():
            values = (injection.name, text, row.program, row.before, row.canary, row.split)
            self._db.execute("REPLACE INTO injection VALUES (?, ?, ?, ?, ?, ?)", values)
            about = (last.model_dump_json(), row.program)
            self._db.execute("UPDATE program SET model = ? WHERE id = ?", about)

    def delete_injection(self, name: str) -> None:
        """Forget what is injected under a name."""
        self._db.execute("DELETE FROM injection WHERE name = ?", (name,))

    def new_program(self, injection: Injection, compiled: Mapping[str, Any]) -> int:
        """Write down a program; its id, the smallest that is free."""
        with self.transaction():
            used = set(self.programs())
            number = next(n for n in itertools.count(1) if n not in used)
            if number >= _abi.PROGRAMS:
                what = f"no room for another program: there are {_abi.PROGRAMS - 1}"
                raise MeshError(what, hint="eject some, or change fewer at a time")
            values = (number, injection.model_dump_json(), json.dumps(compiled))
            self._db.execute("INSERT INTO program VALUES (?, ?, ?)", values)
        return number

    def put_compiled(self, number: int, compiled: Mapping[str, Any]) -> None:
        """Write down what there is to know of a program."""
        about = (json.dumps(compiled), number)
        self._db.execute("UPDATE program SET compiled = ? WHERE id = ?", about)

    def delete_program(self, number: int) -> None:
        """Forget a program."""
        self._db.execute("DELETE FROM program WHERE id = ?", (number,))

    def take_block(self, programs: Chain, last: int, avoid: Set[int]) -> int:
        """A block of mesh_injected for a chain, the smallest that is free, up to ``last``."""
        used = avoid | set(self.chains().values())
        block = next(n for n in itertools.count(1) if n not in used)
        if block > last:
            what = f"no room for another chain: there are {last}"
            raise MeshError(what, hint="inject at tenants rather than at each function")
        values = (block, json.dumps(list(programs)))
        self._db.execute("INSERT INTO chain VALUES (?, ?)", values)
        return block

    def free_block(self, block: int) -> None:
        """Nothing is in a block any more."""
        self._db.execute("DELETE FROM chain WHERE block = ?", (block,))

    def drop_dangling(self) -> None:
        """Take names that lead nowhere out of services, and policies with such names away."""
        whole = self.model()
        for service in whole.services:
            text = service.model_dump_json()
            self._db.execute("UPDATE service SET model = ? WHERE name = ?", (text, service.name))
            self._put_backends(service.name, service.functions)
        kept = {policy.match for policy in whole.policies}
        for _, policy in self.policies():
            if policy.match not in kept:
                self.delete_policy(policy)
        kept_injections = {one.name for one in whole.injections}
        for row in self.injections():
            if row.injection.name not in kept_injections:
                self.delete_injection(row.injection.name)
        self.doubt_all()

    def _set(self, key: Setting, value: object) -> None:
        self._db.execute("REPLACE INTO setting VALUES (?, ?)", (key, json.dumps(value)))

    def set_base(self, base: Mesh) -> None:
        """Write the settings of the mesh that may change while it is up."""
        self._set("mesh", base.model_dump(mode="json"))

    def set_made(self) -> None:
        """The first ``up`` has come to its end: from now on changes are undone, not the mesh."""
        self._set("making", False)

    def set_build(self, build: str) -> None:
        """Write down what the programs that run were compiled from."""
        self._set("build", build)

    def doubt(self) -> None:
        """Have the next change repair the mesh first, unless this one comes to its end."""
        self._set("dirty", True)

    def set_listener(self, process: tuple[int, int] | None) -> None:
        """Write down who is sent events: process and start; None: nobody."""
        self._set("listener", process)

    def reserve(self) -> None:
        """Have what an undo needs, whatever else fills /run; MeshError if there is no room.

        In the files themselves, so that nobody else takes it meanwhile.
        """
        journal = _journal(self._path)
        try:
            private.file(journal)
            with journal.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, UNDO_JOURNAL)  # zeros are no journal to SQLite
        except OSError as error:
            raise no_room(journal, error.strerror) from error
        if not self._all("SELECT 1 FROM reserve"):
            self._db.execute("INSERT INTO reserve VALUES (zeroblob(?))", (UNDO_PAGES,))

    def release(self) -> None:
        """Let an undo have what was reserved."""
        self._db.execute("DELETE FROM reserve")

    def begin_step(self, operation: str) -> None:
        """Write down what is about to be done."""
        self._db.execute("INSERT INTO step (operation) VALUES (?)", (operation,))

    def end_step(self, number: int) -> None:
        """Forget a step that was undone."""
        self._db.execute("DELETE FROM step WHERE number = ?", (number,))

    def end_change(self) -> None:
        """Forget all steps: they are done, or undone."""
        with self.transaction():
            self._db.execute("DELETE FROM step")
            self._set("dirty", False)

    def id_of(self, kind: Kind, name: str) -> int:
        """The id of a name, given now if it has none: the smallest from 1 that is free."""
        number = self.find_id(kind, name)
        if number is not None:
            return number
        self._unsure.add((kind, name))
        with self.transaction():
            free = self._all(
                "DELETE FROM free_id WHERE kind = ?1 AND id = "
                "(SELECT min(id) FROM free_id WHERE kind = ?1) RETURNING id",
                kind,
            ) or self._all("SELECT ifnull(max(id), 0) + 1 FROM id WHERE kind = ?", kind)
            number = int(free[0][0])
            self._db.execute("INSERT INTO id VALUES (?, ?, ?)", (kind, name, number))
        return number

    def doubt_all(self) -> None:
        """Have ``forget_ids`` look at every name: a change was cut short."""
        self._unsure.update(self._all("SELECT kind, name FROM id"))

    def forget_ids(self) -> list[int]:
        """Free the ids of names that nothing uses any more; those of tenants."""
        tenants = []
        for kind, name in sorted(self._unsure):
            number = self.find_id(kind, name)
            if number is None or (kind in _USED and self._all(_USED[kind], name)):
                continue
            if self.names_policy(f"{'outside' if kind == 'prefix' else kind}:{name}"):
                continue  # entries of mesh_policy have the id
            self.forget_id(kind, name)
            tenants += [number] if kind == "tenant" else []
        self._unsure.clear()
        return tenants

    def forget_id(self, kind: Kind, name: str) -> None:
        """Free the id of a name that nothing uses."""
        with self.transaction():
            gone = self._all("DELETE FROM id WHERE kind = ? AND name = ? RETURNING id", kind, name)
            rows = [(kind, number) for (number,) in gone]
            self._db.executemany("INSERT INTO free_id VALUES (?, ?)", rows)

    def put_prefix(self, name: str) -> int:
        """Remember a prefix of the outside; its id."""
        with self.transaction():
            values = (*block_of(name), name)
            new = self._db.execute("INSERT OR IGNORE INTO prefix VALUES (?, ?, ?)", values).rowcount
            self._count("prefixes", new)
            return self.id_of("prefix", name)

    def delete_prefix(self, name: str) -> None:
        """Forget a prefix, and free its id."""
        with self.transaction():
            where = "WHERE length = ? AND first = ?"
            gone = self._db.execute(f"DELETE FROM prefix {where}", block_of(name))  # noqa: S608
            self._count("prefixes", -gone.rowcount)
            self.forget_id("prefix", name)

    def take_rows(self, rows: int) -> int | None:
        """First of so many neighbouring rows of mesh_maglev that are free, and no longer are."""
        with self.transaction():
            found = self._all(
                "SELECT row, rows FROM free_rows WHERE rows >= ? ORDER BY rows, row LIMIT 1", rows
            )
            if not found:
                return None
            row, size = found[0]
            self._db.execute("DELETE FROM free_rows WHERE row = ?", (row,))
            if size > rows:
                self._db.execute("INSERT INTO free_rows VALUES (?, ?)", (row + rows, size - rows))
        return int(row)

    def return_rows(self, row: int, rows: int) -> None:
        """Free rows that ``take_rows`` gave, and join them with their neighbours."""
        if not rows:
            return
        with self.transaction():
            before = self._all(
                "SELECT row, rows FROM free_rows WHERE row < ? ORDER BY row DESC LIMIT 1", row
            )
            after = self._all("SELECT row, rows FROM free_rows WHERE row = ?", row + rows)
            for start, size in after:
                self._db.execute("DELETE FROM free_rows WHERE row = ?", (start,))
                rows += size
            if before and sum(before[0]) == row:
                row, size = before[0]
                rows += size
            self._db.execute("REPLACE INTO free_rows VALUES (?, ?)", (row, rows))

    @property
    def has_free_rows(self) -> bool:
        """Whether ``free_all_rows`` has reckoned which rows are free."""
        return self._get("maglev_rows") is not None

    def free_all_rows(self, total: int) -> None:
        """Reckon anew which rows are free, of so many: those that no service has."""
        with self.transaction():
            self._set("maglev_rows", total)
            self._db.execute("DELETE FROM free_rows")
            end = 0
            for row, rows in self._tables():
                if row > end:
                    self._db.execute("INSERT INTO free_rows VALUES (?, ?)", (end, row - end))
                end = row + rows
            if end < total:
                self._db.execute("INSERT INTO free_rows VALUES (?, ?)", (end, total - end))

    def _tables(self) -> list[tuple[int, int]]:
        return self._all("SELECT row, rows FROM service WHERE rows > 0 ORDER BY row")

    def _put_entries(self, rule: int, entries: Sequence[Entry]) -> None:
        gone = self._db.execute("DELETE FROM entry WHERE rule = ?", (rule,)).rowcount
        self._count("rules", len(entries) - gone)
        self._db.executemany(
            "INSERT INTO entry VALUES (?, ?, ?, ?)",
            [(entry.key, entry.strength, rule, entry.shape) for entry in entries],
        )

    def _count(self, key: str, more: int) -> None:
        if more:
            self._db.execute("UPDATE used SET number = number + ? WHERE key = ?", (more, key))

    def count_ids(self, kind: Kind) -> int:
        """How many ids are given; none is larger."""
        return int(self._all("SELECT count(*) FROM id WHERE kind = ?", kind)[0][0])


def retire(mesh: str, *, asked: bool) -> bool:
    """Have no record any more, and what stands beside it stay; needs no room. Twice is fine.

    Whether it was ``asked`` for, now or the first time.
    """
    gone = record.RUN / mesh / "down.db"
    with contextlib.suppress(FileNotFoundError):
        file_of(mesh).rename(gone if asked else gone.with_name("lost.db"))
    return asked or gone.exists()


def set_aside(mesh: str) -> Path:
    """Keep a record that cannot be read, in the place of an older one; where."""
    return file_of(mesh).rename(record.RUN / f"{mesh}.unreadable")


def remove(mesh: str) -> None:
    """Delete the record and all that stands beside it."""
    shutil.rmtree(record.RUN / mesh, ignore_errors=True)


def _write(path: Path, settings: Mapping[str, Any]) -> None:
    """Write a file without rows but for settings; it appears whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    for old in (new, *map(_journal, (new, path))):
        old.unlink(missing_ok=True)  # a journal would be played back into the new file
    private.file(new)
    with contextlib.closing(connect(new)) as db:
        db.execute("PRAGMA journal_mode = OFF")
        db.execute(f"PRAGMA application_id = {APPLICATION}")
        db.execute(f"PRAGMA user_version = {VERSION}")
        for statement in SCHEMA.strip().split(";\n"):
            db.execute(statement)
        rows = [(key, json.dumps(value)) for key, value in settings.items()]
        db.executemany("INSERT INTO setting VALUES (?, ?)", rows)
    new.replace(path)


def _journal(path: Path) -> Path:
    return path.with_name(f"{path.name}-journal")


def stale_locks() -> list[str]:
    """Names of the meshes that nothing is left of here but a lock's file."""
    locks = [Path(name) for name in private.names(record.RUN) if name.endswith(".lock")]
    return [lock.stem for lock in locks if not (record.RUN / lock.stem).exists()]


@contextlib.contextmanager
def locked(mesh: str, patience: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold the mesh's lock; waits for another process, ``patience`` seconds at most: Busy.

    The lock's file goes with the mesh: whoever leaves last, and finds no record, removes it.
    """
    deadline = time.monotonic() + patience
    while (lock := _try_lock(mesh)) is None:
        if time.monotonic() > deadline:
            raise Busy(
                f"another process has been changing mesh {mesh} for {patience:.0f} s",
                hint=f"fuser {record.RUN}/{mesh}.lock shows it",
            )
        time.sleep(0.02)
    try:
        _close_off(record.RUN / mesh)
        yield
    finally:
        if not (record.RUN / mesh).exists():
            (record.RUN / f"{mesh}.lock").unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                record.RUN.rmdir()
        os.close(lock)


def _try_lock(mesh: str) -> int | None:
    """A descriptor that holds the lock, or None while somebody else does."""
    path = record.RUN / f"{mesh}.lock"
    try:
        private.directory(record.RUN)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PermissionError as error:
        what = f"cannot write {record.RUN}: CAP_DAC_OVERRIDE is needed"
        raise MissingPrivilege(what, hint="run as root") from error
    except FileNotFoundError:  # record.RUN went between the two calls
        return None
    with contextlib.suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The one before us may have removed the file we wait on.
        if os.fstat(lock).st_ino == path.stat().st_ino:
            return lock
    os.close(lock)
    return None


def _close_off(directory: Path) -> None:
    """Close a mesh's directory that an earlier version left open, with all that is in it."""
    if directory.is_dir() and S_IMODE(directory.stat().st_mode) != 0o700:
        private.directory(directory)
        for path in directory.iterdir():
            private.file(path, 0o644 if path.name == "hosts" else 0o600)
