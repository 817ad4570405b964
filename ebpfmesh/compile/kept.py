# SPDX-License-Identifier: BSD-2-Clause
"""From kept instructions to pinned programs: what of a build needs no compiler."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ebpfmesh.compile import compiled
from ebpfmesh.kernel import bpf
from ebpfmesh.kernel.programs import Program

KINDS: dict[str, dict[str, int]] = {
    "tc": {"prog_type": bpf.PROG_TYPE_SCHED_CLS},
    "xdp": {"prog_type": bpf.PROG_TYPE_XDP},
} | {
    hook: {"prog_type": bpf.PROG_TYPE_CGROUP_SOCK_ADDR, "attach_type": number}
    for hook, number in bpf.HOST_HOOK.items()
}
"""Arguments of BCC for a program, by the ``type`` of ``programs.Program``."""

Load = Callable[[Program, bytearray], bpf.Fd]


def flags(program: Program) -> int:
    """What a program is loaded with besides."""
    return bpf.PROG_XDP_HAS_FRAGS if program.frags else 0


def has(store: compiled.Store | None, programs: Iterable[Program]) -> bool:
    """Whether all of these programs are kept."""
    return store is not None and all(store.has(program.name) for program in programs)


def load(store: compiled.Store, programs: Iterable[Program], by: Load) -> dict[str, bpf.Fd]:
    """The programs by name; all are kept. Raises OSError with what to remove."""
    loaded = {}
    for program in programs:
        try:
            code, _maps = store.code(program.name)
            loaded[program.name] = by(program, code)
        except (OSError, ValueError) as error:
            file = store.path / program.name
            raise OSError(f"remove {file}, it does not load: {error}") from error
    return loaded


def quietly(program: Program, code: bytearray) -> bpf.Fd:
    """Load instructions; what the verifier says of them is told by nobody. Raises OSError."""
    kind = KINDS[program.type]
    return bpf.prog_load(
        kind["prog_type"], program.name, code, kind.get("attach_type", 0), flags=flags(program)
    )


def with_log(program: Program, code: bytearray) -> bpf.Fd:
    """As ``quietly``, with the verifier's log on stderr if it refuses."""
    return compiled.load(program.name, code, **KINDS[program.type], flags=flags(program))


def pin(loaded: Mapping[str, bpf.Fd], target: Path) -> None:
    """Pin all in a directory of a BPF file system, or none of them. Raises OSError."""
    pinned = []
    try:
        for name, held in loaded.items():
            bpf.obj_pin(held, target / name)
            pinned.append(target / name)
    except OSError:
        for path in pinned:
            path.unlink()
        raise
