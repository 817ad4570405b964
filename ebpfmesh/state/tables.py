# SPDX-License-Identifier: BSD-2-Clause
"""The tables of a record: settings, ids, and what of the maps is taken.

Every question is answered from an index, so that a change costs the same whatever the size.
"""

import contextlib
import json
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote

from ebpfmesh.errors import AbiMismatch, MeshError, UnreadableRecord
from ebpfmesh.kernel import private
from ebpfmesh.kernel.prefixes import Block, block_of

LOCK_SECONDS = 60.0
Kind = Literal["function", "tenant", "service", "prefix", "group"]
T = TypeVar("T")

VERSION = 3
"""Of the tables and of what the settings mean: another one is not read."""
_APPLICATION = int.from_bytes(b"mesh")  # what file(1) would tell the file by
_SCHEMA = """
CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE id (kind TEXT, name TEXT, id INTEGER, PRIMARY KEY (kind, name), UNIQUE (kind, id));
CREATE TABLE free_id (kind TEXT, id INTEGER, PRIMARY KEY (kind, id)) WITHOUT ROWID;
CREATE TABLE function (name TEXT PRIMARY KEY, ready INTEGER, model TEXT, place TEXT, tenant TEXT,
 group_name TEXT);
CREATE INDEX function_tenant ON function (tenant);
CREATE INDEX function_group ON function (group_name);
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
CREATE TABLE step (number INTEGER PRIMARY KEY, operation TEXT, iface TEXT);
"""
_TABLES = frozenset(re.findall(r"CREATE TABLE (\w+)", _SCHEMA))
_USED = {
    "function": "SELECT 1 FROM function WHERE name = ?1",
    "tenant": "SELECT 1 FROM function WHERE tenant = ?1",
    "group": "SELECT 1 FROM function WHERE group_name = ?1",
    "service": "SELECT 1 FROM service WHERE name = ?1",
}


@dataclass(frozen=True)
class Entry:
    """An entry of mesh_policy that a rule makes. The lowest ``strength`` of a key decides.

    ``shape`` is unique for the rule's shape and depth.
    """

    key: bytes
    strength: int
    shape: int


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Errors of SQLite as the user meets them."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        what = f"{path}: {error}"
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            hint = f"another process has it open: fuser {path}"
        elif code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
            hint = f"is there room? df {path.parent}; ulimit -f -n"
        else:
            raise unreadable(path, error) from error
        raise MeshError(what, hint=hint) from error


def unreadable(path: Path, why: object) -> UnreadableRecord:
    """What to raise if a record is damaged."""
    return UnreadableRecord(
        f"{path} cannot be read: {why}",
        hint="ebpfmesh up FILE makes the mesh anew, down removes it; this file is kept",
    )


class _Connection(sqlite3.Connection):
    """One whose errors are translated."""

    path = Path()

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        with _translated(self.path):
            return super().execute(*arguments)

    def executemany(self, *arguments: Any) -> sqlite3.Cursor:
        with _translated(self.path):
            return super().executemany(*arguments)


def _connect(path: Path) -> _Connection:
    with _translated(path):
        made = sqlite3.connect(
            f"file:{quote(str(path))}?mode=rw", uri=True, isolation_level=None,
            timeout=LOCK_SECONDS, factory=_Connection,
        )  # fmt: skip
    made.path = path
    made.execute("PRAGMA synchronous = OFF")  # a tmpfs: there is no disk to wait for
    return made


