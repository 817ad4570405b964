# SPDX-License-Identifier: BSD-2-Clause
"""Which function of a service a new flow goes to."""

import ctypes
from collections import Counter

import pytest

from ebpfmesh import _abi
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.kernel import maglev
from ebpfmesh.kernel.keys import frontends
from ebpfmesh.kernel.maps import maglev_rows
from ebpfmesh.model import Service
from prog import changes
from prog.lab import MESH, TC, Drop, Lab, peer, policy, service
from support.packets import received, sent, tcp

A, B, WEB = peer("a"), peer("b"), service("web")
MACS = {peer(name).mac: name for name in "abcde"}


def chosen(lab: Lab, v: int, port: int) -> str:
    """The function that a flow from this port reaches."""
    seen = lab.run(TC, "a", bytes(sent(A, tcp(v, A, WEB, port, 80))))
    assert seen.verdict == "forward"
    return MACS[seen.frame[:6].hex(":")]


@pytest.mark.parametrize("v", [4, 6])
def test_flows_spread_evenly(lab: Lab, v: int) -> None:
    """Each of three has a third, five standard deviations either way."""
    lab.change(changes.policies(policy("any", "service:web")))
    lab.change(changes.set_service("web", functions=("b", "c", "d")))
    flows = 450
    shares = Counter(chosen(lab, v, 1024 + port) for port in range(flows))
    assert set(shares) == {"b", "c", "d"}
    assert all(abs(share - flows / 3) < 5 * (flows * 2 / 9) ** 0.5 for share in shares.values())


def test_both_programs_choose_the_same(lab: Lab) -> None:
    lab.change(changes.policies(policy("any", "service:web")))
    lab.change(changes.set_service("web", functions=("b", "c", "d")))
    first = [chosen(lab, 4, port) for port in range(2000, 2050)]
    lab.forget_flows()
    assert [chosen(lab, 4, port) for port in range(2000, 2050)] == first


def test_a_function_more_takes_its_share_and_no_other(lab: Lab) -> None:
    """New flows as the old ones: who does not move to the new function stays where it was."""
    lab.change(changes.policies(policy("any", "service:web")))
    lab.change(changes.set_service("web", functions=("b", "c")))
    before = {port: chosen(lab, 4, port) for port in range(2000, 2200)}
    lab.change(changes.set_service("web", functions=("b", "c", "d")))
    lab.forget_flows()
    after = {port: chosen(lab, 4, port) for port in before}
    assert "d" in after.values()
    moved = [port for port in before if after[port] not in (before[port], "d")]
    assert len(moved) < len(before) * 0.1


def test_a_table_of_several_rows(lab: Lab) -> None:
    """Slots past the first row are found in the next: a row of b, and a row of c."""
    lab.change(changes.policies(policy("any", "service:web")))
    rows = 2
    first = maglev_rows(MESH.limits) - rows
    for number, name in enumerate(("b", "c")):
        row = _abi.MaglevRow()
        row.function[:] = [lab.ids[name]] * _abi.MAGLEV_ROW
        lab.maps["mesh_maglev"].set(ctypes.c_uint32(first + number), row)
    for key, _, _ in frontends(MESH.service("web"), {}):
        value = lab.maps["mesh_service"].get(key)
        value.row, value.size = first, maglev.size_of(rows)
        lab.maps["mesh_service"].set(key, value)
    shares = Counter(chosen(lab, 4, port) for port in range(2000, 2200))
    lab.change(changes.set_service("web", functions=("c",)))  # its own table again
    assert set(shares) == {"b", "c"}
    assert min(shares.values()) > 60


# Ranges of ports


def ranged(port: int, ports: int, target: int, protocol: str = "tcp") -> Service:
    """A service of b at web's address."""
    values = dict(MESH.service("web")) | {
        "name": "ranged", "protocol": protocol, "port": port, "ports": ports, "target_port": target,
    }  # fmt: skip
    return Service(**values)


