# SPDX-License-Identifier: BSD-2-Clause
"""Rows of a record that were damaged: of uplinks, remotes, pools, the deny list, functions.

Each is told by file and object with exit code 7, whoever reads it. ``up`` makes the mesh anew, and
``gc`` and ``down`` remove all of it, and nothing of others.
"""

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ebpfmesh import apply
from ebpfmesh.errors import UnreadableRecord
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Mesh
from ebpfmesh.state import sound
from ebpfmesh.state.files import RUN
from ebpfmesh.state.record import Record
from support.agreeing import disagreements
from support.command import complaint
from support.everything import DENIED, at_uplinks, everything, up
from support.outside import beyond
from support.topology import collected, leftovers, mesh_of, poll, running

NAME = "damaged"
RECORD = RUN / NAME / "record.db"
POOL = "pool/default/shared/%"


def changed(key: str, change: Callable[[Any], object]) -> Callable[[], None]:
    """A setting says what ``change`` makes of what it says; a string: as it is."""

    def do() -> None:
        with contextlib.closing(sqlite3.connect(RECORD)) as db, db:
            query = "SELECT key, value FROM setting WHERE key LIKE ?"
            [(found, text)] = db.execute(query, (key,)).fetchall()
            new = change(json.loads(text))
            value = new if isinstance(new, str | bytes) else json.dumps(new)
            db.execute("UPDATE setting SET value = ? WHERE key = ?", (value, found))

    return do


def sql(text: str) -> Callable[[], None]:
    def do() -> None:
        with contextlib.closing(sqlite3.connect(RECORD)) as db, db:
            assert db.execute(text).rowcount

    return do


def with_keys(*path: str, **keys: object) -> Callable[[Any], object]:
    """Keys of a row, or of a part of it, have other values."""

    def change(row: Any) -> object:
        part = row
        for name in path:
            part = part[name]
        part.update(keys)
        return row

    return change


