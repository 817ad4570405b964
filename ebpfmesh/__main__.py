# SPDX-License-Identifier: BSD-2-Clause
"""``python -m ebpfmesh`` is the command."""

from ebpfmesh.cli.main import main

main()
