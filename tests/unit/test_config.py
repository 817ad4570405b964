# SPDX-License-Identifier: BSD-2-Clause
"""Mesh files: what they mean, in one file or several, and what a mesh cannot be."""

import json
import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest

from ebpfmesh.config import load, toml
from ebpfmesh.errors import ConfigError
from ebpfmesh.model import Function, Limits, Mesh, Service, Timeouts
from support.malformed import HEAD, assert_for_people, function, policy

pytestmark = pytest.mark.unit


WHOLE = """
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
"""


def test_whole_file(write) -> None:
    mesh = load(write(WHOLE))
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
        functions=("edge-0", "decode"),
    )
    assert mesh.groups == {"decode": ("decode-0", "decode-1", "decode-2")}
    assert (mesh.service("time").target_port, mesh.service("time").protocol) == (123, "udp")
    assert [str(rule) for rule in mesh.policies] == [
        "tenant:op-a → service:decoder allow",
        "group:decode → outside tcp/443 deny priority 7",
    ]
    assert Mesh.model_validate_json(mesh.model_dump_json()) == mesh
    assert json.loads(mesh.model_dump_json())["policies"][0]["source"] == "tenant:op-a"


def test_a_mesh_that_rejects_and_counts_its_flows(write) -> None:
    mesh = load(
        write("""
            [mesh]
            name = "edge"
            reject = true
            host = true
            count_flows = true
            [[policy]]
            from = "any"
            to = "any"
            action = "reject"
            """)
    )
    assert mesh.reject
    assert mesh.host
    assert mesh.count_flows
    assert [str(rule) for rule in mesh.policies] == ["any → any reject"]


def test_ranges_weights_and_prefixes(write) -> None:
    mesh = load(
        write("""
[mesh]
name = "edge"
timeouts = {udp = 30, established = 3600}
[[function]]
name = "web"
replicas = 3
[[function]]
name = "old"
[[service]]
name = "s"
address = "198.18.128.10"
port = "8000-8099"
target_port = "9000-9099"
functions = ["web", "old"]
affinity = "source"
weights = {web-1 = 0, web = 3}
[[policy]]
from = "outside:2001:DB8:5::/48"
to = "service:s"
protocol = "udp"
port = "8000-8003"
[[policy]]
from = "outside:192.0.2.7"
to = "any"
protocol = "icmp"
icmp_type = 8
""")
    )
    assert mesh.timeouts == Timeouts(udp=30, established=3600)
    service = mesh.service("s")
    assert (service.port, service.ports, service.target_port) == (8000, 100, 9000)
    assert service.affinity == "source"
    assert service.weights == {"web-1": 0, "web": 3}
    assert mesh.backed[0].backends == {"web-0": 3, "web-1": 0, "web-2": 3, "old": 1}
    assert [str(rule) for rule in mesh.policies] == [
        "outside:2001:db8:5::/48 → service:s udp/8000-8003 allow",
        "outside:192.0.2.7/32 → any icmp/8 allow",
    ]
    assert Mesh.model_validate_json(mesh.model_dump_json()) == mesh


def test_prefixes_side_by_side_are_not_nested(write) -> None:
    rules = "\n[[policy]]\n".join(
        f"from = 'outside:10.{number}.0.0/16'\nto = 'outside:10.{number}.0.0/17'"
        for number in range(20)
    )
    assert len(load(write(policy(rules))).policies) == 20


@pytest.mark.parametrize(("replicas", "names"), [("", ["a"]), ("replicas = 1", ["a-0"])])
def test_replica_names(write, replicas: str, names: list[str]) -> None:
    assert [item.name for item in load(write(function(replicas))).functions] == names


def test_a_rule_of_replicas_is_one_and_so_is_that_of_one_of_them(write) -> None:
    rules = "".join(
        f'\n[[policy]]\nfrom = "{name}"\nto = "any"\naction = "{action}"\n'
        for name, action in (("function:a", "deny"), ("function:a-1", "allow"))
    )
    mesh = load(write(function("replicas = 2", rules)))
    assert [str(rule) for rule in mesh.policies] == [
        "group:a → any deny",
        "function:a-1 → any allow",
    ]


def test_a_group_is_named_one_way_or_the_other_and_not_twice(write) -> None:
    rules = "\n[[policy]]\nfrom='function:a'\nto='any'\n[[policy]]\nfrom='group:a'\nto='any'\n"
    with pytest.raises(
        ConfigError, match=r"another one is about the same flows, the other at .*mesh\.toml:\d+$"
    ):
        load(write(function("replicas = 2", rules)))


