# SPDX-License-Identifier: BSD-2-Clause
"""The daemon, the only one, and nothing needs it: it starts commands again that ended.

What it knows is in the record and the kernel. A kill loses nothing, and the next one starts nothing
that runs.
"""

from ebpfmesh.serve.supervisor import Event, Supervisor

__all__ = ["Event", "Supervisor"]
