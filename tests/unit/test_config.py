# SPDX-License-Identifier: BSD-2-Clause
"""Mesh files: what they mean, and what is said about each way to get one wrong."""

import json
import re
import tomllib
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebpfmesh.config import load, toml
from ebpfmesh.errors import ConfigError
from ebpfmesh.model import Function, Limits, Mesh, Service

pytestmark = pytest.mark.unit

HEAD = '[mesh]\nname = "edge"\n'
TWO = HEAD + '[[function]]\nname = "a"\ntenant = "x"\n[[function]]\nname = "b"\n'
SERVED = TWO + '[[service]]\nname = "s"\naddress = "198.18.128.1"\nport = 80\nfunctions = ["a"]\n'


def function(*lines: str) -> str:
    return "\n".join([HEAD + "[[function]]", 'name = "a"', *lines])


def service(*lines: str) -> str:
    return "\n".join([TWO + "[[service]]", 'name = "s"', *lines])


def policy(*lines: str) -> str:
    return "\n".join([SERVED + "[[policy]]", *lines])


# (name, file with "# here" on the line at fault, words of the message, words of the hint)
MALFORMED: list[tuple[str, str, str, str]] = [
    # Not TOML
    ("no value", HEAD + "limits  # here", "Expected '='", "toml.io"),
    ("open string", HEAD + '[[function]]\nname = "a # here\n', "not TOML", ""),
    ("open array", HEAD + 'x = ["a", # here\n"b"\n[[function]]\n', "Unclosed array", ""),
    ("open array at end", HEAD + 'x = ["a", # here\n"b",\n', "not TOML", ""),
    ("open text at end", HEAD + 'x = """here # here\n\n\n', "Unterminated", ""),
    ("open header", HEAD + "[[function] # here\n", "not TOML", ""),
    ("key twice", HEAD + 'limits = {}\nname = [ # here\n"b"]\n', 'key "name" is given twice', ""),
    ("key twice later", TWO + 'name = "c" # here\n', 'key "name" is given twice', ""),
    ("table twice", HEAD + "[mesh] # here\n", "Cannot declare mesh twice", ""),
    ("bad date", HEAD + "x = 2020-13-01 # here\n", "not TOML", ""),
    ("nested deeply", HEAD + "x = " + "[" * 5000 + "# here", "nested too deeply", ""),
    ("nested and closed", HEAD + "x = " + "[" * 999 + "]" * 999 + "# here", "too deeply", ""),
    ("nested tables", HEAD + "x = " + "{a=[" * 999 + "]}" * 999 + "# here", "too deeply", ""),
    ("long integer", HEAD + "x = " + "1" * 5000 + "# here", "too many digits", ""),
    ("long key", HEAD + "\n" + "a." * 70 + "a = 1 # here", "64 parts", ""),
    ("control character", HEAD + 'x = "\x07" # here', "Illegal character", ""),
    # The shape of the file
    ("empty", "# here", ":1: \"mesh\" is missing", "[mesh]"),
    ("mesh is no table", 'mesh = "edge" # here', '"mesh" must be a table, not a string', "[mesh]"),
    ("unknown table", HEAD + "[[functions]] # here\n", 'unknown key "functions"', '"function"?'),
    ("unknown key at top", "foo = 1 # here\n" + HEAD, 'unknown key "foo"', "known: function"),
    ("one bracket", HEAD + "[function] # here\n", "must be an array, not a table", "[[function]]"),
    ("not tables", "function = [\n1] # here\n" + HEAD, "element 1", "[[function]]"),
    # The table of the mesh
    ("no mesh name", "[mesh] # here\nlimits = {}", '[mesh]: "name" is missing', "letters"),
    ("bad mesh name", '[mesh]\nname = "Edge" # here', '"name" cannot be "Edge"', "lower-case"),
    ("long mesh name", f'[mesh]\nname = "{"a" * 33}" # here', '"name" cannot be', "32"),
    ("name of a number", "[mesh]\nname = 3 # here", "a string, not an integer", ""),
    ("key of mesh", HEAD + "prefxi = 1 # here", '[mesh]: unknown key "prefxi"', '"prefix"?'),
    ("unknown limit", HEAD + "limits = {flow = 1} # here", 'unknown key "flow"', '"flows"?'),
    ("limit too big", HEAD + "limits = {functions = 65536} # here", "65536", "1 to 65535"),
    ("limit too small", HEAD + "\n[mesh.limits]\nflows = 1 # here", "cannot be 1", "1024 to"),
    ("limit of text", HEAD + 'limits.rules = "1" # here', "an integer, not a string", ""),
    ("limit is true", HEAD + "limits.rules = true # here", "an integer, not a boolean", ""),
    ("limit is huge", HEAD + f"limits.rules = 0x{'f' * 9000} # here", "64 bits", "1 to"),
    ("limits no table", HEAD + "limits = 3 # here", "must be a table", "functions ="),
    ("prefix with bits", HEAD + 'prefix = "198.18.0.1/16" # here', "bits", "198.18.0.0/16"),
    ("no prefix", HEAD + 'prefix = "x" # here', "not a prefix", "198.18.0.0/16"),
    ("prefix empty", HEAD + "prefix = [] # here", "is empty", "IPv4"),
    ("prefix is a number", HEAD + "prefix = [\n4] # here", "must be a string", ""),
    ("two prefixes", HEAD + 'prefix = ["10.0.0.0/8",\n"11.0.0.0/8"] # here', "second of IPv4", ""),
    ("bad prefix", HEAD + 'prefix = ["2001:db8::/64",\n"128.0.0.0/1"] # here', "link-local", ""),
    ("multicast prefix", HEAD + 'prefix = "ff02::/64" # here', "multicast", "unicast"),
    # One function
    ("no name", HEAD + "[[function]] # here\naudit = true\n", "function number 1", "letters"),
    ("misspelt name", HEAD + '[[function]]\nnam = "a" # here\n', 'unknown key "nam"', '"name"?'),
    ("bad name", HEAD + '[[function]]\nname = "a_b" # here', '"name" cannot be "a_b"', "hyphens"),
    ("hyphen", HEAD + '[[function]]\nname = "a-" # here', '"name" cannot be "a-"', "inner"),
    ("long name", HEAD + f'[[function]]\nname = "{"a" * 64}" # here', "cannot be", "63"),
    ("no text", HEAD + '[[function]]\nname = "" # here', 'cannot be ""', ""),
    ("line feed", HEAD + '[[function]]\nname = "a\\n" # here', r'cannot be "a\n"', ""),
    ("long at last", HEAD + f'[[function]]\nreplicas = 2\nname = "{"a" * 62}" # here', "-0", "63"),
    ("unknown key", function('tennant = "x" # here'), 'function "a": unknown key', '"tenant"?'),
    ("quoted key", function('"ten\\u0061nts" = "x" # here'), 'key "tenants"', '"tenant"?'),
    ("dotted key", function("audit.x = 1 # here"), "must be true or false, not a table", ""),
    ("bad tenant", function('tenant = "X" # here'), '"tenant" cannot be "X"', ""),
    ("no replica", function("replicas = 0 # here"), "cannot be 0", "1 to 65535"),
    ("replicas", function("replicas = 65536 # here"), "cannot be 65536", "1 to 65535"),
    ("half a replica", function("replicas = 1.5 # here"), "an integer, not a float", ""),
    ("shared address", function("replicas = 2", 'address = "198.18.0.1" # here'), "one func", ""),
    ("shared netns", function("replicas = 2", 'netns = "n" # here'), "not for 2", "leave out"),
    ("no address", function('address = "198.18.0.300" # here'), "not an IP address", "198.18"),
    ("with a length", function('address = "198.18.0.3/32" # here'), "not an IP", "leave out the /"),
    ("zone", function('address = "2001:db8::1%eth0" # here'), "zone", "leave out"),
    ("zeros", function('address = "198.18.0.010" # here'), "not an IP address", ""),
    ("address is a number", function("address = 3 # here"), "an array, not an integer", "IPv4"),
    ("address of a number", function("address = [\n3] # here"), "must be a string", ""),
    ("no addresses", function("address = [] # here"), "is empty", ""),
    ("two of one", function('address = [\n"198.18.0.1",\n"198.18.0.2"] # here'), "second", "IPv6"),
    ("two of six", function('address = ["2001:db8::1",\n"2001:db8::2"] # here'), "of IPv6", "IPv6"),
    *(
        (f"address {text}", function(f'address = "{text}" # here'), what, "unicast")
        for text, what in {
            "0.0.0.0": "unspecified",
            "0.1.2.3": "unspecified",
            "127.0.0.1": "loopback",
            "169.254.1.1": "link-local",
            "224.0.0.5": "multicast",
            "255.255.255.255": "broadcast",
            "::": "unspecified",
            "::1": "loopback",
            "::ffff:198.18.0.1": "IPv4-mapped",
            "fe80::1": "link-local",
            "ff02::1": "multicast",
        }.items()
    ),
    ("no CPU", function("cpu = 0 # here"), "cannot be 0", "0.01 to 8192"),
    ("CPU of text", function('cpu = "1" # here'), "a number, not a string", ""),
    ("CPU is true", function("cpu = true # here"), "a number, not a boolean", ""),
    ("CPU is infinite", function("cpu = inf # here"), "cannot be inf", "8192"),
    ("CPU is none", function("cpu = nan # here"), "cannot be nan", "8192"),
    ("memory unit", function('memory = "64X" # here'), '"memory" cannot be "64X"', "64M"),
    ("memory sign", function('memory = "-1M" # here'), '"memory" cannot be "-1M"', "64M"),
    ("little memory", function("memory = 1 # here"), "cannot be 1", "64M"),
    ("much memory", function('memory = "9999T" # here'), '"memory" cannot be "9999T"', "64M"),
    ("memory float", function("memory = 1e9 # here"), "an integer, not a float", "64M"),
    ("datapath", function('datapath = "xdp" # here'), 'cannot be "xdp"', '"tc"'),
    ("audit", function('audit = "no" # here'), "true or false, not a string", ""),
    ("netns", function('netns = "../x" # here'), 'cannot be "../x"', "/run/netns"),
    ("same netns", TWO + 'netns="n"\n[[function]]\nname="c"\nnetns="n" # here', "netns n", "one"),
    ("command", function('command = "iperf3 -s" # here'), "an array, not a string", "iperf3"),
    ("a word", function('command = ["a",\n3] # here'), 'element 2 of "command"', ""),
    ("no program", function('command = [\n"", # here\n"a"]'), "cannot hold", "program"),
    ("NUL", function('command = ["a",\n"\\u0000"] # here'), "cannot hold", "program"),
    ("date", function("tenant = 2020-01-01 # here"), "not a date or time", ""),
    # Functions together
    ("same name", TWO + '[[function]]\nname = "a" # here', 'called "a"', "rename"),
    ("a replica", function("replicas=2") + '\n[[function]]\nname = "a-1" # here', '"a-1"', ""),
    ("all of them", function("replicas=2") + '\n[[function]]\nname = "a" # here', '"a"', "rename"),
    ("functions", function("[mesh.limits]\nfunctions=2\n[[function]]\nname='b'\nreplicas=2 # here"),
     "more than 2 functions", "limits.functions"),
    ("tenants", TWO + "tenant = 'y'\n[[function]] # here\nname='c'\n[mesh.limits]\ntenants = 2",
     "more than 2 tenants", "limits.tenants"),
    ("same address", function('address = "198.18.0.1"\n[[function]]\nname = "b"\n'
     'address = ["2001:db8::1",\n"198.18.0.1"] # here'), 'the address of function "a"', ""),
    ("pool too small", HEAD + 'prefix = "198.18.0.0/30"\n[[function]] # here\nname = "a"\n'
     'replicas = 3\n', 'is left for function "a-', "larger prefix"),
    # Services
    ("nothing but a name", TWO + "[[service]] # here\nname = 's'", '"address" is missing', ""),
    ("no port", service('address = "10.0.0.1"').replace("[[service]]", "[[service]] # here")
     + '\nfunctions = ["a"]', 'service "s": "port" is missing', "65535"),
    ("port 0", service("port = 0 # here"), "cannot be 0", "1 to 65535"),
    ("port 65536", service("port = 65536 # here"), "cannot be 65536", "1 to 65535"),
    ("target port", service("target_port = -1 # here"), "cannot be -1", "1 to 65535"),
    ("port of text", service('port = "80" # here'), "an integer, not a string", "65535"),
    ("protocol", service('protocol = "sctp" # here'), 'cannot be "sctp"', '"tcp" or "udp"'),
    ("no functions", service("functions = [] # here"), "is empty", "names"),
    ("functions of text", service('functions = "a" # here'), "an array, not a string", ""),
    ("unknown function", SERVED.replace('["a"]', '["a",\n"aa"] # here'), '"aa"', '"a"?'),
    ("function twice", SERVED.replace('["a"]', '["a",\n"a"] # here'), "twice", "once"),
    ("service twice", SERVED + "[[service]]\nname = 's' # here\naddress = '198.18.128.2'\n"
     "port = 1\nfunctions = ['a']", 'two services called "s"', "rename"),
    ("service address", SERVED.replace('"198.18.128.1"', '["2001:db8::1",\n"ff02::1"] # here'),
     "multicast", ""),
    ("address of function", TWO.replace("tenant", 'address = "198.18.128.1"\ntenant')
     + '[[service]]\nname = "s"\naddress = "198.18.128.1" # here\nport = 1\nfunctions = ["b"]',
     'service "s": 198.18.128.1 is the address of function "a"', "another"),
    ("same frontend", SERVED + "[[service]]\nname = 't'\naddress = '198.18.128.1'\n"
     "port = 80 # here\nfunctions = ['b']", 'taken by "s"', "another"),
    ("wrong family", SERVED.replace('"x"', '"x"\naddress = "198.18.0.9"').replace(
        '"198.18.128.1"', '"2001:db8::8"').replace('["a"]', '["b",\n"a"] # here'),
     'function "a" has no IPv6 address', "IPv6"),
    ("services", SERVED + "[[service]] # here\nname = 't'\naddress = '198.18.128.2'\n"
     "port = 1\nfunctions = ['a']\n[mesh.limits]\nservices = 1", "more than 1 services", "limits."),
    # Policies
    ("no to", SERVED + "[[policy]] # here\nfrom = 'any'", 'policy number 1: "to" is missing', ":"),
    ("source", policy('source = "any" # here'), 'unknown key "source"', "known:"),
    ("kind", policy('from = "tenent:x" # here', 'to = "any"'), '"tenent"', '"tenant"?'),
    ("bare name", policy('from = "a" # here', 'to = "any"'), '"a" is no kind', "function:NAME"),
    ("no name after", policy('from = "tenant:" # here', 'to = "any"'), "names nothing", "tenant:"),
    ("any with name", policy('from = "any:x" # here', 'to = "any"'), "not an identity", "any,"),
    ("bad name in it", policy('from = "tenant:X" # here', 'to = "any"'), '"X" is not a name', ""),
    ("no string", policy('from = {kind = "any"} # here', 'to = "any"'), "must be a string", ""),
    ("unknown tenant", policy('from = "tenant:xx" # here', "to = 'any'"), 'tenant "xx"', '"x"?'),
    ("unknown service", policy("from = 'any'", 'to = "service:ss" # here'), '"ss"', '"s"?'),
    ("no such function", policy("from = 'any'", "to = 'function:aa' # here"), '"aa"', '"a"?'),
    ("from service", policy('from = "service:s" # here', 'to = "any"'), "be a source", "tenant"),
    ("port alone", policy("from = 'any'", "to = 'any'", "port = 80 # here"), "needs a", "tcp"),
    ("port of ICMP", policy("from='any'", "to='any'", "protocol='icmp'", "port=8 # here"), "8", ""),
    ("big port", policy("from = 'any'", "to = 'any'", "port = 65536 # here"), "65536", "65535"),
    ("policy protocol", policy("from='any'", "to='any'", "protocol='ip' # here"), '"ip"', "icmp"),
    ("action", policy("from = 'any'", "to = 'any'", "action = 'drop' # here"), '"drop"', "deny"),
    ("priority", policy("from = 'any'", "to = 'any'", "priority = -1 # here"), "-1", "0 to 65535"),
    ("policy twice", policy("from='any'", "to='any'", "[[policy]] # here", "from='any'", "to='any'",
     "action = 'deny'"), "policy number 1", "keep one"),
    ("rules", policy("from='any'", "to='any'", "[[policy]] # here", "from='tenant:x'", "to='any'",
     "[mesh.limits]", "rules = 1"), "more than 1 rules", "limits.rules"),
]  # fmt: skip