U0 = "uplink/u0"
DAMAGES: dict[str, tuple[Callable[[], None], str]] = {
    "uplink: no JSON": (changed(U0, lambda _: "{"), "uplink u0"),
    "uplink: no text": (changed(U0, lambda _: b"\xff\x00"), "uplink u0"),
    "uplink: a number": (changed(U0, lambda _: 7), "uplink u0"),
    "uplink: no number": (changed(U0, with_keys(ifindex="x")), "uplink u0: ifindex"),
    "uplink: below zero": (changed(U0, with_keys(ifindex=-1)), "uplink u0: ifindex"),
    "uplink: too large": (changed(U0, with_keys(ifindex=1 << 40)), "uplink u0: ifindex"),
    "uplink: unknown key": (changed(U0, with_keys(more=1)), "uplink u0: more"),
    "uplink: of the file": (changed(U0, with_keys("uplink", more=1)), "uplink u0: uplink.more"),
    "uplink: address": (changed(U0, with_keys(addresses=["1.2.3"])), "uplink u0: addresses"),
    "uplink: ports": (
        changed(U0, with_keys("uplink", masquerade_ports="9-3")),
        "uplink u0: uplink.masquerade_ports",
    ),
    "uplink: another's": (changed(U0, with_keys("uplink", name="zz")), "uplink u0"),
    "uplink: key": (sql(f"UPDATE setting SET key = 'uplink/zz' WHERE key = '{U0}'"), "uplink zz"),
    "remote: null": (changed("remote/r", lambda _: None), "remote r"),
    "remote: a function's": (changed("remote/r", with_keys(id=1)), "remote r: its number"),
    "remote: too large": (changed("remote/r", with_keys(id=1 << 30)), "remote r: its number"),
    "remote: below zero": (changed("remote/r", with_keys(id=-1)), "remote r: id"),
    "remote: of nobody": (sql("DELETE FROM id WHERE name = 'r'"), "remote r: its number"),
    "remote: address": (
        changed("remote/r", with_keys("remote", address4="198.18.0.300")),
        "remote r: remote.address4",
    ),
    "pool: no JSON": (changed(POOL, lambda _: "{"), "pool default/shared"),
    "pool: null": (changed(POOL, lambda _: None), "pool default/shared"),
    "pool: too large": (changed(POOL, lambda _: 1 << 80), "pool default/shared"),
    "pool: below zero": (changed(POOL, lambda _: -1), "pool default/shared"),
    "pool: key": (
        sql(f"UPDATE setting SET key = 'pool/../../tmp/1/1' WHERE key LIKE '{POOL}'"),
        "pool ../../tmp",
    ),
    "pool: short key": (
        sql(f"UPDATE setting SET key = 'pool/zz' WHERE key LIKE '{POOL}'"),
        "pool zz",
    ),
    "deny: length": (sql("UPDATE denied SET length = 999"), "a denied prefix: "),
    "deny: no number": (sql("UPDATE denied SET length = 'x'"), "length of table denied"),
    "deny: cut short": (sql("UPDATE denied SET first = x'01'"), "first of table denied"),
    "deny: more bits": (sql("UPDATE denied SET length = 100"), "a denied prefix: "),
    "deny: uplink": (sql("UPDATE denied SET uplink = x'00'"), "uplink of table denied"),
    "deny: below zero": (sql("UPDATE denied SET packets = -1"), "packets of table denied"),
    "port: queues": (
        sql("UPDATE function SET model = json_set(model, '$.queues', 9999) WHERE name = 'port'"),
        "function port: queues",
    ),
    "port: datapath": (
        sql("UPDATE function SET model = json_set(model, '$.datapath', 'x') WHERE name = 'port'"),
        "function port: datapath",
    ),
    "port: pool": (
        sql("UPDATE function SET model = json_set(model, '$.pools[0].members', 999)"
            " WHERE name = 'port'"),
        "function port: pools.0.members",
    ),
    "port: unknown": (
        sql("UPDATE function SET attachment = json_set(attachment, '$.more', 1)"
            " WHERE name = 'port'"),
        "function port: more",
    ),
    "port: interface": (
        sql("UPDATE function SET attachment = json_set(attachment, '$.ifindex', 'x')"
            " WHERE name = 'port'"),
        "function port: ifindex",
    ),
    "function: of nobody": (sql("DELETE FROM id WHERE name = 'raw'"), "the numbers of kind"),
    "numbers": (sql("UPDATE id SET id = 99999 WHERE name = 'raw'"), "the numbers of kind function"),
    "command": (changed("command/mate", lambda _: {"more": 1}), "the command of function mate"),
    "reason": (sql("INSERT INTO setting VALUES ('unready/a', '7')"), "unready/a"),
    "service: row": (sql("UPDATE service SET row = 99999999"), "service web: there is no row"),
    "step": (sql("INSERT INTO step (operation) VALUES ('[')"), "step "),
    "step: no fields": (sql("INSERT INTO step (operation) VALUES ('[7]')"), "step "),
    "chain: of nobody": (sql("INSERT INTO chain VALUES (3, '[77]')"), "program 77: there is none"),
    "chain": (sql("INSERT INTO chain VALUES (3, '{')"), "chain 3"),
}  # fmt: skip


@pytest.fixture(scope="module")
def other() -> Iterator[Mesh]:
    """What has nothing to do with it, and the interfaces that are uplinks."""
    with beyond(0), beyond(1):
        text = '[mesh]\nname = "other"\n[[function]]\nname = "o"\n'
        with running(mesh_of(text)) as mesh:
            yield mesh


@pytest.fixture(scope="module")
def mesh(other: Mesh) -> Iterator[Mesh]:
    del other
    found = everything(NAME)
    with up(found):
        yield found


