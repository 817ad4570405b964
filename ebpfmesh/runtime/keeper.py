# SPDX-License-Identifier: BSD-2-Clause
"""Who keeps a function's command: writes down how it ended, and the last of what it said.

A process of its own, one for each command, that imports as little as can be and outlives who
started it: python3 -I -S keeper.py OOM EXIT LOG LOG SIZE AT COMMAND…, with the command's
oom_score_adj, four descriptors of files, and a place in the last one. Where memory runs out the
command is killed, not who keeps it.

A line of a log is the Unix time it came at, a space, and the line. The logs are written in turns,
the other one emptied when one is full: together they have the last half a mebibyte or more, or as
much as SIZE says each may have, whenever that is read. Whatever becomes of them, the
command is not held up: what cannot be written is lost, and counted.
"""

import _signal  # type: ignore[import-not-found]  # signal, and typing, cost 1.5 MB each time
import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

SIZE = 512 << 10  # of a log, but for the end of its last line
CHUNK = 16 << 10
RATHER = (
    500  # oom_score_adj of a command whose keeper has the caller's, as without CAP_SYS_RESOURCE
)
POOLS = "EBPFMESH_POOLS"
"""The variable that names descriptors of pools: who else shares them gets them from here."""
DRAIN = 1 << 20  # what is read after its end at most; more than a pipe holds


class Log:
    """Two files that are written in turns."""

    def __init__(self, files: list[int], bound: tuple[int, int]) -> None:
        self._files = files
        self._bound = bound
        self._size = self._lost = 0
        self._inside = False  # of a line

    def keep(self, data: bytes) -> None:
        """Write what was said now."""
        stamp = b"%.6f " % time.time()
        if self._size + len(data) + data.count(b"\n") * len(stamp) > self.most():
            data = self._turn(data)
        if self._lost:
            note = b"%d bytes of the log are lost\n" % self._lost
            data = (b"\n" if self._inside else b"") + note + data
        if not data:
            return
        text = data[:-1].replace(b"\n", b"\n" + stamp) + data[-1:]
        self._put(text if self._inside else stamp + text)
        self._inside = not data.endswith(b"\n")

    def most(self) -> int:
        """Bytes that a file may have now."""
        try:
            return max(CHUNK, min(SIZE, int(os.pread(self._bound[0], 16, self._bound[1]))))
        except (OSError, ValueError):
            return SIZE

    def read(self, file: int) -> bytes:
        """What comes next; with a time before each line it is no more than a file may have."""
        return os.read(file, min(CHUNK, self.most() // 20))

    def _turn(self, data: bytes) -> bytes:
        """Begin the other file, at a line if one begins here; what of ``data`` is left for it."""
        if self._inside:
            line, _, data = data.partition(b"\n")
            self._put(line + b"\n")
            self._inside = False
        self._files.reverse()
        self._size = 0
        try:
            os.ftruncate(self._files[0], 0)
            os.lseek(self._files[0], 0, os.SEEK_SET)
        except OSError:
            self._size = SIZE
        return data

    def _put(self, text: bytes) -> None:
        try:
            written = os.write(self._files[0], text)
        except OSError:
            written = 0
        self._size += written
        self._lost = 0 if written == len(text) else self._lost + len(text) - written


def main() -> None:
    """Run the command, and end when it has ended and nobody can say anything more."""
    exit_file, *logs, bound = own = [int(word) for word in sys.argv[2:6]]
    for file in own:
        os.set_inheritable(file, False)
    reader, writer = os.pipe()
    os.fchmod(writer, 0o622)  # its user may open /dev/stdout
    command = os.fork()
    if not command:
        _become(sys.argv[7:], writer, sys.argv[1])
    begin = 3
    words = [one.split(":") for one in os.environ.get(POOLS, "").split()]
    shared = [int(one[1]) for one in words if len(one) > 1 and one[1].isdecimal()]
    for file in (*sorted([reader, *own, *shared]), os.sysconf("SC_OPEN_MAX")):
        os.closerange(begin, file)
        begin = file + 1
    _keep(command, reader, exit_file, Log(logs, (bound, int(sys.argv[6]))))


def _keep(command: int, reader: int, exit_file: int, log: Log) -> None:
    ended = os.pidfd_open(command)
    poll = select.poll()
    for file in (reader, ended):
        poll.register(file, select.POLLIN)
    left = {reader, ended}
    while left:
        for file, _ in poll.poll():
            if file == ended:
                _drain(reader, log) if reader in left else None
                _, status = os.waitpid(command, 0)
                code = os.waitstatus_to_exitcode(status)
                os.write(exit_file, b"%d" % (code if code >= 0 else 128 - code))
            elif data := log.read(reader):
                log.keep(data)
                continue
            left.discard(file)
            poll.unregister(file)


def _drain(reader: int, log: Log) -> None:
    """Keep what was said before the end; others may say more."""
    os.set_blocking(reader, False)
    try:
        left = DRAIN
        while left > 0 and (data := log.read(reader)):
            log.keep(data)
            left -= len(data)
    except BlockingIOError:
        pass
    os.set_blocking(reader, True)


def _become(command: list[str], output: int, oom: str) -> "NoReturn":
    with open("/proc/self/oom_score_adj", "r+") as score:  # noqa: PTH123
        spared = int(score.read()) < int(oom)
        score.write(oom if spared else str(max(int(oom), RATHER)))
    for file in (1, 2):
        os.dup2(output, file)
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):  # which Python ignores
        _signal.signal(number, _signal.SIG_DFL)
    try:
        os.execvp(command[0], command)  # noqa: S606
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode(errors="surrogateescape"))
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


if __name__ == "__main__":
    main()
