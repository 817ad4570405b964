# SPDX-License-Identifier: BSD-2-Clause
"""What tests of mesh files begin with."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str | bytes], Path]:
    """A mesh file of this content."""

    def write(content: str | bytes) -> Path:
        path = tmp_path / "mesh.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write
