# SPDX-License-Identifier: BSD-2-Clause
"""A mesh written as a file is the same mesh when that is read."""

import tempfile
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebpfmesh.config import assign_addresses, load, write
from ebpfmesh.model import (
    ByteShare,
    Canary,
    Function,
    Injection,
    Limits,
    Mesh,
    Policy,
    Rights,
    Service,
    Share,
    Timeouts,
    memory_text,
    ranked,
)
from ebpfmesh.plan import diff

pytestmark = pytest.mark.unit

POOL4, POOL6 = IPv4Network("198.18.0.0/27"), IPv6Network("2001:db8::/123")
LOWS = st.lists(st.integers(1, 60), unique=True, min_size=15, max_size=15)
NAMES = ("a", "b", "c-1", "web", "x")
SOURCES = st.text(st.characters(codec="utf-8"), max_size=40) | st.just('\t"""\\\r\n\x1b\x9b\u2028"')
PORTS = st.tuples(st.integers(1, 65000), st.sampled_from([1, 1, 100]))


def again(mesh: Mesh, text: str | None = None) -> Mesh:
    """What reading the file of a mesh gives."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "mesh.toml"
        path.write_bytes((write.text(mesh) if text is None else text).encode())
        return load(path)


SANDBOXES: list[dict[str, object]] = [
    {},
    {"privileged": True},
    {"user": "a:1", "env": {"A": 'b"\n', "C_1": ""}, "workdir": "/w", "rootfs": "/r", "pids": 9},
    {"image": "a/b:1", "volumes": ("/a:/b:rw", "tmp:/c"), "capabilities": ("KILL",), "tmp": 5000},
]

RIGHTS = Rights(
    name="one",
    inject=2,
    ways=("ingress",),
    flows=Share(guarantee=7),
    half_open=Share(maximum=9),
    rate={"send": "2M"},
    log=1 << 20,
    events=ByteShare(guarantee=4096),
)


@st.composite
def functions(draw: st.DrawFn) -> tuple[Function, ...]:
    """Some alone and some of groups; some have the addresses that they would be assigned."""
    rows: list[dict[str, object]] = []
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True)):
        settings = {
            "tenant": draw(st.sampled_from(["default", "one", "two"])),
            "cpu": draw(st.sampled_from([None, 1.0, 0.25])),
            "memory": draw(st.sampled_from([None, 4096, 64 << 20, 5000])),
            "rate": draw(st.sampled_from([None, "1M", {"send": "2.5G", "receive_pps": 7}])),
            "audit": draw(st.booleans()),
            "command": draw(st.sampled_from([(), ("sleep", "1\x1b\n")])),
        }
        if settings["command"]:
            settings |= draw(st.sampled_from(SANDBOXES))
        count = draw(st.sampled_from([None, None, 1, 3]))
        names = [name] if count is None else [f"{name}-{number}" for number in range(count)]
        group = name if count else None
        rows += ({"name": one, "group": group, **settings} for one in names)
    own4 = {row["name"]: POOL4[0] + low for row, low in zip(rows, draw(LOWS), strict=False)}
    own6 = {row["name"]: POOL6[0] + low for row, low in zip(rows, draw(LOWS), strict=False)}
    free = [name for name in draw(st.permutations(list(own4))) if draw(st.booleans())]
    taken = {address for own in (own4, own6) for name, address in own.items() if name not in free}
    own4 |= assign_addresses(free, POOL4, taken)
    own6 |= assign_addresses(free, POOL6, taken)
    return tuple(
        Function.model_validate({**row, "address4": own4[name], "address6": own6[name]})
        for row in rows
        for name in [row["name"]]
    )


@st.composite
def services(draw: st.DrawFn, known: list[str]) -> tuple[Service, ...]:
    found = []
    for number, name in enumerate(draw(st.lists(st.sampled_from(["s", "t"]), unique=True))):
        behind = draw(st.lists(st.sampled_from(known), unique=True)) if known else []
        port, count = draw(PORTS)
        found.append(Service(
            name=name, address4=IPv4Address("198.19.0.1") + number, port=port, ports=count,
            target_port=draw(st.sampled_from([port, 80])), functions=tuple(behind),
            protocol=draw(st.sampled_from(["tcp", "udp"])),
            affinity=draw(st.sampled_from(["none", "source"])),
            weights={one: draw(st.integers(0, 3)) for one in behind},
        ))  # fmt: skip
    return tuple(found)


@st.composite
def meshes(draw: st.DrawFn) -> Mesh:
    made = draw(functions())
    groups = sorted({one.group for one in made if one.group})
    alone = [one.name for one in made if one.group is None]
    served = draw(services([*alone, *groups]))
    ends = st.sampled_from([
        "any", "outside", "outside:192.0.2.0/24", *(f"function:{name}" for name in alone),
        *(f"group:{name}" for name in groups), *(f"tenant:{one.tenant}" for one in made),
    ])  # fmt: skip
    rules = {}
    for _ in range(draw(st.integers(0, 3))):
        port, count = draw(PORTS)
        to = ends | st.sampled_from([f"service:{one.name}" for one in served] or ["any"])
        what = draw(st.sampled_from([
            {}, {"protocol": "icmp", "icmp_type": 8}, {"protocol": "tcp", "port": port},
            {"protocol": "udp", "port": port, "port_end": port + count},
        ]))  # fmt: skip
        rule = Policy.model_validate({
            "source": draw(ends), "destination": draw(to), "priority": draw(st.integers(0, 200)),
            "action": draw(st.sampled_from(["allow", "deny", "reject"])), **what,
        })  # fmt: skip
        rules[rule.match] = rule
    injected = tuple(
        Injection(
            name=name, file=draw(st.sampled_from(["f.c", "../g.c", "h"])), source=draw(SOURCES),
            at=f"{draw(st.sampled_from([*alone, *groups]))}/egress",
            parameters=draw(st.dictionaries(st.sampled_from(["p", "q"]), st.integers(-9, 1 << 63))),
        )
        for name in draw(st.lists(st.sampled_from("mnop"), unique=True)) if made
    )  # fmt: skip
    return Mesh(
        name="edge", prefix4=draw(st.sampled_from([POOL4, POOL4, IPv4Network("198.18.0.0/16")])),
        prefix6=POOL6, hook=draw(st.sampled_from(["auto", "tcx"])), reject=draw(st.booleans()),
        host=draw(st.booleans()),
        limits=Limits(flows=draw(st.sampled_from([28672, 512]))),
        timeouts=Timeouts(udp=draw(st.sampled_from([120, 7]))), functions=made, services=served,
        policies=tuple(rules.values()), injections=ranked(injected),
        rights=(RIGHTS,) if draw(st.booleans()) else (),
    )  # fmt: skip


@given(meshes())
@settings(max_examples=200, deadline=None)
def test_what_is_written_is_read_as_the_same(mesh: Mesh) -> None:
    text = write.text(mesh)
    assert all(line.isprintable() for line in text.replace("\t", "").split("\n"))
    assert diff(mesh, again(mesh, text)) == ()
    assert write.text(again(mesh, text)) == text
    assert len(text.splitlines()[0]) < write.WIDTH


@given(meshes())
@settings(max_examples=30, deadline=None)
def test_what_is_injected_may_stand_beside(mesh: Mesh) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for name, text in write.files(mesh).items():
            assert Path(name).name == name
            (Path(directory) / name).write_bytes(text.encode())
        assert diff(mesh, load(Path(directory) / "edge.toml")) == ()


TIDY = """
# Mesh edge as it runs, by `ebpfmesh export`.

