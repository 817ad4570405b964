# SPDX-License-Identifier: BSD-2-Clause
"""The paths that are compared, each a small class behind one interface.

A path is made from a ``Mesh`` and builds what carries its traffic: a host namespace of its own,
the functions, rules or programs. ``target`` says where a client sends: a service's address
where the path has services, a backend's own where not. ``missing`` says why a path cannot be had
on this machine, ``packets`` what went through it.
"""

from pathlib import Path

from ebpfmesh.bench.paths.bare import Bridge, Loopback, RedirectPeer, Routed, XdpRedirect
from ebpfmesh.bench.paths.base import Change, DataPath, Source
from ebpfmesh.bench.paths.consumers import (
    IptablesRecvmmsg,
    MeshAfXdp,
    MeshAfXdpPython,
    Recvmmsg,
    TpacketV3,
)
from ebpfmesh.bench.paths.dpdk import DpdkAfPacket, DpdkAfXdp, DpdkNull
from ebpfmesh.bench.paths.iptables import (
    Iptables,
    IptablesAppend,
    IptablesEachPacket,
    IptablesLegacy,
    IptablesRaw,
)
from ebpfmesh.bench.paths.nftables import Nftables
from ebpfmesh.bench.paths.other_build import beside
from ebpfmesh.bench.paths.ovs import Ovs, OvsKernel
from ebpfmesh.bench.paths.swaps import MeshReattached, MeshSwapped
from ebpfmesh.bench.paths.this_build import MeshCounted, MeshPath, MeshUnmetered
from ebpfmesh.bench.paths.uplink import Devmap, MeshDeny, MeshUplink, MeshXdp

PATHS: dict[str, type[DataPath]] = {
    path.name: path
    for path in (
        Loopback,
        XdpRedirect,
        RedirectPeer,
        Routed,
        Bridge,
        Iptables,
        IptablesEachPacket,
        IptablesAppend,
        IptablesLegacy,
        Nftables,
        Ovs,
        OvsKernel,
        MeshUnmetered,
        MeshPath,
        MeshCounted,
        MeshSwapped,
        MeshReattached,
        DpdkNull,
        DpdkAfPacket,
        DpdkAfXdp,
        Devmap,
        IptablesRaw,
        MeshUplink,
        MeshDeny,
        MeshXdp,
        IptablesRecvmmsg,
        Recvmmsg,
        TpacketV3,
        MeshAfXdp,
        MeshAfXdpPython,
    )
}
"""By name, from what does least to what does most."""


def add_build(directory: Path) -> str:
    """Have the mesh of another build as a path too, and give its name; UsageError if it is none."""
    path = beside(directory)
    PATHS[path.name] = path
    return path.name


__all__ = ["PATHS", "Change", "DataPath", "MeshPath", "Source", "add_build"]
