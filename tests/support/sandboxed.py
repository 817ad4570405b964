# SPDX-License-Identifier: BSD-2-Clause
"""A mesh of one command in its sandbox, a script: how it ended, and what it said."""

import json

from ebpfmesh import apply
from ebpfmesh.observe import logs
from ebpfmesh.observe.view import opened
from ebpfmesh.runtime.logs import read
from ebpfmesh.state.place import exit_file
from support.topology import wait_until

PYTHON = "/usr/bin/python3"


def ended(mesh: str, name: str = "f") -> str:
    with apply.opened(mesh) as live:
        file = exit_file(live.record, name)
    wait_until(file.read_text, what="the command ends")
    return file.read_text()


def said(mesh: str, name: str = "f") -> str:
    with opened(mesh) as view:
        return "".join(f"{line.text}\n" for line in read([logs.log(view, name)]))


def one(script: str, *keys: str, program: str = PYTHON) -> str:
    words = json.dumps([program, "-c", script])
    lines = "\n".join(keys)
    return f'[mesh]\nname = "bound"\n[[function]]\nname = "f"\ncommand = {words}\n{lines}\n'
