# SPDX-License-Identifier: BSD-2-Clause
"""What the model says, written into the maps the programs read.

The only writer of the control maps. Each call leaves every map whole; the programs act on it for
flows they have judged before once ``commit`` has raised the epoch.
"""

from ebpfmesh.apply.control.control import Control

__all__ = ["Control"]
