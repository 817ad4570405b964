# SPDX-License-Identifier: BSD-2-Clause
"""Says what is in the map `seen` whenever that changes, after what it is refused to do with it.

By itself it asks for no privilege; as root of the host it may try more, and must be refused too.
"""

import ctypes
import json
import mmap
import os
import sys
import time

from ebpfmesh import port

BPF, MAP_UPDATE = 321, 2  # of x86-64; linux/bpf.h


def main() -> None:
    seen = port.map("seen")
    file, first, *_ = os.environ["EBPFMESH_MAPS"].split()
    descriptor = int(first.split(":")[1])
    tries = {
        "mapping": lambda: mmap.mmap(descriptor, 4096, mmap.MAP_SHARED, mmap.PROT_WRITE),
        "protection": lambda: protect(seen.ctypes.data),
        "bpf": lambda: update(descriptor),
        "array": lambda: seen.__setitem__(0, 1),
        "file": lambda: os.pwrite(int(file), b"x", 0),
        "path": lambda: os.close(os.open(f"/proc/self/fd/{file}", os.O_RDWR)),
    }
    refused = []
    for name, attempt in tries.items():
        try:
            attempt()
        except (OSError, ValueError):
            refused.append(name)
    say(refused=refused, shape=seen.shape, size=seen.dtype.itemsize)
    before = None
    while True:
        now = seen.tolist(), port.is_current("seen")
        if now != before:
            say(seen=now[0], current=now[1])
            before = now
        time.sleep(0.01)


def protect(address: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), 4096, mmap.PROT_READ | mmap.PROT_WRITE):
        raise OSError(ctypes.get_errno(), "mprotect")


def update(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    key, value = ctypes.c_uint32(0), ctypes.c_uint64(7)
    about = (ctypes.c_uint64 * 16)(descriptor, ctypes.addressof(key), ctypes.addressof(value), 0)
    if libc.syscall(BPF, MAP_UPDATE, about, 128):
        raise OSError(ctypes.get_errno(), "bpf")


def say(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
