# SPDX-License-Identifier: BSD-2-Clause
"""The tables of a record: settings, ids, and what of the maps is taken.

Every question is answered from an index, so that a change costs the same whatever the size.
"""

import contextlib
import json
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar
from urllib.parse import quote

from pydantic import ConfigDict, Json, TypeAdapter, ValidationError

from ebpfmesh.errors import AbiMismatch, MeshError, UnreadableRecord
from ebpfmesh.kernel import private
from ebpfmesh.kernel.prefixes import Block, block

LOCK_SECONDS = 60.0
Kind = Literal["function", "tenant", "service", "prefix", "group"]
Setting = Literal["netns", "limits", "mesh", "making", "dirty", "listener", "maglev_rows", "build"]
UNREADY, ASIDE = "unready/", "aside/"
"""Begin the keys of settings that tell why a function is not ready; with neither, it is.

What is seen of it, and what somebody asked for: neither ends the other.
"""
UPLINK = "uplink/"
"""Begins the key of a setting that has an uplink's row."""
POOL = "pool/"
"""Begins the key of a setting that has the inode of a pool's memory."""
REMOTE = "remote/"
"""Begins the key of a setting that has a remote's row."""
COMMAND = "command/"
"""Begins the key of a setting that tells of a function's command."""
T = TypeVar("T")
_STEP = TypeAdapter(tuple[str, Json[Any]])
_REASON = TypeAdapter(str, config=ConfigDict(strict=True))

VERSION = 9
"""Of the tables and of what the settings mean: another one is not read."""
APPLICATION = int.from_bytes(b"mesh")  # what file(1) would tell the file by
SCHEMA = """
CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE id (kind TEXT, name TEXT, id INTEGER, PRIMARY KEY (kind, name), UNIQUE (kind, id));
CREATE TABLE free_id (kind TEXT, id INTEGER, PRIMARY KEY (kind, id)) WITHOUT ROWID;
CREATE TABLE function (name TEXT PRIMARY KEY, ready INTEGER, model TEXT, attachment TEXT,
 tenant TEXT, group_name TEXT);
CREATE INDEX function_tenant ON function (tenant);
CREATE INDEX function_group ON function (group_name);
CREATE TABLE service (name TEXT PRIMARY KEY, model TEXT, row INTEGER, rows INTEGER, depths INTEGER,
 size INTEGER);
CREATE INDEX service_depths ON service (depths);
CREATE INDEX service_row ON service (row, rows);
CREATE TABLE backend (name TEXT, service TEXT, PRIMARY KEY (name, service)) WITHOUT ROWID;
CREATE INDEX backend_service ON backend (service);
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
CREATE TABLE injection (name TEXT PRIMARY KEY, model TEXT, program INTEGER, before INTEGER,
 canary INTEGER, split INTEGER);
CREATE TABLE program (id INTEGER PRIMARY KEY, model TEXT, compiled TEXT);
CREATE TABLE chain (block INTEGER PRIMARY KEY, programs TEXT UNIQUE);
CREATE TABLE denied (uplink TEXT, length INTEGER, first BLOB, packets INTEGER,
 PRIMARY KEY (uplink, length, first)) WITHOUT ROWID;
CREATE TABLE step (number INTEGER PRIMARY KEY, operation TEXT);
CREATE TABLE reserve (room BLOB);
"""
_NUMBERS = {
    "id": "id",
    "free_id": "id",
    "function": "ready",
    "service": "row rows depths size",
    "policy": "id",
    "entry": "strength rule shape",
    "prefix": "length",
    "used": "number",
    "free_rows": "row rows",
    "injection": "program before canary split",
    "denied": "length packets",
}
"""Columns of whole numbers, none below zero: SQLite itself takes what it is given."""
_TEXTS = {"backend": "name service", "denied": "uplink", "step": "operation"}
_ADDRESSES = {"address": "packed", "prefix": "first", "denied": "first"}
_WRONG = (
    (_NUMBERS, "typeof({0}) != 'integer' OR {0} < 0"),
    (_TEXTS, "typeof({0}) != 'text'"),
    (_ADDRESSES, "typeof({0}) != 'blob' OR length({0}) != 16"),
)
_NUMBERED = """
SELECT kind, max(id) FROM (SELECT kind, id FROM id UNION ALL SELECT kind, id FROM free_id)
 GROUP BY kind HAVING count(*) != max(id) OR min(id) != 1
"""
_TABLES = frozenset(re.findall(r"CREATE TABLE (\w+)", SCHEMA))


