# SPDX-License-Identifier: BSD-2-Clause
"""Remotes: machines beyond an uplink that are backends of services, and parties of rules."""

from ebpfmesh.model.base import Name
from ebpfmesh.model.endpoint import Endpoint

REMOTES = 1024
"""The most that a mesh can have."""


class Remote(Endpoint):
    """Somebody beyond an uplink who is like a function but for being made and run by others.

    Services name it as they name functions, and so do rules. It is known by its addresses alone,
    where they come in by ``uplink``.
    """

    uplink: Name
    tenant: Name = "default"