[mesh]
name = "edge"
timeouts = {udp = 30}

[[function]]
name = "cache"
address = "198.18.7.7"
# It has a container's own interface, which no file can say: without it, it gets one of
# its own. `ebpfmesh attach cache --iface …` takes that of the container.

[[function]]
name = "phone"

[[function]]
name = "shop"
netns = "/proc/7/ns/net"
# It is where a process is that will not be there again:
# `ebpfmesh attach shop --container …`, or --pid, finds that of another.

[[function]]
name = "web"
replicas = 3
tenant = "vendor"
cpu = 1
memory = "64M"
# web-1 was detached: `up` brings it back.

[[service]]
name = "portal"
address = "198.18.128.10"
port = "8000-8099"
target_port = "9000-9099"
functions = ["web"]
weights = {web-2 = 0}

[[policy]]
from = "function:phone"
to = "service:portal"

[[inject]]
name = "greeter"
at = "phone/egress"
source = '''
one
\ttwo
'''
# A canary is tried: 10 % of the flows meet 'new.c'. `up` of this file ends that.
""".lstrip()


def test_it_is_as_people_write(tmp_path: Path) -> None:
    """Only what there is to say, and what a file cannot say in comments."""
    file = tmp_path / "edge.toml"
    file.write_text(TIDY)
    mesh = load(file)
    there = tuple(one for one in mesh.functions if one.name != "web-1")
    tried = Canary(file="a/new.c", source="x", share=10)
    (greeter,) = mesh.injections
    live = mesh.model_copy(update={
        "functions": there, "injections": (greeter.model_copy(update={"canary": tried}),)
    })  # fmt: skip
    assert write.text(live, {"cache"}) == TIDY
    assert [step.describe().partition("  tenant")[0] for step in diff(live, mesh)] == [
        "~ injection greeter  canary 10 % a/new.c → none",
        "+ function web-1",
        "~ service portal  198.18.128.10  tcp/8000-8099 → 9000-9099  web  weights web-2 0",
    ]


def test_long_arrays_have_a_line_for_each_element() -> None:
    command = ("sh", "-c", *("word" * 5 for _ in range(5)))
    mesh = Mesh(name="edge", functions=(
        Function(name="a", address4=IPv4Address("198.18.0.1"), command=command),
    ))  # fmt: skip
    text = write.text(mesh)
    assert max(map(len, text.splitlines())) < write.WIDTH
    assert again(mesh, text) == mesh


@pytest.mark.parametrize(
    ("size", "text"), [(4096, "4K"), (5000, "5000"), (64 << 20, "64M"), (1 << 50, "1024T")]
)
def test_memory_is_written_with_the_largest_unit(size: int, text: str) -> None:
    assert memory_text(size) == text


def test_files_of_one_name_and_other_texts_are_called_as_what_is_injected() -> None:
    own = Function(name="a", address4=IPv4Address("198.18.0.1"))
    both = [
        Injection(name=name, file=f"{name}/f.c", source=source, at="a/egress")
        for name, source in (("m", "one"), ("n", "two"))
    ]
    mesh = Mesh(name="edge", functions=(own,), injections=ranked(tuple(both)))
    assert list(write.files(mesh)) == ["m.c", "n.c", "edge.toml"]
    same = tuple(one.model_copy(update={"source": "one"}) for one in mesh.injections)
    assert list(write.files(mesh.model_copy(update={"injections": same}))) == ["f.c", "edge.toml"]
