# SPDX-License-Identifier: BSD-2-Clause
"""Who writes the record: its rows, and the steps of a change; and what becomes of a whole one.

Only who holds the mesh's lock does; ``lock.locked`` gives it.
"""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter

from ebpfmesh.kernel import private
from ebpfmesh.kernel.netns import NetnsId
from ebpfmesh.kernel.prefixes import packed
from ebpfmesh.model import Address, Function, Mesh, Policy, Service
from ebpfmesh.state import files, tables
from ebpfmesh.state.allocations import Allocations
from ebpfmesh.state.files import file_of
from ebpfmesh.state.rows import Attachment, CommandRow, InjectionRow, RemoteRow, UplinkRow, match_of
from ebpfmesh.state.tables import (
    ASIDE,
    COMMAND,
    POOL,
    REMOTE,
    UNREADY,
    UPLINK,
    Denied,
    Entry,
    Kind,
    journal_of,
    no_room,
)

UNDO_PAGES = 256 << 10
"""Bytes of the record that only an undo may fill: steps it undoes give it more than it takes."""
UNDO_JOURNAL = 512 << 10
"""Bytes of SQLite's journal, which has the pages of one transaction: of a rule with many ports."""


class Writer(Allocations):
    """One mesh's record, open to be changed; the caller has its lock."""

    def __init__(self, mesh: str) -> None:
        super().__init__(mesh)
        self._hosts: dict[tuple[str, str], bool] = {}  # lines that came or went

    @classmethod
    def create(cls, wanted: Mesh, home: NetnsId) -> Self:
        """The record of a mesh that there is nothing of yet, in the host namespace ``home``.

        Until ``made`` it is one that nobody but ``up`` finishes.
        """
        private.directory(files.RUN)
        private.directory(files.RUN / wanted.name)
        parts = ("functions", "services", "policies", "injections", "uplinks", "remotes")
        base = wanted.model_copy(update=dict.fromkeys(parts, ()))
        settings = {
            "netns": str(home),
            "limits": wanted.limits.model_dump(),
            "mesh": base.model_dump(mode="json"),
            "making": True,
        }
        tables.create(file_of(wanted.name), settings)
        return cls(wanted.name)

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

    def put_compiled(self, number: int, compiled: Mapping[str, Any]) -> None:
        """Write down what there is to know of a program."""
        about = (json.dumps(compiled), number)
        self._db.execute("UPDATE program SET compiled = ? WHERE id = ?", about)

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
        journal = journal_of(self._path)
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

    def _put_entries(self, rule: int, entries: Sequence[Entry]) -> None:
        gone = self._db.execute("DELETE FROM entry WHERE rule = ?", (rule,)).rowcount
        self._count("rules", len(entries) - gone)
        self._db.executemany(
            "INSERT INTO entry VALUES (?, ?, ?, ?)",
            [(entry.key, entry.strength, rule, entry.shape) for entry in entries],
        )


def retire(mesh: str, *, asked: bool) -> bool:
    """Have no record any more, and what stands beside it stay; needs no room. Twice is fine.

    Whether it was ``asked`` for, now or the first time.
    """
    gone = files.RUN / mesh / "down.db"
    with contextlib.suppress(FileNotFoundError):
        file_of(mesh).rename(gone if asked else gone.with_name("lost.db"))
    return asked or gone.exists()


def set_aside(mesh: str) -> Path:
    """Keep a record that cannot be read, in the place of an older one; where."""
    return file_of(mesh).rename(files.RUN / f"{mesh}.unreadable")


def remove(mesh: str) -> None:
    """Delete the record and all that stands beside it."""
    shutil.rmtree(files.RUN / mesh, ignore_errors=True)
