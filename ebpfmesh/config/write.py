# SPDX-License-Identifier: BSD-2-Clause
"""A mesh as a mesh file: what ``load`` makes the same mesh of, as people would write it.

What holds without being said is left out: defaults, and addresses that are assigned anyway. The
functions of a group are ``replicas``. Comments say what a file cannot.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import tomlkit
from tomlkit.items import Array, InlineTable, Item, Table

from ebpfmesh.config.addresses import as_assigned
from ebpfmesh.model import (
    Endpoint,
    Function,
    FunctionSettings,
    Identity,
    Injection,
    Mesh,
    Parts,
    Policy,
    Remote,
    Rights,
    Service,
    Uplink,
    memory_text,
    ports_text,
)

WIDTH = 100
"""Columns; an array that is longer has a line for each of its elements."""
_UNPRINTABLE = re.compile(r"[^\n\t\x20-\x7e]")
_Body = Callable[[Injection], dict[str, Any]]


class _Row(NamedTuple):
    """A table to be written; ``comments`` stand after its keys."""

    values: dict[str, Any]
    comments: Sequence[str] = ()


def text(mesh: Mesh, kept: Collection[str] = ()) -> str:
    """All of a mesh in one file, the texts of what it injects too.

    ``kept`` are functions whose interfaces are not the mesh's.
    """
    return _text(mesh, kept, lambda one: {"source": one.source})


def files(mesh: Mesh, kept: Collection[str] = ()) -> dict[str, str]:
    """As ``text``, but what it injects is beside: texts by name, the last is the mesh file."""
    names = _file_names(mesh.injections)
    found = {names[one.name]: one.source for one in mesh.injections}
    found[f"{mesh.name}.toml"] = _text(mesh, kept, lambda one: {"file": names[one.name]})
    return found


def _file_names(injections: Sequence[Injection]) -> dict[str, str]:
    """What the files of injected programs are called: as they were, if that tells them apart."""
    own = {one.name: PurePath(one.file).name for one in injections}
    texts = {(own[one.name], one.source) for one in injections}
    if len(texts) == len(set(own.values())) and all(name.endswith(".c") for name in own.values()):
        return own
    return {name: f"{name}.c" for name in own}


def _text(mesh: Mesh, kept: Collection[str], body: _Body) -> str:
    document = tomlkit.document()
    document.add(tomlkit.comment(f"Mesh {mesh.name} as it runs, by `ebpfmesh export`."))
    document.add(tomlkit.nl())
    document["mesh"] = _table(_mesh(mesh))
    arrays = {
        "function": list(_functions(mesh, kept)),
        "service": [_service(one) for one in mesh.services],
        "uplink": [_uplink(one) for one in mesh.uplinks],
        "remote": [_remote(one) for one in mesh.remotes],
        "policy": [_policy(one) for one in mesh.policies],
        "pool": list(_pools(mesh)),
        "tenant": [_rights(one) for one in mesh.rights],
        "inject": [_injection(one, body) for one in mesh.injections],
    }
    for key, rows in arrays.items():
        if rows:
            document.add(tomlkit.nl())
            document[key] = array = tomlkit.aot()
            for row in rows:
                array.append(_table(row))
    return _UNPRINTABLE.sub(_escape, tomlkit.dumps(document))


def _escape(found: re.Match[str]) -> str:
    """What a terminal might obey, as strings may have it; nothing else has such a character."""
    char = found[0]
    return char if char.isprintable() else f"\\U{ord(char):08x}"


def _table(row: _Row) -> Table:
    table = tomlkit.table()
    for key, value in row.values.items():
        table[key] = _item(key, value)
    for comment in row.comments:
        table.add(tomlkit.comment(comment))
    return table


def _item(key: str, value: Any) -> Item:
    if isinstance(value, dict):
        table: InlineTable = tomlkit.inline_table()
        for name, inner in value.items():
            table[name] = _item(name, inner)
        return table
    if isinstance(value, list):
        array: Array = tomlkit.array()
        array.extend(_item(key, inner) for inner in value)
        return array.multiline(len(f"{key} = {array.as_string()}") > WIDTH)
    if isinstance(value, str) and "\n" in value and _is_literal(value):
        return tomlkit.value(f"'''\n{value}'''")  # the first newline is not of it
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    item: Item = tomlkit.item(value)
    return item


def _is_literal(value: str) -> bool:
    """Whether a text can stand in a file as it is, between three quotes."""
    escaped = (char for char in _UNPRINTABLE.findall(value) if not char.isprintable())
    return "'''" not in value + "'" and next(escaped, None) is None


def _mesh(mesh: Mesh) -> _Row:
    settings = {"hook", "expedited", "reject", "count_flows", "host", "on_failure"}
    settings |= {"timeouts", "limits"}
    dumped = mesh.model_dump(mode="json", include=settings, exclude_defaults=True)
    dumped.get("limits", {}).pop("sockets", None)  # has no effect
    prefixes = [
        str(getattr(mesh, key))
        for key in ("prefix4", "prefix6")
        if getattr(mesh, key) != Parts.model_fields[key].default
    ]
    dumped |= {"prefix": _one_or_all(prefixes)} if prefixes else {}
    return _Row({"name": mesh.name} | {key: one for key, one in dumped.items() if one != {}})


def _functions(mesh: Mesh, kept: Collection[str]) -> Iterator[_Row]:
    groups = mesh.groups
    by_name = {one.name: one for one in mesh.functions}
    tables = {one.group or one.name: one for one in mesh.functions}
    order = [by_name[name] for table in tables for name in groups.get(table, (table,))]
    others = (*mesh.services, *mesh.remotes)
    used = {address for one in others for address in one.addresses}
    left_out = as_assigned(order, mesh.prefix4, mesh.prefix6, used)
    for name in tables:
        if name in groups:
            members = [by_name[one] for one in groups[name]]
            yield _group(name, members, left_out)
        else:
            yield _function(by_name[name], left_out, kept)


def _function(one: Function, left_out: Collection[str], kept: Collection[str]) -> _Row:
    values = {"name": one.name, **_settings(one)}
    if one.name not in left_out:
        values["address"] = _addresses(one)
    comments = []
    if one.name in kept:
        comments += [
            "It has a container's own interface, which no file can say: without it, it gets one of",
            f"its own. `ebpfmesh attach {one.name} --iface …` takes that of the container.",
        ]
    if (one.netns or "").startswith("/proc/"):
        comments += [
            "It is where a process is that will not be there again:",
            f"`ebpfmesh attach {one.name} --container …`, or --pid, finds that of another.",
        ]
    return _Row(values, comments)


def _group(name: str, members: Sequence[Function], left_out: Collection[str]) -> _Row:
    """The replicas of a name; of those that are not there, or not alike, a comment tells."""
    count = int(members[-1].name.rpartition("-")[2]) + 1
    settings = _settings(members[0])
    values = {"name": name, "replicas": count, **settings}
    given = {one.name: _addresses(one) for one in members if one.name not in left_out}
    values |= {"addresses": given} if given else {}
    there = {one.name for one in members}
    gone = [one for one in (f"{name}-{index}" for index in range(count)) if one not in there]
    others = [one.name for one in members if _settings(one) != settings]
    comments = [f"{', '.join(gone)} was detached: `up` brings it back."] if gone else []
    comments += [f"{', '.join(others)} is another: `up` makes it as this says."] if others else []
    return _Row(values, comments)


def _settings(one: Function) -> dict[str, Any]:
    keys = set(FunctionSettings.model_fields)
    found = one.model_dump(mode="json", include=keys, exclude_defaults=True)
    if one.source is not None:
        del found["program"]  # the text is there
    found |= {key: memory_text(found[key]) for key in ("memory", "tmp") if key in found}
    return found | ({"rate": one.rate.as_given()} if one.rate else {})


def _service(one: Service) -> _Row:
    values: dict[str, Any] = {"name": one.name, "address": _addresses(one)}
    values |= _ports("port", one.port, one.last_port)
    if one.shift:
        values |= _ports("target_port", one.target_port, one.target_port + one.ports - 1)
    values |= one.model_dump(include={"protocol"}, exclude_defaults=True)
    values["functions"] = list(one.functions)
    rest = one.model_dump(
        mode="json", include={"affinity", "weights", "publish"}, exclude_defaults=True
    )
    return _Row(values | rest)


def _uplink(one: Uplink) -> _Row:
    values: dict[str, Any] = {"name": one.name, "interface": one.interface}
    addresses = _one_or_all(map(str, one.addresses))
    values |= {"address": addresses} if addresses else {}
    rest = {"xdp", "masquerade", "masquerade_ports"}
    return _Row(values | one.model_dump(include=rest, exclude_defaults=True))


def _pools(mesh: Mesh) -> Iterator[_Row]:
    """Each with its members; a group's name stands for all of it."""
    groups = {name: group for group, names in mesh.groups.items() for name in names}
    pools = {one.name: one for function in mesh.functions for one in function.pools}
    for name, pool in pools.items():
        sharing = [one for one in mesh.functions if pool in one.pools]
        names = list(dict.fromkeys(groups.get(one.name, one.name) for one in sharing))
        values: dict[str, Any] = {"name": name, "tenant": sharing[0].tenant}
        values |= {"slots": pool.slots, "bytes": memory_text(pool.bytes)}
        values |= {"members": pool.members} if pool.members != len(sharing) else {}
        yield _Row(values | {"functions": names})


