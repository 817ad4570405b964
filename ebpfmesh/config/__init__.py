# SPDX-License-Identifier: BSD-2-Clause
"""From what people write to a ``Mesh``: mesh files, addresses, and errors they can act on.

``load`` reads a mesh file, ``read`` and ``mesh_of`` do so in two steps; whatever is wrong with it
is a ``ConfigError`` with file, line and hint. The way of a file is documents (its text), toml (its
values), tables (each checked by its model in file) and mesh (what they mean together). ``make`` and
``assign_addresses`` do the same for a single object of the command line.
"""

from ebpfmesh.config.addresses import assign_addresses, parse_address
from ebpfmesh.config.denied import parse_denied, read_denied
from ebpfmesh.config.documents import read
from ebpfmesh.config.explain import explain, make
from ebpfmesh.config.loading import load, locate, mesh_of
from ebpfmesh.model import parse_prefix

__all__ = [
    "assign_addresses",
    "explain",
    "load",
    "locate",
    "make",
    "mesh_of",
    "parse_address",
    "parse_denied",
    "parse_prefix",
    "read",
    "read_denied",
]
