# SPDX-License-Identifier: BSD-2-Clause
"""Changing the kernel: the only way in for the command line, the benchmark and programs.

up(config.load(path)); attach("edge", function); down("edge")
"""

from ebpfmesh.apply.ahead import compile_ahead
from ebpfmesh.apply.collect import gc
from ebpfmesh.apply.lifecycle import attach, detach, down, edit, plan, up
from ebpfmesh.apply.live import OnStep, opened
from ebpfmesh.apply.trace import traced

__all__ = [
    "OnStep",
    "attach",
    "compile_ahead",
    "detach",
    "down",
    "edit",
    "gc",
    "opened",
    "plan",
    "traced",
    "up",
]
