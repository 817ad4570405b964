# SPDX-License-Identifier: BSD-2-Clause
"""The programs of a mesh: one table that loading, pins, links, dry runs and ``show`` read."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ebpfmesh import _abi
from ebpfmesh.kernel import bpf

Direction = Literal["ingress", "egress"]


@dataclass(frozen=True)
class Program:
    """A function of a C file that is loaded as a program of its own.

    ``type`` is tc, xdp, or a key of bpf.HOST_HOOK. For those of a mesh: the ``file`` of bpf/, the
    ``hook`` of a function's interface, or of an ``uplink``, that it is attached to, or the slot of
    mesh_tc_calls by which others ``call`` it; and whether a mesh needs it always, or for services
    only, for the host's own processes, for uplinks that masquerade, or "early", in front of tc at
    uplinks and functions that need it: then each is loaded when it is first needed. With ``frags``
    it takes XDP frames in fragments.
    """

    name: str
    type: str
    file: str = ""
    hook: Direction | None = None
    call: int | None = None
    needed: Literal["always", "services", "host", "masquerade", "early"] = "always"
    uplink: bool = False
    frags: bool = False


MESH = (
    Program("mesh_slow_fn", "tc", "mesh_slow.c", call=_abi.CALL_SLOW),  # first: it takes longest
    Program("mesh_from_fn", "tc", "mesh_tc.c", hook="ingress"),
    Program("mesh_to_fn", "tc", "mesh_tc.c", hook="egress"),
    Program("mesh_uplink_fn", "tc", "mesh_tc.c", hook="ingress", uplink=True),
    Program("mesh_judge_fn", "tc", "mesh_tc.c", call=_abi.CALL_JUDGE),
    Program("mesh_decide_fn", "tc", "mesh_tc.c", call=_abi.CALL_DECIDE),
    Program("mesh_store_fn", "tc", "mesh_tc.c", call=_abi.CALL_STORE),
    Program("mesh_event_fn", "tc", "mesh_tc.c", call=_abi.CALL_EVENT),
    Program("mesh_answer_fn", "tc", "mesh_tc.c", call=_abi.CALL_ANSWER),
    Program("mesh_rate_fn", "tc", "mesh_tc.c", call=_abi.CALL_RATE),
    Program("mesh_out_fn", "tc", "mesh_out.c", call=_abi.CALL_OUT, needed="masquerade"),
    *(Program(f"mesh_{hook}", hook, "mesh_sock.c", needed="services") for hook in bpf.CGROUP_HOOK),
    *(Program(f"mesh_h{hook}", hook, "mesh_host.c", needed="host") for hook in bpf.HOST_HOOK),
    Program("mesh_deny_xdp", "xdp", "mesh_deny.c", needed="early", frags=True),
    Program("mesh_carry_xdp", "xdp", "mesh_carry.c", needed="early", frags=True),
    Program("mesh_both_xdp", "xdp", "mesh_carry.c", needed="early", frags=True),
    Program("mesh_fn_xdp", "xdp", "mesh_carry.c", needed="early", frags=True),
)

CHAIN_END = Program("mesh_chain_end", "tc", "mesh_chain.c")
CHAIN_WRITE = Program("mesh_chain_write", "tc", "mesh_chain.c")
CHAIN_LEAVE = Program("mesh_chain_leave", "tc", "mesh_chain.c")
CHAIN_LEAVE_WRITE = Program("mesh_chain_leave_write", "tc", "mesh_chain.c")
CHAIN_ENDS = (CHAIN_END, CHAIN_WRITE, CHAIN_LEAVE, CHAIN_LEAVE_WRITE)
"""What stands behind each program that is injected, and that may write; then those of tenants.

The first is loaded by itself too, for those.
"""
ALWAYS = tuple(program for program in MESH if program.needed == "always")
AT_SOCKETS = tuple(program for program in MESH if program.needed == "services")
AT_HOST = tuple(program for program in MESH if program.needed == "host")
OUT = next(program for program in MESH if program.needed == "masquerade")
HOOKS: dict[Direction, str] = {
    one.hook: one.name for one in MESH if one.hook is not None and not one.uplink
}
"""The program at each hook of a function's host-side interface."""
UPLINK = next(one.name for one in MESH if one.uplink)
"""The program at ingress of an uplink."""
EARLY = {program.name: program for program in MESH if program.needed == "early"}
"""What can be at XDP in front of tc, by name."""
DENY, CARRY = EARLY["mesh_deny_xdp"], EARLY["mesh_carry_xdp"]
"""At XDP of an uplink: where something is denied; where functions have their packets by XDP."""
BOTH, FROM_FN = EARLY["mesh_both_xdp"], EARLY["mesh_fn_xdp"]
"""Where both is so; and at the host side of a function that sends by XDP."""
CALLS = {program.call: program.name for program in ALWAYS if program.call is not None}
"""The program in each slot of mesh_tc_calls that every mesh has."""


def by_file(programs: Iterable[Program]) -> dict[str, list[Program]]:
    """Programs by the file of bpf/ they are in, in their order."""
    found: dict[str, list[Program]] = {}
    for program in programs:
        found.setdefault(program.file, []).append(program)
    return found
