# SPDX-License-Identifier: BSD-2-Clause
"""The programs at sockets: when they are compiled and attached, and a kernel without them."""

import socket
from collections.abc import Callable

import pytest

from ebpfmesh import apply
from ebpfmesh._abi import FlowFlag
from ebpfmesh.kernel import programs, sockets
from ebpfmesh.kernel.cgroup import directory_above
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Mesh
from support.meshes import mesh_file, service
from support.serving import MESH, accepted, at, flows, listeners, own, peer
from support.sockets import listener
from support.topology import mesh_of, running

ALL = sorted(program.name for program in programs.AT_SOCKETS)
NAMED = mesh_file("cgroup")
SERVICE = service("s", 80, "a", address="198.19.0.1")


def linked(name: str) -> list[str]:
    return sorted(path.name for path in Pins(name).links.glob("mesh_*"))


def test_attached_while_there_are_functions() -> None:
    with running(NAMED):
        assert linked("cgroup") == []
        for _ in range(2):
            apply.up(mesh_of(NAMED + '[[function]]\nname = "a"\n' + SERVICE))
            assert linked("cgroup") == ALL
            with apply.opened("cgroup") as live:
                above = directory_above(live.home("a").cgroup.group)
            assert above
            assert above.is_dir()
            assert sockets.attached(Pins("cgroup"), above)
            apply.up(mesh_of(NAMED))
            assert linked("cgroup") == []


def first_by_file(_without: Mesh, wanted: Mesh) -> None:
    apply.up(wanted)


def first_by_edit(_without: Mesh, wanted: Mesh) -> None:
    apply.edit("cgroup", lambda _: wanted)


@pytest.mark.parametrize("change", [first_by_file, first_by_edit])
def test_compiled_with_the_first_service(change: Callable[[Mesh, Mesh], None]) -> None:
    """Functions that were there before meet it at their sockets, as if it had been there too."""
    functions = NAMED + '[[function]]\nname = "a"\n[[function]]\nname = "b"\n'
    without, wanted = mesh_of(functions), mesh_of(functions + SERVICE)
    with running(without):
        there = {path.name for path in Pins("cgroup").progs.iterdir()}
        assert not there.intersection(ALL)
        assert linked("cgroup") == []
        change(without, wanted)
        assert {path.name for path in Pins("cgroup").progs.iterdir()} == there.union(ALL)
        assert linked("cgroup") == ALL
        with (
            listener(wanted, "a", at(wanted, "a", 4), 80) as server,
            own(wanted, "b", socket.AF_INET, socket.SOCK_STREAM) as sock,
        ):
            sock.connect(("198.19.0.1", 80))
            assert peer(sock) == ("198.19.0.1", 80)
            there_too, source = server.accept()
            there_too.close()
            found = flows(wanted, source[1])
            assert found
            assert not any(flags & FlowFlag.NAT_DST for flags in found)
        apply.up(without)
        assert apply.plan(without) == ()


def test_without_cgroups_packets_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "supported", lambda: False)
    with running(MESH.replace('"sock"', '"packets"')) as mesh:
        assert linked("packets") == []
        with (
            listeners(mesh, 4) as servers,
            own(mesh, "client", socket.AF_INET, socket.SOCK_STREAM) as sock,
        ):
            sock.connect(("198.19.0.1", 80))
            _, there, source = accepted(servers)
            there.close()
            assert source[0] == str(at(mesh, "client", 4))
            assert any(flags & FlowFlag.NAT_DST for flags in flows(mesh, source[1]))
