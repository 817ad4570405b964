# SPDX-License-Identifier: BSD-2-Clause
"""Changing the kernel: the only way in for the command line, the benchmark and programs.

up(config.load(path)); attach(Request(mesh="edge", name="cache", pid=1234)); down("edge")
"""

from ebpfmesh.apply.ahead import compile_ahead
from ebpfmesh.apply.collect import gc
from ebpfmesh.apply.commands import restart, start, stay_stopped, stop
from ebpfmesh.apply.denied import allow, deny
from ebpfmesh.apply.edits import (
    Request,
    add_function,
    attach,
    attach_uplink,
    detach,
    detach_uplink,
    edit,
    reset,
    rollback,
)
from ebpfmesh.apply.held import OnStep
from ebpfmesh.apply.lifecycle import down, plan, plan_revert, revert, snapshot, up
from ebpfmesh.apply.live import opened
from ebpfmesh.apply.lookup import home, sandbox
from ebpfmesh.apply.marks import set_ready
from ebpfmesh.apply.ports import serve_port
from ebpfmesh.apply.ready import Unready
from ebpfmesh.apply.trace import traced
from ebpfmesh.apply.volumes import barred_volumes

__all__ = [
    "OnStep",
    "Request",
    "Unready",
    "add_function",
    "allow",
    "attach",
    "attach_uplink",
    "barred_volumes",
    "compile_ahead",
    "deny",
    "detach",
    "detach_uplink",
    "down",
    "edit",
    "gc",
    "home",
    "opened",
    "plan",
    "plan_revert",
    "reset",
    "restart",
    "revert",
    "rollback",
    "sandbox",
    "serve_port",
    "set_ready",
    "snapshot",
    "start",
    "stay_stopped",
    "stop",
    "traced",
    "up",
]
