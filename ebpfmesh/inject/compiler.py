# SPDX-License-Identifier: BSD-2-Clause
"""The compiler for code of others: ``python -m ebpfmesh.inject.compiler``.

What it reads was written by somebody who may want to harm the host, so this process can do nothing
but compute: it is nobody, without a capability, in a root directory of headers, without a network,
with bounded memory and time; and bpf(2) is not the kernel's here but answered by a thread of this
process (seccomp_unotify(2)). So BCC "creates" maps and "loads" a program of any size, and what it
asked for is what is reported. Reads a Request as JSON from stdin and writes the answer as JSON to
stdout; stderr is what clang has to say, and behind it the
text as BCC has changed it. Exits 0, 1, or NO_BCC.
"""

import ctypes
import gc
import json
import os
import platform
import resource
import signal
import struct
import sys
import threading
from pathlib import Path
from typing import Any

from ebpfmesh.compile.headers import CFLAGS, SOURCE_VARIABLE, header_links
from ebpfmesh.kernel import libc

NO_BCC = 5
REWRITTEN = 4  # DEBUG_PREPROCESSOR: print the text as BCC has changed it
NOBODY = 65534
MEMORY = 1 << 30  # bytes of address space; an ordinary source takes 600 MiB of it
SECONDS = 60
TEXT = 1 << 20  # bytes of a file it may write: what it says, and its answer
ROOT = Path("/sys")  # hidden by a file system of its own, which becomes the root
TREE = Path("/headers")
FIRST_NUMBER = 1 << 20  # of what bpf(2) "makes": no descriptor of the process

# Numbers of system calls: bpf, seccomp, and those that a compiler does not need.
CALLS = {
    "x86_64": (321, 317, 0xC000003E, (41, 53, 56, 57, 58, 59, 101, 310, 311, 322, 425, 435)),
    "aarch64": (280, 277, 0xC00000B7, (117, 198, 199, 220, 221, 270, 271, 281, 425, 435)),
}
MAP_CREATE, PROG_LOAD, BTF_LOAD = 0, 5, 18
COMMANDS = {6: "pins a map", 7: "opens a pinned object", 14: "opens a map by its number"}
_ALLOW, _ERROR, _NOTIFY = 0x7FFF0000, 0x00050001, 0x7FC00000  # seccomp's; the error is EPERM
_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV, _SEND
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif
_PR_NO_NEW_PRIVS = 38


class Answers:
    """What bpf(2) was asked for, and the answers: numbers that stand for nothing."""

    def __init__(self) -> None:
        self.maps: dict[int, tuple[int, ...]] = {}
        self.refused: list[str] = []
        self.instructions = self.lines = self.strings = b""
        self._next = FIRST_NUMBER

    def __call__(self, command: int, attributes: bytes) -> int:
        """The number that the call returns, or a negative errno."""
        self._next += 1
        if command == MAP_CREATE:
            self.maps[self._next] = struct.unpack_from("=5I", attributes)
        elif command == BTF_LOAD:
            at, size = struct.unpack_from("=Q8xI", attributes)
            self.strings = _strings(ctypes.string_at(at, size))
        elif command == PROG_LOAD:
            count, at = struct.unpack_from("=4xIQ", attributes)
            size, lines, records = struct.unpack_from("=I QI".replace(" ", ""), attributes, 92)
            if size == 16:  # struct bpf_line_info; libbpf's own tries have none
                self.instructions = ctypes.string_at(at, count * 8)
                self.lines = ctypes.string_at(lines, records * size)
        else:
            if command in COMMANDS:
                self.refused.append(COMMANDS[command])
            return -1
        return self._next

    def places(self) -> list[tuple[int, str, int, int]]:
        """(Instruction, file, line, column) where these begin to hold."""
        return [
            (at, self._string(file).removeprefix(f"{TREE}/"), column >> 10, column & 0x3FF)
            for at, file, _, column in struct.iter_unpack("=4I", self.lines)
        ]

    def _string(self, at: int) -> str:
        return self.strings[at : self.strings.index(b"\0", at)].decode(errors="replace")


def _strings(btf: bytes) -> bytes:
    header, start, size = struct.unpack_from("=4xI8xII", btf)
    return btf[header + start : header + start + size]


def main() -> int:
    """Serve one request."""
    request = json.load(sys.stdin)
    os.environ[SOURCE_VARIABLE] = str(TREE)
    try:
        from bcc.libbcc import lib  # noqa: PLC0415  (needs the environment)
    except ImportError as error:
        sys.stderr.write(f"BCC is not installed: {error}\n")
        return NO_BCC
    _shut_in(request["parent"])
    answers = Answers()
    _answer_bpf(answers)
    module = _compile(lib, request)
    if not module:
        if answers.refused:
            sys.stderr.write(f"\nrefused: {answers.refused[0]}\n")
        return 1
    json.dump(_read(lib, module, request["entries"], answers), sys.stdout)
    return 0