@pytest.mark.parametrize("v", [4, 6])
@pytest.mark.parametrize(
    ("port", "ports", "target"),
    [(8000, 100, 9000), (8000, 100, 8000), (9001, 7, 81), (1024, 1024, 1), (65000, 536, 1000),
     (1000, 536, 65000), (100, 65436, 100), (81, 2, 65534)],
)  # fmt: skip
def test_a_range_of_ports(lab: Lab, v: int, port: int, ports: int, target: int) -> None:
    """Each port has its own at the function, and no other port is the service's."""
    wanted = ranged(port, ports, target)
    lab.change(changes.add_service(wanted))
    edges = {end.key.port for end in frontends(wanted, {})} | {port, port + ports - 1}
    near = sorted({edge + by for edge in edges for by in (-1, 0, 1)} & set(range(1, 65536)) - {80})
    for number in near:
        seen = lab.run(TC, "a", bytes(sent(A, tcp(v, A, WEB, 1000, number))))
        if not port <= number < port + ports:
            assert set(seen.counted) == {Drop("a", Direction.FROM_FN, Reason.NO_SERVICE)}
            continue
        own = number - port + target
        assert seen.frame == bytes(received(B, tcp(v, A, B, 1000, own, ttl=63)))
        seen = lab.run(TC, "b", bytes(sent(B, tcp(v, B, A, own, 1000, "SA"))))
        assert seen.frame == bytes(received(A, tcp(v, WEB, A, number, 1000, "SA", ttl=63)))
        lab.forget_flows()


def test_a_rule_for_a_ranged_service_is_about_its_own_port(lab: Lab) -> None:
    lab.change(changes.add_service(ranged(8000, 100, 9000)))
    lab.change(changes.policies(policy("function:a", "service:ranged", "tcp/8050-8059", "deny")))
    lab.change(changes.policies(policy("function:a", "function:b", "tcp/9070", "deny")))
    for port, verdict in ((8049, "forward"), (8050, "drop"), (8059, "drop"), (8060, "forward"),
                          (8070, "drop"), (8071, "forward")):  # fmt: skip
        seen = lab.run(TC, "a", bytes(sent(A, tcp(4, A, WEB, 1000, port))))
        assert seen.verdict == verdict, port


# Affinity and weights


def three(lab: Lab, **rest: object) -> None:
    """The service web of three functions."""
    lab.change(changes.policies(policy("any", "service:web")))
    lab.change(changes.set_service("web", functions=("b", "c", "d"), **rest))


@pytest.mark.parametrize("v", [4, 6])
def test_affinity_is_to_the_source_alone(lab: Lab, v: int) -> None:
    three(lab, affinity="source")
    first = {chosen(lab, v, port) for port in range(2000, 2050)}
    assert len(first) == 1
    lab.change(changes.set_service("web", affinity="none"))
    assert len({chosen(lab, v, port) for port in range(3000, 3050)}) == 3


def test_affinity_is_to_each_source(lab: Lab) -> None:
    """Functions do not all meet the same one; that of a source is the same at every port."""
    three(lab, affinity="source")
    lab.change(changes.add_service(MESH.service("web").model_copy(
        update={"name": "more", "port": 81, "functions": ("b", "c", "d"), "affinity": "source"}
    )))  # fmt: skip
    lab.change(changes.policies(policy("any", "service:more")))
    met = {}
    for name in "abcd":
        here = peer(name)
        frames = (bytes(sent(here, tcp(4, here, WEB, 1000, port))) for port in (80, 81))
        runs = [lab.run(TC, name, frame) for frame in frames]
        met[name] = {MACS[seen.frame[:6].hex(":")] for seen in runs}
    assert all(len(one) == 1 for one in met.values())
    assert len(set.union(*met.values())) > 1


def test_no_new_flow_to_a_function_without_weight(lab: Lab) -> None:
    """It is drained: what it has stays its own."""
    three(lab)
    before = {port: chosen(lab, 4, port) for port in range(2000, 2020)}
    lab.change(changes.set_service("web", weights={"c": 0}))
    assert {port: chosen(lab, 4, port) for port in before} == before
    assert {chosen(lab, 4, port) for port in range(3000, 3040)} == {"b", "d"}
    lab.change(changes.set_service("web", weights={"b": 0, "c": 0, "d": 0}))
    assert {port: chosen(lab, 4, port) for port in before} == before
    seen = lab.run(TC, "a", bytes(sent(A, tcp(4, A, WEB, 4000, 80))))
    assert set(seen.counted) == {Drop("a", Direction.FROM_FN, Reason.NO_BACKEND)}


def test_flows_spread_by_weight(lab: Lab) -> None:
    """Of three, the one of weight 2 has a half; five standard deviations either way."""
    three(lab, weights={"c": 2})
    flows = 400
    shares = Counter(chosen(lab, 4, 1024 + port) for port in range(flows))
    assert abs(shares["c"] - flows / 2) < 5 * (flows / 4) ** 0.5
    assert abs(shares["b"] - flows / 4) < 5 * (flows * 3 / 16) ** 0.5
