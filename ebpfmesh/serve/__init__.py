# SPDX-License-Identifier: BSD-2-Clause
"""The daemon, the only one, and nothing needs it: it looks after functions.

Commands that ended start again, and services send nothing new to who is not well.

What it knows is in the record and the kernel. A kill loses nothing, and the next one starts nothing
that runs.
"""

from ebpfmesh.serve.supervisor import Event, Supervisor

__all__ = ["Event", "Supervisor"]