def _remote(one: Remote) -> _Row:
    values = {"name": one.name, "address": _addresses(one), "uplink": one.uplink}
    return _Row(values | one.model_dump(include={"tenant"}, exclude_defaults=True))


def _policy(one: Policy) -> _Row:
    values: dict[str, Any] = {"from": _end(one.source), "to": _end(one.destination)}
    values |= one.model_dump(include={"protocol"}, exclude_defaults=True)
    values |= _ports("port", one.port, one.last_port) if one.port else {}
    rest = {"icmp_type", "action", "priority"}
    return _Row(values | one.model_dump(include=rest, exclude_defaults=True))


def _end(identity: Identity) -> str:
    """How people write it: replicas are called as a function is."""
    return f"function:{identity.name}" if identity.kind == "group" else str(identity)


def _rights(one: Rights) -> _Row:
    values = one.model_dump(mode="json", exclude_defaults=True)
    if events := values.get("events"):
        values["events"] = {key: memory_text(size) for key, size in events.items()}
    values |= {"rate": one.rate.as_given()} if one.rate else {}
    values |= {key: memory_text(values[key]) for key in ("log", "pools") if key in values}
    return _Row(values)


def _injection(one: Injection, body: _Body) -> _Row:
    settings = one.model_dump(include={"at", "tenant", "parameters"}, exclude_defaults=True)
    comments = []
    if one.canary:
        what = f"{one.canary.share} % of the flows meet {PurePath(one.canary.file).name!r}"
        comments += [f"A canary is tried: {what}. `up` of this file ends that."]
    return _Row({"name": one.name, **settings, **body(one)}, comments)


def _ports(key: str, first: int, last: int) -> dict[str, int | str]:
    return {key: first if first == last else ports_text(first, last)}


def _addresses(one: Endpoint) -> str | list[str]:
    return _one_or_all(map(str, one.addresses))


def _one_or_all(values: Iterable[str]) -> str | list[str]:
    found = list(values)
    return found[0] if len(found) == 1 else found