@pytest.fixture
def write(tmp_path: Path):
    def write(content: str | bytes) -> Path:
        path = tmp_path / "mesh.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


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


def assert_for_people(error: ConfigError) -> None:
    """One short line, with nothing of pydantic or Python in it, and a hint."""
    assert error.exit_code == 2
    assert error.hint
    for text in (error.message.removeprefix(str(error.file)), error.hint):
        assert len(text) < 300
        assert text.isprintable()
        assert not re.search(r"Input should|pydantic|validation|Value error|_type|__|None\b", text)


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
    with pytest.raises(ConfigError, match="cannot read it") as caught:
        load(tmp_path / name)
    assert caught.value.line is None
    assert caught.value.hint


def test_whole_file(write) -> None:
    mesh = load(
        write("""
[mesh]
name = "edge"
limits = {functions = 8, flows = 4096}
prefix = ["198.19.0.0/24", "2001:db8:1::/64"]
[[function]]
name = "decode"
replicas = 3
tenant = "op-a"
cpu = 1
memory = "64M"
audit = true
command = ["iperf3", "-s"]
[[function]]
name = "edge-0"
address = ["2001:db8::10", "198.18.0.10"]
memory = 4096
netns = "given"
[[function]]
name = "only4"
address = "198.18.0.11"
[[service]]
name = "decoder"
address = "198.18.128.10"
port = 80
target_port = 5201
functions = ["edge-0", "decode"]
[[service]]
name = "time"
address = ["198.18.128.10", "2001:db8::1:10"]
port = 123
protocol = "udp"
functions = ["decode-1"]
[[policy]]
from = "tenant:op-a"
to = "service:decoder"
[[policy]]
from = "function:decode"
to = "outside"
protocol = "tcp"
port = 443
action = "deny"
priority = 7
""")
    )
    assert mesh.limits == Limits(functions=8, flows=4096)
    names = ["decode-0", "decode-1", "decode-2", "edge-0", "only4"]
    assert [function.name for function in mesh.functions] == names
    for replica in mesh.functions[:3]:
        assert replica.address4 in IPv4Network("198.19.0.0/24")
        assert replica.address6 in IPv6Network("2001:db8:1::/64")
        assert (replica.tenant, replica.cpu, replica.memory) == ("op-a", 1.0, 64 << 20)
        assert replica.audit
        assert replica.command == ("iperf3", "-s")
    assert mesh.function("edge-0") == Function(
        name="edge-0",
        address4=IPv4Address("198.18.0.10"),
        address6=IPv6Address("2001:db8::10"),
        memory=4096,
        netns="given",
    )
    assert mesh.function("only4").addresses == (IPv4Address("198.18.0.11"),)
    assert mesh.service("decoder") == Service(
        name="decoder",
        address4=IPv4Address("198.18.128.10"),
        port=80,
        target_port=5201,
        functions=("edge-0", "decode-0", "decode-1", "decode-2"),
    )
    assert (mesh.service("time").target_port, mesh.service("time").protocol) == (123, "udp")
    assert [str(rule) for rule in mesh.policies] == [
        "tenant:op-a → service:decoder allow",
        *(f"function:decode-{n} → outside tcp/443 deny priority 7" for n in range(3)),
    ]
    assert Mesh.model_validate_json(mesh.model_dump_json()) == mesh
    assert json.loads(mesh.model_dump_json())["policies"][0]["source"] == "tenant:op-a"


