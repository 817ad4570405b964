# SPDX-License-Identifier: BSD-2-Clause
"""How much of everything a mesh has room for, and how long flows live."""

from ebpfmesh.model.base import Model, integer


class Limits(Model):
    """How many entries the maps of a mesh have room for; fixed while the mesh is up.

    A range of ports takes several of ``rules`` or ``services``: one for each prefix of it. What
    ``sockets`` limited is kept with each socket now, so it is taken and has no effect.
    """

    functions: int = integer(1024, 1, 65535)
    tenants: int = integer(16, 1, 255)
    services: int = integer(1024, 1, 65535)
    rules: int = integer(16384, 1, 1 << 20)
    prefixes: int = integer(1024, 1, 1 << 16)
    flows: int = integer(28672, 512, 1 << 21)
    half_open: int = integer(4096, 256, 1 << 20)
    fragments: int = integer(4096, 64, 1 << 20)
    sockets: int = integer(8192, 64, 1 << 20)


class Timeouts(Model):
    """Seconds that a flow without packets lives; they may change while the mesh is up."""

    handshake: int = integer(60, 1, 1 << 24)
    established: int = integer(432000, 1, 1 << 24)
    closing: int = integer(120, 1, 1 << 24)
    udp: int = integer(120, 1, 1 << 24)
    icmp: int = integer(30, 1, 1 << 24)