@dataclass(frozen=True)
class Entry:
    """An entry of mesh_policy that a rule makes. The lowest ``strength`` of a key decides.

    ``shape`` is unique for the rule's shape and depth.
    """

    key: bytes
    strength: int
    shape: int


class Denied(NamedTuple):
    """A denied prefix, at the uplink of this name, be it there or not; empty: at all of them."""

    uplink: str
    block: Block


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
            raise no_room(path, error) from error
        else:
            raise unreadable(path, error) from error
        raise MeshError(what, hint=hint) from error


def no_room(path: Path, why: object) -> MeshError:
    """What to raise if a file cannot be written."""
    return MeshError(f"{path}: {why}", hint=f"is there room? df {path.parent}; ulimit -f -n")


def unreadable(path: Path, why: object) -> UnreadableRecord:
    """What to raise if a record is damaged."""
    return UnreadableRecord(
        f"{path} cannot be read: {why}",
        hint="ebpfmesh up FILE makes the mesh anew, down removes it; this file is kept",
    )


def _fault(error: Exception) -> str:
    """What is wrong with the value of a row."""
    if isinstance(error, ValidationError):
        first, *_ = error.errors(include_url=False, include_context=False, include_input=False)
        return ": ".join((".".join(map(str, first["loc"])) or "all of it", first["msg"]))
    return "it is no JSON" if isinstance(error, json.JSONDecodeError) else str(error)


class _Connection(sqlite3.Connection):
    """One whose errors are translated."""

    path = Path()

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        with _translated(self.path):
            return super().execute(*arguments)

    def executemany(self, *arguments: Any) -> sqlite3.Cursor:
        with _translated(self.path):
            return super().executemany(*arguments)


def connect(path: Path) -> _Connection:
    """Open the file, which must be there."""
    with _translated(path):
        made = sqlite3.connect(
            f"file:{quote(str(path))}?mode=rw", uri=True, isolation_level=None,
            timeout=LOCK_SECONDS, factory=_Connection,
        )  # fmt: skip
    made.path = path
    made.execute("PRAGMA synchronous = OFF")  # a tmpfs: there is no disk to wait for
    made.execute("PRAGMA journal_mode = PERSIST")  # what room it has, it keeps
    return made