def write(path: Path, settings: Mapping[str, Any]) -> None:
    """Write a file without rows but for settings; it appears whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    for old in (new, *map(_journal, (new, path))):
        old.unlink(missing_ok=True)  # a journal would be played back into the new file
    private.file(new)
    with contextlib.closing(_connect(new)) as db:
        db.execute("PRAGMA journal_mode = OFF")
        db.execute(f"PRAGMA application_id = {_APPLICATION}")
        db.execute(f"PRAGMA user_version = {VERSION}")
        for statement in _SCHEMA.strip().split(";\n"):
            db.execute(statement)
        rows = [(key, json.dumps(value)) for key, value in settings.items()]
        db.executemany("INSERT INTO setting VALUES (?, ?)", rows)
    new.replace(path)


def _journal(path: Path) -> Path:
    return path.with_name(f"{path.name}-journal")


class Tables:
    """An SQLite file with the tables of one mesh.

    Raises AbiMismatch if another version wrote it, UnreadableRecord if it is no such file; a row
    that is damaged is found by who reads it.
    """

    def __init__(self, path: Path) -> None:
        self._unsure: set[tuple[Kind, str]] = set()  # names that something may no longer use
        self._path = path
        self._db = _connect(path)
        try:
            self._check_version()
        except BaseException:
            self._db.close()
            raise

    def _check_version(self) -> None:
        pragmas = ("application_id", "user_version")
        application, version = (self._all(f"PRAGMA {name}")[0][0] for name in pragmas)
        tables = {name for (name,) in self._all("SELECT name FROM sqlite_master")}
        if application != _APPLICATION or (version == VERSION and not tables >= _TABLES):
            raise unreadable(self._path, "it is no record of a mesh, or not all of one")
        if version != VERSION:
            raise AbiMismatch(
                f"{self._path} is of version {version}, this ebpfmesh uses version {VERSION}",
                hint="take the mesh down, then bring it up: ebpfmesh down",
            )

    def check_pages(self) -> None:
        """Raise UnreadableRecord if the file is damaged anywhere."""
        for (line,) in self._all("PRAGMA quick_check(1)"):
            if line != "ok":
                raise unreadable(self._path, line)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _in_transaction(self) -> bool:
        return self._db.in_transaction

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

    def _all(self, query: str, *values: object) -> list[Any]:
        with _translated(self._path):
            return self._db.execute(query, values).fetchall()

    def get(self, key: str, default: Any = None) -> Any:
        """A setting: any JSON value."""
        rows = self._all("SELECT value FROM setting WHERE key = ?", key)
        return self._read(json.loads, rows[0][0]) if rows else default

    def _read(self, read: Callable[[Any], T], value: Any) -> T:
        """What ``read`` makes of a value of a row."""
        try:
            return read(value)
        except (ValueError, TypeError) as error:  # pydantic's are ValueErrors
            raise unreadable(self._path, f"{type(error).__name__} in a row") from error

    def set(self, key: str, value: Any) -> None:
        """Write a setting."""
        self._db.execute("REPLACE INTO setting VALUES (?, ?)", (key, json.dumps(value)))

    def begin_step(self, operation: str, iface: str) -> None:
        """Write down what is about to be done, and the interface of others it is about."""
        values = (operation, iface)
        self._db.execute("INSERT INTO step (operation, iface) VALUES (?, ?)", values)

    def steps(self) -> list[tuple[int, str, str]]:
        """(Number, operation, interface) of what a change has begun to do, the last one first."""
        return self._all("SELECT number, operation, iface FROM step ORDER BY number DESC")

    def end_step(self, number: int) -> None:
        """Forget a step that was undone."""
        self._db.execute("DELETE FROM step WHERE number = ?", (number,))

    @property
    def cut_short(self) -> bool:
        """Whether a change was begun and not ended."""
        return bool(self.get("dirty") or self._all("SELECT 1 FROM step LIMIT 1"))

    def end_change(self) -> None:
        """Forget all steps: they are done, or undone."""
        with self.transaction():
            self._db.execute("DELETE FROM step")
            self.set("dirty", False)

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

    def count_ids(self, kind: Kind) -> int:
        """How many ids are given; none is larger."""
        return int(self._all("SELECT count(*) FROM id WHERE kind = ?", kind)[0][0])

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

    def all_entries(self) -> frozenset[bytes]:
        """Keys in mesh_policy of all rules."""
        return frozenset(key for (key,) in self._all("SELECT DISTINCT key FROM entry"))

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
