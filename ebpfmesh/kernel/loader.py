# SPDX-License-Identifier: BSD-2-Clause
"""The compiler, as a process of its own: ``python -m ebpfmesh.kernel.loader``.

The only module that imports bcc. LLVM is a hundred megabytes that would never leave a process, and
BCC is not thread-safe, so ``ebpfmesh.kernel.build`` runs this once for each source file. It reads
a Request as JSON from stdin, compiles, loads and pins, and exits 0; on failure the last line of
stderr is what went wrong, and what stands before it is the log of clang or the verifier.
"""

import ctypes
import json
import os
import signal
import sys
from pathlib import Path

from ebpfmesh.errors import MeshError
from ebpfmesh.kernel import bpf
from ebpfmesh.kernel.headers import CFLAGS, SOURCE_VARIABLE, header_tree
from ebpfmesh.kernel.pins import detached_tmpfs
from ebpfmesh.kernel.source import flatten

NO_BCC = 5
PR_SET_PDEATHSIG = 1  # who waits for us may be killed: nobody wants the programs then

KINDS = {
    "tc": {"prog_type": bpf.PROG_TYPE_SCHED_CLS},
    "xdp": {"prog_type": bpf.PROG_TYPE_XDP},
} | {
    hook: {"prog_type": bpf.PROG_TYPE_CGROUP_SOCK_ADDR, "attach_type": number}
    for hook, number in bpf.CGROUP_HOOK.items()
}
"""What BCC is told of a program, by the word in ``build.Program``."""


def main() -> int:
    """Serve one request; the exit code is 0, 1, or NO_BCC where BCC is not installed."""
    request = json.load(sys.stdin)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != request["parent"]:  # killed before that
        return 1
    try:
        os.environ[SOURCE_VARIABLE] = str(header_tree(detached_tmpfs()))
    except MeshError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    try:
        from bcc import BPF  # noqa: PLC0415  (reads the environment when imported)
    except ImportError as error:
        sys.stderr.write(f"BCC is not installed: {error}\n")
        return NO_BCC
    try:
        _build(BPF, request)
    except Exception as error:  # noqa: BLE001  (BCC raises bare Exception)
        sys.stderr.write(f"\n{error}\n")
        return 1
    return 0


def _build(BPF: type, request: dict) -> None:  # type: ignore[type-arg]  # noqa: N803
    """Compile, load and pin; what was pinned before a failure is unpinned again."""
    defines = [f"-D{name}={value}" for name, value in request["defines"].items()]
    module = BPF(text=flatten(Path(request["source"])), cflags=[*CFLAGS, "-O2", *defines])
    descriptors = {
        program["name"]: module.load_func(program["name"], **KINDS[program["type"]]).fd
        for program in request["programs"]
    }
    descriptors |= {name: module[name].map_fd for name in request["pin_maps"]}
    target, pinned = Path(request["pin_to"]), []
    try:
        for name, number in descriptors.items():
            bpf.obj_pin(bpf.Fd(os.dup(number)), target / name)
            pinned.append(target / name)
    except OSError:
        for path in pinned:
            path.unlink()
        raise


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # LLVM would put away all it has first, and somebody waits
