# SPDX-License-Identifier: BSD-2-Clause
"""The tables of a record: settings, ids, and what of the maps is taken.

Every question is answered from an index, so that a change costs the same whatever the size.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ebpfmesh.errors import MeshError
from ebpfmesh.kernel.prefixes import Block, block_of

LOCK_SECONDS = 60.0
Kind = Literal["function", "tenant", "service", "prefix"]

_SCHEMA = """
CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE id (kind TEXT, name TEXT, id INTEGER, PRIMARY KEY (kind, name), UNIQUE (kind, id));
CREATE TABLE free_id (kind TEXT, id INTEGER, PRIMARY KEY (kind, id)) WITHOUT ROWID;
CREATE TABLE function (name TEXT PRIMARY KEY, ready INTEGER, model TEXT, place TEXT, tenant TEXT);
CREATE INDEX function_tenant ON function (tenant);
CREATE TABLE service (name TEXT PRIMARY KEY, model TEXT, row INTEGER, rows INTEGER, depths INTEGER,
 size INTEGER);
CREATE INDEX service_depths ON service (depths);
CREATE INDEX service_row ON service (row, rows);
CREATE TABLE address (packed BLOB, kind TEXT, name TEXT, address TEXT,
 PRIMARY KEY (packed, kind, name)) WITHOUT ROWID;
CREATE INDEX address_name ON address (kind, name);
CREATE TABLE policy (match TEXT PRIMARY KEY, id INTEGER UNIQUE, model TEXT, source TEXT,
 destination TEXT);
CREATE INDEX policy_source ON policy (source);
CREATE INDEX policy_destination ON policy (destination);
CREATE TABLE entry (key BLOB, strength INTEGER, rule INTEGER, shape INTEGER,
 PRIMARY KEY (key, strength, rule)) WITHOUT ROWID;
CREATE INDEX entry_rule ON entry (rule);
CREATE INDEX entry_shape ON entry (shape);
CREATE TABLE prefix (length INTEGER, first BLOB, name TEXT, PRIMARY KEY (length, first))
 WITHOUT ROWID;