def test_a_thousand_replicas_to_a_thousand_take_one_rule(write) -> None:
    pair = '[[function]]\nname = "{}"\nreplicas = 1000\n'
    text = HEAD + "limits = {functions = 2000}\n" + pair.format("a") + pair.format("b")
    mesh = load(write(text + '[[policy]]\nfrom = "function:a"\nto = "function:b"\n'))
    assert mesh.sizes()["rules"] == 1


def test_given_addresses_are_left_alone(write) -> None:
    free = load(write(function())).function("a")
    taken = f'\n[[function]]\nname = "b"\naddress = ["{free.address4}", "{free.address6}"]\n'
    mesh = load(write(function() + taken))
    assert mesh.function("b").addresses == free.addresses
    assert mesh.function("a").address4 == free.address4 + 1
    assert mesh.function("a").address6 == free.address6 + 1


ROOT = Path(__file__).parents[2]


def test_what_the_example_says_is_the_default_is(tmp_path: Path) -> None:
    """Its lines that are comments can be taken as they are, and change nothing."""
    text = (ROOT / "examples/edge.toml").read_text()
    file = tmp_path / "edge.toml"
    file.write_text(re.sub(r"^# (\w+ = .*)$", r"\1", text, flags=re.MULTILINE))
    assert file.read_text() != text
    assert load(file) == load(ROOT / "examples/edge.toml")