def create(path: Path, settings: Mapping[str, Any]) -> None:
    """Write a file without rows but for settings; it appears whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    for old in (new, *map(journal_of, (new, path))):
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


def journal_of(path: Path) -> Path:
    """Where SQLite keeps what a transaction may have to undo."""
    return path.with_name(f"{path.name}-journal")


class Tables:
    """An SQLite file with the tables of one mesh.

    Raises AbiMismatch if another version wrote it, UnreadableRecord if it is no such file; a row
    that is damaged is found by who reads it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = connect(path)
        try:
            self._check_version()
        except BaseException:
            self._db.close()
            raise

    def _check_version(self) -> None:
        pragmas = ("application_id", "user_version")
        application, version = (self._all(f"PRAGMA {name}")[0][0] for name in pragmas)
        tables = {name for (name,) in self._all("SELECT name FROM sqlite_master")}
        if application != APPLICATION or (version == VERSION and not tables >= _TABLES):
            raise unreadable(self._path, "it is no record of a mesh, or not all of one")
        if version != VERSION:
            raise AbiMismatch(
                f"{self._path} is of version {version}, this ebpfmesh uses version {VERSION}",
                hint="take the mesh down, then bring it up: ebpfmesh down",
            )

    def check_tables(self) -> None:
        """Raise UnreadableRecord if the file is damaged, or a column has what it cannot have."""
        for (line,) in self._all("PRAGMA quick_check(1)"):
            if line != "ok":
                raise unreadable(self._path, line)
        for columns, wrong in _WRONG:
            for table, names in columns.items():
                for name in names.split():
                    query = f"SELECT quote({name}) FROM {table} WHERE {wrong.format(name)} LIMIT 1"  # noqa: S608
                    for (value,) in self._all(query):
                        raise unreadable(self._path, f"{name} of table {table} is {value}")
        for kind, last in self._all(_NUMBERED):
            raise unreadable(self._path, f"the numbers of kind {kind} are not 1 to {last}")
        for number, text in self.steps():
            self._read(_STEP.validate_json, text, f"step {number}")
        rows = self._get("maglev_rows")
        for name, row in self._all("SELECT name, row FROM service WHERE row + rows > ?", rows or 0):
            raise unreadable(self._path, f"service {name}: there is no row {row}")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _all(self, query: str, *values: object) -> list[Any]:
        with _translated(self._path):
            return self._db.execute(query, values).fetchall()

    def _get(self, key: Setting, default: Any = None) -> Any:
        rows = self._all("SELECT value FROM setting WHERE key = ?", key)
        return self._read(json.loads, rows[0][0], key) if rows else default

    def _read(self, read: Callable[[Any], T], value: Any, what: str) -> T:
        """What ``read`` makes of a value of the row of ``what``."""
        try:
            return read(value)
        except (ValueError, TypeError, OverflowError) as error:  # pydantic's are ValueErrors
            raise unreadable(self._path, f"{what}: {_fault(error)}") from error

    def steps(self) -> list[tuple[int, str]]:
        """(Number, operation) of what a change has begun to do, the last one first."""
        return self._all("SELECT number, operation FROM step ORDER BY number DESC")

    @property
    def cut_short(self) -> bool:
        """Whether a change was begun and not ended."""
        return bool(self._get("dirty") or self._all("SELECT 1 FROM step LIMIT 1"))

    def find_id(self, kind: Kind, name: str) -> int | None:
        """The id of a name, or None."""
        rows = self._all("SELECT id FROM id WHERE kind = ? AND name = ?", kind, name)
        return int(rows[0][0]) if rows else None

    def names(self, kind: Kind) -> dict[int, str]:
        """Names by id."""
        return dict(self._all("SELECT id, name FROM id WHERE kind = ?", kind))

    def names_policy(self, identity: object) -> bool:
        """Whether a policy names this identity."""
        query = "SELECT 1 FROM policy WHERE source = ?1 UNION ALL SELECT 1 FROM policy "
        return bool(self._all(f"{query} WHERE destination = ?1 LIMIT 1", str(identity)))

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

    def shapes(self) -> list[int]:
        """The ``shape`` of all entries, each once."""
        return self._distinct("entry", "shape")

    def unready(self) -> dict[str, str]:
        """Functions that get no new flows of services, and why."""
        return self._reasons(UNREADY) | self._reasons(ASIDE)

    def marks(self) -> dict[str, str]:
        """Those of them that are so by what is seen of them."""
        return self._reasons(UNREADY)

    def mark(self, function: str, *, asked: bool = False) -> str:
        """Why one gets none, by what is seen of it or as somebody ``asked``; or nothing."""
        key = (ASIDE if asked else UNREADY) + function
        rows = self._all("SELECT value FROM setting WHERE key = ?", key)
        return self._read(_REASON.validate_json, rows[0][0], key) if rows else ""

    def _reasons(self, kind: str) -> dict[str, str]:
        texts = self._texts(kind).items()
        return {name: self._read(_REASON.validate_json, text, kind + name) for name, text in texts}

    def _texts(self, kind: str) -> dict[str, str]:
        """The values of settings whose keys begin so, by the rest of the key."""
        query = "SELECT substr(key, ?), value FROM setting WHERE key BETWEEN ? AND ?"
        return dict(self._all(query, len(kind) + 1, kind, kind + "~"))

    def denied(self) -> dict[Denied, int]:
        """What is denied, and packets that were dropped for it by lists of before."""
        rows = self._all("SELECT uplink, length, first, packets FROM denied")
        return {
            Denied(uplink, self._read(block, both, "a denied prefix")): packets
            for uplink, *both, packets in rows
        }

    def count_denied(self) -> dict[str, int]:
        """How many prefixes are denied at each uplink; by an empty name: at all."""
        return dict(self._all("SELECT uplink, count(*) FROM denied GROUP BY uplink"))

    def sizes(self) -> dict[str, int]:
        """What is used of limits.services, limits.rules and limits.prefixes."""
        return dict(self._all("SELECT key, number FROM used"))

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
