# SPDX-License-Identifier: BSD-2-Clause
"""The programs of bpf/ as the control plane knows them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Program:
    """A function of a C file that is loaded as a program of its own."""

    name: str
    type: str  # tc, xdp, or a key of bpf.CGROUP_HOOK