CREATE INDEX prefix_first ON prefix (first);
CREATE TABLE used (key TEXT PRIMARY KEY, number INTEGER) WITHOUT ROWID;
INSERT INTO used VALUES ('services', 0), ('rules', 0), ('prefixes', 0);
CREATE TABLE free_rows (row INTEGER PRIMARY KEY, rows INTEGER);
CREATE INDEX free_rows_rows ON free_rows (rows, row);
"""
_USED = {
    "function": "SELECT 1 FROM function WHERE name = ?1",
    "tenant": "SELECT 1 FROM function WHERE tenant = ?1",
    "service": "SELECT 1 FROM service WHERE name = ?1",
    "prefix": "SELECT 1 FROM policy WHERE source = 'outside:' || ?1 "
    "UNION ALL SELECT 1 FROM policy WHERE destination = 'outside:' || ?1",
}


@dataclass(frozen=True)
class Entry:
    """An entry of mesh_policy that a rule makes. The lowest ``strength`` of a key decides.

    ``shape`` is unique for the rule's shape and depth.
    """

    key: bytes
    strength: int
    shape: int


class Tables:
    """An SQLite file with the tables of one mesh."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self._unsure: set[tuple[Kind, str]] = set()  # names that something may no longer use
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=LOCK_SECONDS)
            self._db.execute("PRAGMA synchronous = OFF")  # a tmpfs: there is no disk to wait for
            if create and not self._all("SELECT name FROM sqlite_master"):
                with self.transaction():
                    for statement in _SCHEMA.strip().split(";\n"):
                        self._db.execute(statement)
        except sqlite3.Error as error:
            raise MeshError(f"{path}: {error}", hint="remove what is left: ebpfmesh gc") from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes of the block, or none; within another one, a part of it."""
        if self._db.in_transaction:
            yield
            return
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

    def find_id(self, kind: Kind, name: str) -> int | None:
        """The id of a name, or None."""
        rows = self._all("SELECT id FROM id WHERE kind = ? AND name = ?", kind, name)
        return int(rows[0][0]) if rows else None

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

    def names(self, kind: Kind) -> dict[int, str]:
        """Names by id."""
        return dict(self._all("SELECT id, name FROM id WHERE kind = ?", kind))

    def doubt_all(self) -> None:
        """Have ``forget_ids`` look at every name: a change was cut short."""
        self._unsure.update(self._all("SELECT kind, name FROM id"))

    def forget_ids(self) -> list[int]:
        """Free the ids of names that nothing uses any more; those of tenants."""
        tenants = []
        for kind, name in sorted(self._unsure):
            number = self.find_id(kind, name)
            if number is None or self._all(_USED[kind], name):
                continue
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

    def names_policy(self, identity: object) -> bool:
        """Whether a policy names this identity."""
        query = "SELECT 1 FROM policy WHERE source = ?1 UNION ALL SELECT 1 FROM policy "
        return bool(self._all(f"{query} WHERE destination = ?1 LIMIT 1", str(identity)))

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

    def prefixes_around(self, block: Block) -> list[str]:
        """Known prefixes that hold this one and are wider, the longest first."""
        found = []
        for length in reversed(self._distinct("prefix", "length")):
            if length < block.length:
                where = block.wider(length)
                query = "SELECT name FROM prefix WHERE length = ? AND first = ?"
                found += [name for (name,) in self._all(query, *where)]
        return found

    def prefixes_inside(self, block: Block) -> list[str]:
        """Known prefixes in this one, but for itself."""
        query = "SELECT name FROM prefix WHERE first BETWEEN ? AND ? AND length > ?"
        return [name for (name,) in self._all(query, block.first, block.last, block.length)]

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

    def free_all_rows(self, total: int) -> None:
        """Reckon anew which rows are free, of so many: those that no service has."""
        with self.transaction():
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

    def entries(self, rule: int) -> list[bytes]:
        """Keys in mesh_policy that a rule has."""
        return [key for (key,) in self._all("SELECT key FROM entry WHERE rule = ?", rule)]

    def strongest(self, key: bytes, *, without: int = 0) -> tuple[int, int] | None:
        """(Strength, rule) of the rule that has a key, as if the rule ``without`` were not."""
        rows = self._all(
            "SELECT strength, rule FROM entry WHERE key = ? AND rule != ? "
            "ORDER BY strength, rule LIMIT 1",
            key, without,
        )  # fmt: skip
        return rows[0] if rows else None

    def _put_entries(self, rule: int, entries: Sequence[Entry]) -> None:
        gone = self._db.execute("DELETE FROM entry WHERE rule = ?", (rule,)).rowcount
        self._count("rules", len(entries) - gone)
        self._db.executemany(
            "INSERT INTO entry VALUES (?, ?, ?, ?)",
            [(entry.key, entry.strength, rule, entry.shape) for entry in entries],
        )

    def shapes(self) -> list[int]:
        """The ``shape`` of all entries, each once."""
        return self._distinct("entry", "shape")

    def sizes(self) -> dict[str, int]:
        """What is used of limits.services, limits.rules and limits.prefixes."""
        return dict(self._all("SELECT key, number FROM used"))

    def _count(self, key: str, more: int) -> None:
        if more:
            self._db.execute("UPDATE used SET number = number + ? WHERE key = ?", (more, key))

    def service_depths(self) -> int:
        """The ``depths`` of all services, in one."""
        found = 0
        for depths in self._distinct("service", "depths"):
            found |= depths
        return found

    def _distinct(self, table: str, column: str) -> list[int]:
        """Each value of an indexed column once, by a look-up each."""
        rows = self._all(
            f"WITH RECURSIVE each(v) AS (SELECT min({column}) FROM {table} UNION ALL SELECT "  # noqa: S608
            f"(SELECT min({column}) FROM {table} WHERE {column} > v) FROM each "
            "WHERE v IS NOT NULL) SELECT v FROM each WHERE v IS NOT NULL"
        )
        return [value for (value,) in rows]
