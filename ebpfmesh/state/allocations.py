# SPDX-License-Identifier: BSD-2-Clause
"""What a record gives out and takes back: ids, rows and blocks of maps, numbers of programs."""

import contextlib
import itertools
import json
from collections.abc import Iterator, Mapping, Set
from typing import Any

from ebpfmesh import _abi
from ebpfmesh.errors import MeshError
from ebpfmesh.kernel.prefixes import block_of
from ebpfmesh.model import Injection
from ebpfmesh.state.record import Record
from ebpfmesh.state.rows import Chain
from ebpfmesh.state.tables import Kind, Setting

_USED = {
    "function": "SELECT 1 FROM function WHERE name = ?1 UNION ALL "
    "SELECT 1 FROM setting WHERE key = 'remote/' || ?1",
    "tenant": "SELECT 1 FROM function WHERE tenant = ?1 UNION ALL "
    "SELECT 1 FROM setting WHERE key BETWEEN 'remote/' AND 'remote/~' "
    "AND json_extract(value, '$.remote.tenant') = ?1",
    "group": "SELECT 1 FROM function WHERE group_name = ?1",
    "service": "SELECT 1 FROM service WHERE name = ?1",
}


class Allocations(Record):
    """A record of which the caller has the lock, as far as something in it is given out."""

    def __init__(self, mesh: str) -> None:
        super().__init__(mesh)
        self._unsure: set[tuple[Kind, str]] = set()  # names that something may no longer use

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

    def _set(self, key: Setting, value: object) -> None:
        self._db.execute("REPLACE INTO setting VALUES (?, ?)", (key, json.dumps(value)))

    def _count(self, key: str, more: int) -> None:
        if more:
            self._db.execute("UPDATE used SET number = number + ? WHERE key = ?", (more, key))

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

    def count_ids(self, kind: Kind) -> int:
        """How many ids are given; none is larger."""
        return int(self._all("SELECT count(*) FROM id WHERE kind = ?", kind)[0][0])

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