@pytest.mark.parametrize(("replicas", "names"), [("", ["a"]), ("replicas = 1", ["a-0"])])
def test_replica_names(write, replicas: str, names: list[str]) -> None:
    assert [item.name for item in load(write(function(replicas))).functions] == names


@pytest.mark.parametrize("first", ["a", "a-1"])
@pytest.mark.parametrize("urgent", [0, 1])
def test_rule_of_one_replica(write, first: str, urgent: int) -> None:
    """Of a rule for all replicas and one for a replica, the one that decides is kept."""
    second = {"a": "a-1", "a-1": "a"}[first]
    rules = "".join(
        f'\n[[policy]]\nfrom = "function:{name}"\nto = "any"\naction = "{action}"\n'
        f"priority = {priority}\n"
        for name, action, priority in ((first, "allow", 5), (second, "deny", 5 - urgent))
    )
    mesh = load(write(function("replicas = 2", rules)))
    got = {rule.source.name: rule.action for rule in mesh.policies}
    assert got == {"a-0": "allow" if second == "a-1" else "deny", "a-1": "deny"}


def test_given_addresses_are_left_alone(write) -> None:
    free = load(write(function())).function("a")
    taken = f'\n[[function]]\nname = "b"\naddress = ["{free.address4}", "{free.address6}"]\n'
    mesh = load(write(function() + taken))
    assert mesh.function("b").addresses == free.addresses
    assert mesh.function("a").address4 == free.address4 + 1
    assert mesh.function("a").address6 == free.address6 + 1


# Whatever comes

KEYS = [
    *("mesh", "function", "service", "policy", "name", "tenant", "replicas", "address", "cpu"),
    *("memory", "netns", "command", "limits", "functions", "flows", "prefix", "port"),
    *("target_port", "protocol", "from", "to", "priority", "x"),
]
VALUES = st.recursive(
    st.one_of(
        st.sampled_from(["a", "b", "any", "tenant:a", "198.18.0.1", "2001:db8::1", "64M", "tcp"]),
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
