# SPDX-License-Identifier: BSD-2-Clause
"""Where records are: in a directory of each mesh in /run/ebpfmesh."""

from pathlib import Path

from ebpfmesh.kernel import private

RUN = Path("/run/ebpfmesh")


def file_of(mesh: str) -> Path:
    """The record of a mesh, be it there or not."""
    return RUN / mesh / "record.db"


def all_records() -> list[str]:
    """Names of the meshes that have a record here, or only what stands beside one."""
    return [name for name in private.names(RUN) if (RUN / name).is_dir()]


def is_there(path: Path) -> bool:
    """Whether there is a file; MissingPrivilege to who may not look."""
    try:
        return path.exists()
    except PermissionError as error:
        raise private.closed(RUN) from error