@pytest.mark.parametrize("damage", DAMAGES)
def test_is_told_by_file_and_object(mesh: Mesh, damage: str) -> None:
    """Before anything is done by what it says."""
    harm, what = DAMAGES[damage]
    whole = RECORD.read_bytes()
    harm()
    try:
        with (
            contextlib.closing(Record(mesh.name)) as record,
            pytest.raises(UnreadableRecord) as caught,
        ):
            sound.check(record)
    finally:
        RECORD.write_bytes(whole)
    assert caught.value.exit_code == 7
    assert caught.value.message.startswith(f"{RECORD} cannot be read: {what}")
    assert "ebpfmesh up FILE" in caught.value.hint


def test_commands_tell_it(mesh: Mesh) -> None:
    whole = RECORD.read_bytes()
    lines = {
        ("show", "uplinks"): "uplink: below zero",
        ("show", "remotes"): "remote: a function's",
        ("show", "pools"): "pool: too large",
        ("deny", "show"): "deny: more bits",
        ("remote", "del", "r"): "remote: below zero",
    }
    for words, damage in lines.items():
        harm, what = DAMAGES[damage]
        harm()
        error, hint = complaint("--mesh", mesh.name, *words, code=7)
        assert (what in error, "ebpfmesh up FILE" in hint) == (True, True), error
        RECORD.write_bytes(whole)
    assert apply.plan(mesh) == ()


def everywhere() -> set[str]:
    """All that a mesh may leave, but for a record that is kept aside."""
    return leftovers() | at_uplinks()


@contextlib.contextmanager
def nothing_left(other: Mesh) -> Iterator[None]:
    """All of it is gone in the end, and the other mesh is as it was."""
    apply.down(NAME)  # of the tests before
    before = everywhere()
    try:
        yield
        kept = f"file {RUN}/{NAME}.unreadable"
        assert poll(lambda: everywhere() - {kept} == before), everywhere() ^ before
        assert disagreements(other) == []
    finally:
        (RUN / f"{NAME}.unreadable").unlink(missing_ok=True)


WAYS: dict[str, Callable[[], object]] = {"gc": apply.gc, "down": lambda: apply.down(NAME)}


@pytest.mark.parametrize("way", WAYS)
def test_what_cannot_be_read_is_removed(other: Mesh, way: str) -> None:
    """By what the kernel tells of it: programs at interfaces that stay, pools, cgroups, all."""
    with nothing_left(other), up(everything(NAME)):
        assert len(at_uplinks()) == 4
        DAMAGES["remote: a function's"][0]()
        WAYS[way]()
        assert at_uplinks() == set()


def offloads_are_junk() -> None:
    (RUN / NAME / "raw.offloads").write_bytes(b"-1 \xff")


def of_another(key: str, name: str) -> Callable[[], None]:
    """The number of an interface is that of the other mesh's."""

    def do() -> None:
        with contextlib.closing(Record("other")) as record:
            row = record.function("o")
        assert row
        changed(key, with_keys(**{name: row.attachment.ifindex}))()

    return do


LOSSES: dict[str, Callable[[], None]] = {
    "an uplink": sql("DELETE FROM setting WHERE key = 'uplink/u1'"),
    "an uplink's interface": of_another(U0, "ifindex"),
    "a function": sql("DELETE FROM function WHERE name = 'raw'"),
    "a pool": sql(f"DELETE FROM setting WHERE key LIKE '{POOL}'"),
    "whose a prefix is": sql("UPDATE denied SET uplink = 'zz'"),
}


def test_what_leads_nowhere_is_mended(other: Mesh) -> None:
    """It can be read, but says what is not so; nothing of what was there stays in the way."""
    wanted = everything(NAME)
    with nothing_left(other), up(wanted):
        things = at_uplinks()
        for loss, harm in LOSSES.items():
            harm()
            apply.gc()
            assert collected(NAME) == collected(other.name) == [], loss
            assert disagreements(other) == [], loss
            apply.up(wanted)
            apply.deny(NAME, DENIED, replace=True)
            assert apply.plan(wanted) == (), loss
            assert at_uplinks() == things, loss
            pins = {path.name for path in Pins(NAME).ports.iterdir()}
            assert pins == {"raw", "port"}, loss
        offloads_are_junk()
