# SPDX-License-Identifier: BSD-2-Clause
"""Maps of what is injected, for commands of the functions whose packets meet it (MESH_SHARED).

A command is handed those that there are when it begins. Who injects at a place declares in the text
which maps the commands there may read: the operator anywhere, a tenant at functions of its own.
"""

import contextlib
import os
from collections.abc import Iterator

from ebpfmesh.apply.held import Held
from ebpfmesh.inject.maps import SHARED, Layout
from ebpfmesh.kernel import bpf, shared
from ebpfmesh.model import Function
from ebpfmesh.state.place import maps_file


class Shared:
    """The maps of a mesh that commands read."""

    def __init__(self, mesh: Held) -> None:
        self._mesh = mesh
        self._record = mesh.record

    def handed(self, stack: contextlib.ExitStack, function: Function) -> list[shared.Handed]:
        """What a command that is about to begin reads, open until ``stack`` ends."""
        maps = list(self._opened(stack, function))
        file = maps_file(self._record, function.name)
        if not maps:
            file.unlink(missing_ok=True)
            return []
        shared.write(file, maps)
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, descriptor)
        return [shared.Handed(descriptor, maps)]

    def tell(self) -> None:
        """Commands that read maps can see which of them are in use."""
        for row in self._record.functions():
            file = maps_file(self._record, row.function.name)
            if file.exists():
                with contextlib.ExitStack() as stack:
                    maps = self._opened(stack, row.function)
                    shared.tell(file, {one.name: one.id for one in maps})

    def _opened(
        self, stack: contextlib.ExitStack, function: Function
    ) -> Iterator[shared.SharedMap]:
        places = {("tenant", function.tenant), ("function", function.name)}
        places |= {("function", function.group)} if function.group else set()
        for row in self._record.injections():
            if row.injection.target not in places or not row.program:
                continue
            for name, (_, raw) in self._record.program(row.program).compiled["maps"].items():
                layout = Layout(**raw)
                if layout.flags & SHARED:
                    pin = self._mesh.pins.injected / str(row.program) / name
                    fd = stack.enter_context(bpf.obj_get(pin))
                    called = f"{row.injection.name}/{name}"
                    yield shared.SharedMap(called, fd, layout.entries, layout.value_size)
