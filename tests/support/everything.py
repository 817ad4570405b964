# SPDX-License-Identifier: BSD-2-Clause
"""One mesh with all that there is besides functions with sockets, services and rules.

Two uplinks, one of which masquerades, a remote, a deny list, a packet function, an AF_XDP function
whose frames are in a pool, and the host's own processes at services.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network

from ebpfmesh import apply
from ebpfmesh.kernel import interface, links, netns
from ebpfmesh.model import Mesh
from support.topology import mesh_of

MESH = """
[mesh]
name = "{name}"
host = true
[[function]]
name = "a"
[[function]]
name = "raw"
datapath = "xdp"
source = "int raw(struct xdp_md *ctx) {{ return XDP_PASS; }}"
[[function]]
name = "port"
datapath = "af_xdp"
queues = 2
frames_in = "shared"
command = ["sleep", "1000"]
[[function]]
name = "mate"
command = ["sleep", "1000"]
[[pool]]
name = "shared"
tenant = "default"
slots = 256
bytes = 2048
functions = ["port", "mate"]
[[uplink]]
name = "u0"
interface = "up0"
masquerade = true
[[uplink]]
name = "u1"
interface = "up1"
[[remote]]
name = "r"
address = ["198.19.211.2", "2001:db8:d1::2"]
uplink = "u1"
tenant = "far"
[[service]]
name = "web"
address = "198.19.0.1"
port = 80
functions = ["a", "r"]
publish = ["u0:80"]
[[policy]]
from = "outside"
to = "service:web"
"""
DENIED = [ip_network("192.0.2.0/24"), ip_network("2001:db8:bad::/48")]


def everything(name: str) -> Mesh:
    """The mesh of this name; its uplinks are those of ``beyond(0)`` and ``beyond(1)``."""
    return mesh_of(MESH.format(name=name))


@contextmanager
def up(mesh: Mesh) -> Iterator[None]:
    """It is up, and something is denied, for the ``with`` block."""
    try:
        apply.up(mesh)
        apply.deny(mesh.name, DENIED)
        yield
    finally:
        apply.down(mesh.name)


def at_uplinks() -> set[str]:
    """Programs at interfaces that stay when a mesh goes."""
    with netns.rtnetlink() as ip:
        found = {name: interface.find(name) for name in ("up0", "up1", "up2")}
        return {
            f"{one.name} at {name}"
            for name, index in found.items()
            if index
            for one in links.programs(ip, index)
        }
