# SPDX-License-Identifier: BSD-2-Clause
"""Mesh files with faults: what is said of each, and of whatever else a file may hold."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebpfmesh.config import load, toml
from ebpfmesh.errors import ConfigError
from support.malformed import HEAD, MALFORMED, assert_for_people

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize(
    ("text", "what", "hint"), [row[1:] for row in MALFORMED], ids=[row[0] for row in MALFORMED]
)
def test_malformed(write, text: str, what: str, hint: str, newline: str) -> None:
    path = write(text.replace("\n", newline))
    with pytest.raises(ConfigError) as caught:
        load(path)
    error = caught.value
    assert what in error.message
    assert hint in error.hint
    assert error.line == next(n for n, line in enumerate(text.split("\n"), 1) if "# here" in line)
    assert error.message.startswith(f"{path}:{error.line}: ")
    assert_for_people(error)


def test_not_utf8(write) -> None:
    with pytest.raises(ConfigError, match="0xff is not UTF-8") as caught:
        load(write(HEAD.encode() + b"# \xff\n"))
    assert caught.value.line == 3


def test_size(write) -> None:
    assert load(write(HEAD.encode().ljust(toml.MAX_BYTES, b"\n"))).name == "edge"
    with pytest.raises(ConfigError, match="larger than 4 MiB"):
        load(write(HEAD.encode().ljust(toml.MAX_BYTES + 1, b"\n")))


@pytest.mark.parametrize("name", ["missing", ".", "a\0b"])
def test_unreadable(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot read it|no \*\.toml is in it") as caught:
        load(tmp_path / name)
    assert caught.value.line is None
    assert caught.value.hint


# Whatever comes

KEYS = [
    *("mesh", "function", "service", "policy", "name", "tenant", "replicas", "address", "cpu"),
    *("memory", "netns", "command", "limits", "functions", "flows", "prefix", "port"),
    *("target_port", "protocol", "from", "to", "priority", "x", "icmp_type", "weights", "timeouts"),
    *("affinity", "udp"),
]
VALUES = st.recursive(
    st.one_of(
        st.sampled_from(
            ["a", "b", "any", "tenant:a", "198.18.0.1", "2001:db8::1", "64M", "tcp", "source"]
        ),
        st.sampled_from(["outside:10.0.0.0/8", "80-90", "icmp"]),
        st.text(max_size=5),
        st.integers(-(2**70), 2**70),
        st.integers(0, 3),
        st.floats(),
        st.booleans(),
        st.dates(),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=8,
)
TABLES = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6)
FILES = st.fixed_dictionaries(
    {},
    optional={
        "mesh": st.just({"name": "a"}) | TABLES,
        "function": st.lists(TABLES, max_size=3),
        "service": st.lists(TABLES, max_size=3),
        "policy": st.lists(TABLES, max_size=3),
        "x": VALUES,
    },
)
KEY = re.compile(r"[A-Za-z0-9_-]+")


def toml_value(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list():
            return "[\n" + ",  # comment\n".join(map(toml_value, value)) + "]"
        case dict():
            pairs = (f"{toml_value(key)} = {toml_value(item)}" for key, item in value.items())
            return "{" + ", ".join(pairs) + "}"
    return str(value)


def toml_text(values: dict[str, object]) -> str:
    """A TOML text of ``values``, in headers, dotted keys, inline tables and arrays of lines."""
    lines = []
    for key, value in values.items():
        array = isinstance(value, list) and value and all(isinstance(i, dict) for i in value)
        if not array and not isinstance(value, dict):
            lines.insert(0, f"{key} = {toml_value(value)}")
            continue
        for table in value if array else [value]:
            lines.append(f"[[ '{key}' ]]  # table" if array else f'["{key}"]')
            for name, item in table.items():
                if isinstance(item, dict) and item and KEY.fullmatch(name):
                    lines += [
                        f"{name} . {json.dumps(k)} = {toml_value(v)}" for k, v in item.items()
                    ]
                else:
                    lines.append(f"{name} = {toml_value(item)}\n")
    return "\n".join(lines)


QUIET = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def try_to_load(path: Path) -> None:
    """Load a file that may be wrong, and look at what is said of it."""
    try:
        load(path)
    except ConfigError as caught:
        error = caught
    else:
        return
    assert_for_people(error)
    assert error.line is None or 1 <= error.line <= path.read_bytes().count(b"\n") + 1


@given(st.binary() | st.text().map(str.encode))
@QUIET
def test_any_bytes(write, content: bytes) -> None:
    try_to_load(write(content))


@given(FILES)
@QUIET
def test_any_values(write, values: dict[str, object]) -> None:
    try_to_load(write(toml_text(values)))


@given(st.sampled_from([row[1] for row in MALFORMED]), st.data())
@QUIET
def test_any_damage(write, text: str, data: st.DataObject) -> None:
    """A piece of a file is taken out, or put in elsewhere."""
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    at = data.draw(st.integers(0, len(text)))
    for damaged in (text[:start] + text[end:], text[:at] + text[start:end] + text[at:]):
        try_to_load(write(damaged))


@given(FILES)
@QUIET
def test_every_value_has_a_line(values: dict[str, object]) -> None:
    """What tomllib finds in a text, the second parse finds too, on a line that names it."""
    text = toml_text(values)
    lines = toml.lines(text)
    rows = text.split("\n")
    stack: list[tuple[tuple[str | int, ...], object]] = [((), tomllib.loads(text))]
    while stack:
        at, value = stack.pop()
        assert at in lines
        if at and isinstance(at[-1], str):
            assert at[-1] in rows[lines[at] - 1]
        children = value.items() if isinstance(value, dict) else ()
        children = enumerate(value) if isinstance(value, list) else children
        stack += [((*at, key), child) for key, child in children]


# All that is wrong

ALL = """
[mesh]
name = "edge"
limts = {}  # 1
[mesh.limits]
flows = 3  # 2
[[function]]
name = "web"
cpu = 0  # 3
tennant = "x"  # 4
[[function]]
name = "a_b"  # 5
[[function]]
name = "db"
address = "198.18.0.9"
[[function]]
name = "cache"
address = "198.18.0.9"  # 6
[[service]]
name = "s"
address = "198.18.128.1"
port = "80-90"
functions = ["web",
"wob"]  # 7
[[service]]
name = "t"
address = "198.18.128.1"
port = 85  # 8
functions = ["db"]
weights = {dc = 2}  # 9
[[policy]]
from = "function:web"
to = "service:u"  # 10
action = "allow"
[[policy]]
from = "function:wob"  # 11
to = "service:s"
action = "alow"  # 12
"""


def test_all_that_is_wrong_is_told(write) -> None:
    """Each fault once, on its line; a table with a fault is there for others to name."""
    rows = ALL.split("\n")
    with pytest.raises(ConfigError) as caught:
        load(write(ALL))
    faults = (caught.value, *caught.value.others)
    for fault in faults:
        assert_for_people(fault)
    marked = [number for number, row in enumerate(rows, 1) if "#" in row]
    assert [fault.line for fault in faults] == marked
    assert caught.value.more == 0


def test_a_fault_of_the_mesh_takes_nothing_else_along(write) -> None:
    """Its limits and prefix hold, whatever its name is."""
    many = "limits = {functions = 2000}\n[[function]]\nname = 'a'\nreplicas = 2000\n"
    with pytest.raises(ConfigError, match='"name" cannot be "Edge"') as caught:
        load(write(f'[mesh]\nname = "Edge"\n{many}'))
    assert caught.value.others == ()


def test_so_many_faults_that_not_all_are_told(write) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(HEAD + "[[function]]\nx = 1\n" * 90))
    faults = (caught.value, *caught.value.others)
    assert len(faults) == 50
    assert caught.value.more == 2 * 90 - 50  # of each an unknown key and no name
