# SPDX-License-Identifier: BSD-2-Clause
"""What the verifier made of a program: its instructions as the kernel has them."""

import ctypes

from ebpfmesh.inject.instructions import Instruction, decode
from ebpfmesh.kernel import bpf

NOSPEC = 0xC2  # BPF_ST | BPF_NOSPEC in linux/include/linux/filter.h


def translated(program: bpf.Fd) -> tuple[Instruction, ...]:
    """Instructions of a loaded program."""
    size = bpf.prog_info(program).xlated_prog_len
    code = (ctypes.c_uint8 * size)()
    info = bpf.ProgInfo(xlated_prog_len=size, xlated_prog_insns=ctypes.addressof(code))
    length = ctypes.c_uint32(ctypes.sizeof(info))
    bpf.call("bpf_obj_get_info_by_fd", program.fileno(), ctypes.byref(info), ctypes.byref(length))
    return decode(bytes(code))


def barriers(program: bpf.Fd) -> int:
    """How many barriers against speculation it has."""
    return sum(one.code == NOSPEC for one in translated(program))