# Several files


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A mesh in three files; what is no *.toml is not of it."""
    for name, text in {
        "10-mesh.toml": HEAD,
        "20-web.toml": '[[function]]\nname = "web"\nreplicas = 2\n',
        "30-rules.toml": (
            '[[policy]]\nfrom = "any"\nto = "function:web"\n[[function]]\nname = "a"\n'
        ),
        "notes.txt": "none",
        ".10-mesh.toml.swp.toml": "none",
    }.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_directory_is_one_mesh(parts: Path) -> None:
    """In the order of names; as if all stood in one file."""
    found = load(parts)
    assert [one.name for one in found.functions] == ["web-0", "web-1", "a"]
    texts = [one.read_text() for one in sorted(parts.glob("[0-9]*.toml"))]
    other = parts / "other"
    other.mkdir()
    (other / "mesh.toml").write_text("\n".join(texts))
    assert load(other / "mesh.toml") == load(other) == found


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("\n[mesh]\nname = 'x'", 2, r"two tables \[mesh\], the other at .*10-mesh\.toml:1"),
        ("[[function]]\nname = 'web'", 2, r'called "web", the other at .*20-web\.toml:2'),
        ("[[function]]\nname = 'web-1'", 2, r'called "web-1", the other at .*20-web\.toml:2'),
        ("[[policy]]\nfrom='any'\nto='function:web'", 1, r"flows, the other at .*30-rules\.toml:1"),
        ("[[policy]]\nfrom = 'any'\nto = 'function:b'", 3, 'there is no function "b"'),
        ("[[policy]]\nfrom = 'any'\nto = 'any'\nport = 7", 4, "policy number 1: port 7 needs"),
        ("[[function]]\ncpu = 0\nname = 'b'", 2, 'function "b": "cpu" cannot be 0'),
        ("meshes = 1", 1, 'unknown key "meshes"'),
        ("[[function]", 1, "not TOML"),
    ],
)
def test_what_is_wrong_is_told_with_its_file(parts: Path, text: str, line: int, what: str) -> None:
    (parts / "40-more.toml").write_text(text)
    with pytest.raises(ConfigError, match=what) as caught:
        load(parts)
    assert (caught.value.file, caught.value.line) == (parts / "40-more.toml", line)
    assert_for_people(caught.value)
    assert caught.value.others == ()


def test_files_without_a_mesh(parts: Path) -> None:
    (parts / "10-mesh.toml").unlink()
    with pytest.raises(ConfigError, match=r'20-web\.toml:1: "mesh" is missing') as caught:
        load(parts)
    assert caught.value.others == ()


def test_files_are_together_no_larger_than_one_may_be(parts: Path) -> None:
    (parts / "40-more.toml").write_bytes(b"\n" * (toml.MAX_BYTES // 2))
    load(parts)
    (parts / "50-more.toml").write_bytes(b"\n" * (toml.MAX_BYTES // 2))
    with pytest.raises(ConfigError, match="with the files before it it is larger than 4 MiB"):
        load(parts)


def test_files_are_together_no_dearer_than_one_may_be(parts: Path) -> None:
    for name in ("40-more.toml", "50-more.toml"):
        (parts / name).write_text("x = {" + ",".join(f"a{n}.b=1" for n in range(70_000)) + "}")
    with pytest.raises(ConfigError, match=r"50-more\.toml: with the files before it it has more"):
        load(parts)


def test_there_are_only_so_many_files(tmp_path: Path) -> None:
    (tmp_path / "mesh.toml").write_text(HEAD)
    for number in range(255):
        (tmp_path / f"{number}.toml").touch()
    load(tmp_path)
    (tmp_path / "more.toml").touch()
    with pytest.raises(ConfigError, match="more than 256 files"):
        load(tmp_path)


def test_a_file_to_inject_is_named_from_where_it_is_named(parts: Path) -> None:
    (parts / "40-more.toml").write_text('[[inject]]\nname = "i"\nfile = "i.c"\nat = "a/egress"\n')
    with pytest.raises(ConfigError, match=r"40-more\.toml:3: .*/i\.c: No such file"):
        load(parts)
    (parts / "i.c").write_text("text")
    assert load(parts).injections[0].source == "text"


# Keys that only some functions have


@pytest.mark.parametrize(
    ("keys", "line", "what"),
    [
        ("addresses = {web-0 = '198.18.0.9'}", 5, "is not one of its replicas"),
        ("replicas = 2\naddresses = {web-2 = '198.18.0.9'}", 6, "is not one of its replicas"),
        ("replicas = 1\naddress = '198.18.0.8'\naddresses = {web-0 = '198.18.0.9'}", 7, "has both"),
        ("replicas = 2\naddresses = {web-0 = '127.0.0.1'}", 6, "loopback"),
        (
            "replicas = 2\naddresses = {web-0 = '198.18.0.9', web-1 = '198.18.0.9'}",
            6,
            "is the addr",
        ),
    ],
)
def test_addresses_of_replicas(write, keys: str, line: int, what: str) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        load(write(f"{HEAD}[[function]]\nname = 'web'\n{keys}\n"))
    assert caught.value.line == line
    assert_for_people(caught.value)


def test_replicas_without_an_address_of_their_own_are_assigned_others(write) -> None:
    plain = load(write(HEAD + "[[function]]\nname = 'web'\nreplicas = 2\n"))
    taken = plain.function("web-1").address4
    keys = f"addresses = {{web-0 = ['{taken}', '2001:db8::77']}}"
    found = load(write(f"{HEAD}[[function]]\nname = 'web'\nreplicas = 2\n{keys}\n"))
    assert found.function("web-0").addresses == (taken, IPv6Address("2001:db8::77"))
    assert found.function("web-1").address4 not in (taken, None)
    assert found.function("web-1").group == "web"


@pytest.mark.parametrize("keys", ["", "file = 'i.c'\nsource = 'x'"])
def test_what_is_injected_has_a_file_or_a_text(write, keys: str) -> None:
    with pytest.raises(ConfigError, match='"file"') as caught:
        load(write(function("[[inject]]\nname = 'i'\nat = 'a/egress'\n" + keys)))
    assert_for_people(caught.value)


SHARED = """
[mesh]
name = "m"
limits = {half_open = 1000}
[[tenant]]
name = "a"
half_open = {guarantee = 700}
[[tenant]]
name = "b"
flows = {guarantee = 21505}
half_open = {guarantee = 50, maximum = 60}
[[tenant]]
name = "c"
half_open = {guarantee = 1}
"""


def test_what_is_guaranteed_has_to_be_there(write) -> None:
    """Each who has a part of what is too much is named with its line."""
    load(write(SHARED.replace("21505", "21504").replace("guarantee = 1}", "maximum = 1}")))
    with pytest.raises(ConfigError) as caught:
        load(write(SHARED))
    faults = (caught.value, *caught.value.others)
    rows = SHARED.split("\n")
    named = [number for number, row in enumerate(rows, 1) if "guarantee" in row]
    assert [fault.line for fault in faults] == named
    assert "half_open guaranteed to tenants are 751" in str(caught.value)
    for fault in faults:
        assert_for_people(fault)


@pytest.mark.parametrize(
    "share",
    ["{guarantee = 3, maximum = 2}", "{guarantee = 0}", "{maximum = -1}", "{most = 1}", "7"],
)
def test_a_share_that_cannot_be(write, share: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(f'[mesh]\nname = "m"\n[[tenant]]\nname = "a"\nflows = {share}\n'))
    assert_for_people(caught.value)
    assert caught.value.line == 5


def test_a_log_has_something_of_each_command(write) -> None:
    text = """
[mesh]
name = "m"
[[tenant]]
name = "a"
log = "255K"
[[function]]
name = "f"
tenant = "a"
replicas = 2
command = ["true"]
"""
    load(write(text.replace("255", "256")))
    with pytest.raises(ConfigError) as caught:
        load(write(text))
    assert_for_people(caught.value)
    assert caught.value.line == 6
