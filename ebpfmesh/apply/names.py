# SPDX-License-Identifier: BSD-2-Clause
"""The names of a mesh, which its functions see as /etc/hosts."""

from ebpfmesh.runtime import process
from ebpfmesh.state.place import hosts_file
from ebpfmesh.state.writer import Writer


class Names:
    """The file of hosts of a mesh."""

    def __init__(self, record: Writer) -> None:
        self._record = record
        self._file = hosts_file(record)
        self._doubted = False

    def doubt(self) -> None:
        """Have it written anew: something may be wrong with it."""
        self._doubted = True

    def problems(self) -> list[str]:
        """What is not as the record says."""
        whole = process.has_hosts(self._file, self._record.hosts())
        return [] if whole else [f"file {self._file}"]

    def write(self) -> None:
        """Write all functions and services; only the lines that come or go, where that will do."""
        gone, new = self._record.host_changes()
        if self._doubted or not self._file.exists():
            process.write_hosts(self._file, self._record.hosts())
            self._doubted = False
        elif gone or new:
            process.change_hosts(self._file, gone, new)