def _shut_in(parent: int) -> None:
    """Leave the host behind, for good."""
    libc.unshare(libc.CLONE_NEWNS | libc.CLONE_NEWNET)
    libc.mount(b"none", Path("/"), None, flags=libc.MS_PRIVATE | libc.MS_REC)
    links = {link: target.resolve() for link, target in header_links().items()}
    libc.mount(b"none", ROOT, b"tmpfs", b"mode=0755,size=64k")
    for link, target in links.items():
        place = ROOT / TREE.relative_to("/") / link
        place.mkdir(parents=True)
        libc.mount(os.fsencode(target), place, None, flags=libc.MS_BIND)
    os.chroot(ROOT)
    os.chdir("/")
    for kind, limit in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CPU, SECONDS),
        (resource.RLIMIT_FSIZE, TEXT),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(kind, (limit, limit))
    os.nice(10)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)  # and with that without capabilities
    libc.prctl(_PR_NO_NEW_PRIVS, 1)
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # which died before that
        os._exit(1)


class _Filter(ctypes.Structure):
    """One struct sock_filter."""

    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    """Struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filters", ctypes.POINTER(_Filter)))


def _answer_bpf(answers: Answers) -> None:
    """From here on this thread's bpf(2) is ``answers``, and other doors are shut."""
    bpf, seccomp, architecture, shut = CALLS[platform.machine()]
    load, equal, give = 0x20, 0x15, 0x06
    rules = [
        _Filter(load, 0, 0, 4),
        _Filter(equal, 1, 0, architecture),
        _Filter(give, 0, 0, _ERROR),
        _Filter(load, 0, 0, 0),
        _Filter(equal, 0, 1, bpf),
        _Filter(give, 0, 0, _NOTIFY),
    ]
    for number in shut:
        rules += [_Filter(equal, 0, 1, number), _Filter(give, 0, 0, _ERROR)]
    rules.append(_Filter(give, 0, 0, _ALLOW))
    program = _Program(len(rules), (_Filter * len(rules))(*rules))
    ready, box = threading.Event(), list[int]()

    def serve() -> None:
        ready.wait()
        while True:
            _serve_one(box[0], answers)

    threading.Thread(target=serve, daemon=True).start()
    c = ctypes.CDLL(None, use_errno=True)
    listener = c.syscall(seccomp, 1, 8, ctypes.byref(program))  # SET_MODE_FILTER, NEW_LISTENER
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp: " + os.strerror(ctypes.get_errno()))
    box.append(listener)
    ready.set()


def _serve_one(listener: int, answers: Answers) -> None:
    c = ctypes.CDLL(None)
    buffer = ctypes.create_string_buffer(_NOTIFICATION.size)
    if c.ioctl(listener, ctypes.c_ulong(_RECEIVE), buffer) < 0:
        return
    identity, _, _, _, _, _, command, at, size, *_ = _NOTIFICATION.unpack(buffer.raw)
    given = answers(command, ctypes.string_at(at, size).ljust(256, b"\0"))
    value, error = (given, 0) if given >= 0 else (0, given)
    reply = ctypes.create_string_buffer(struct.pack("=QqiI", identity, value, error, 0), 24)
    c.ioctl(listener, ctypes.c_ulong(_SEND), reply)


def _compile(lib: Any, request: dict[str, Any]) -> Any:
    flags = [
        *CFLAGS,
        "--target=bpf",
        f"-D__{platform.machine()}__",
        "-O2",
        "-g",
        "-Wno-unused-function",
        *request["flags"],
    ]
    given = (ctypes.c_char_p * len(flags))(*(flag.encode() for flag in flags))
    text = request["text"].encode()
    return lib.bpf_module_create_c_from_string(text, REWRITTEN, given, len(flags), False, None)


def _read(lib: Any, module: Any, entries: list[str], answers: Answers) -> dict[str, Any]:
    """What came out: programs as BCC would load them, and the maps as it would create them."""
    lib.bpf_table_name.restype = ctypes.c_char_p
    tables = []
    for index in range(lib.bpf_num_tables(module)):
        name = lib.bpf_table_name(module, index)
        number = lib.bpf_table_fd(module, name)
        tables.append(
            {
                "name": name.decode(),
                "number": number,
                "created": answers.maps.get(number),
                "key": json.loads(lib.bpf_table_key_desc(module, name) or b"null"),
                "value": json.loads(lib.bpf_table_leaf_desc(module, name) or b"null"),
            }
        )
    programs = [_program(lib, module, entry.encode(), answers) for entry in entries]
    return {"programs": programs, "tables": tables, "refused": answers.refused}


def _program(lib: Any, module: Any, entry: bytes, answers: Answers) -> dict[str, Any]:
    answers.instructions = answers.lines = b""
    start, size = lib.bpf_function_start(module, entry), lib.bpf_function_size(module, entry)
    licence = lib.bpf_module_license(module)
    lib.bcc_func_load(module, 3, entry, start, size, licence, 0, 0, None, 0, None, 0)
    return {"instructions": answers.instructions.hex(), "places": answers.places()}


if __name__ == "__main__":
    gc.disable()
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
