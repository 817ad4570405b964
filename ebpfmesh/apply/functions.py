# SPDX-License-Identifier: BSD-2-Clause
"""Functions, between the record and the kernel: interfaces, programs, namespaces, cgroups.

What is made here comes up after its programs are attached, and goes before they do: no packet gets
past them.
"""

import contextlib
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ebpfmesh.apply.chains import Chains
from ebpfmesh.apply.frames import Frames
from ebpfmesh.apply.held import Held
from ebpfmesh.apply.lookup import home_in
from ebpfmesh.apply.pools import Pools
from ebpfmesh.apply.shared import Shared
from ebpfmesh.errors import AbiMismatch, MeshError, NotFound, UsageError
from ebpfmesh.kernel import cgroup, interface, links, netns, queue, sockets, xsk
from ebpfmesh.kernel.programs import HOOKS
from ebpfmesh.model import FRAME, Function
from ebpfmesh.runtime import process
from ebpfmesh.runtime.sandbox import Sandbox
from ebpfmesh.state.place import (
    exit_file,
    exit_status,
    log_files,
    log_size,
    maps_file,
    problem,
    stop_of,
)
from ebpfmesh.state.rows import Attachment, CommandRow, FunctionRow

STOPPED = "stopped"
"""Why a function whose command is stopped gets no new flows of services."""


class Functions:
    """The functions of a mesh."""

    def __init__(self, mesh: Held, chains: Chains, pools: Pools) -> None:
        self._mesh = mesh
        self._chains = chains
        self._pools = pools
        self._frames = Frames(mesh)
        self._asked: dict[str, tuple[float, set[int]]] = {}  # when to end, and which processes

    def add(self, function: Function, *, adopt: str = "", force: bool = False) -> None:
        """Make a function, or take one that is there.

        ``adopt`` is the host-side interface of a container that keeps its own configuration;
        ``force`` attaches beside programs of others on it. Undone whole if a step fails.
        """
        self._mesh.control.make_room("function", function.name)
        number = self._mesh.record.id_of("function", function.name)
        ours = netns.name_of(self._mesh.name, function.name)
        path = netns.find(function.netns) if function.netns else netns.RUN / ours
        host = adopt or interface.host_name(self._mesh.name, number)
        attachment = Attachment(str(path), not (function.netns or adopt), host, not adopt)
        if attachment.made_netns and path.exists():
            what = f"function {function.name}: namespace {path.name} is there already"
            raise MeshError(what, hint="remove what is left of other meshes: ebpfmesh gc")
        self._mesh.step(f"function {function.name}")
        self._mesh.record.put_function(function, attachment, ready=False)
        if probes := self._mesh.starting.get(function.name):
            self._mesh.record.set_unready(function.name, ", ".join(map(str, probes)))
        try:
            plugged, attachment = self._plug(function, attachment, force=force)
            self._attach(function, attachment)
            if function.datapath == "af_xdp":
                self._attach_port(function, plugged)
            elif function.datapath == "xdp":
                self._frames.add(function, attachment)
            self._mesh.step(f"function {function.name}: maps")
            self._mesh.control.functions.set(number, function, plugged)
            sockets.add_function(self._mesh.control.maps, number, plugged.netns)
            self._chains.write(FunctionRow(self._mesh.name, number, function, attachment, False))
            if attachment.made_interface:
                self._bring_up(function, plugged)
                if function.rate:
                    self.limit_queue(function, attachment)
            self._mesh.step(f"function {function.name}: cgroup")
            self._mesh.cgroup(function.name).create(function)
        except BaseException:
            self.remove((function.name,))
            raise
        self._mesh.record.put_function(function, attachment, ready=True)

    def _plug(
        self, function: Function, attachment: Attachment, *, force: bool
    ) -> tuple[interface.Plugged, Attachment]:
        path = Path(attachment.netns)
        if not attachment.made_interface:
            plugged = interface.adopt(self._mesh.ip, attachment.interface)
            links.refuse_foreign(
                self._mesh.ip,
                plugged.ifindex,
                attachment.interface,
                self._mesh.fixed.hook,
                force=force,
            )
            inode = netns.inode(plugged.netns)
            where = str(plugged.netns)
            return plugged, replace(
                attachment, ifindex=plugged.ifindex, netns=where, netns_inode=inode
            )
        if attachment.made_netns:
            self._mesh.step(f"function {function.name}: namespace")
            if function.sandboxed:
                Sandbox(self._mesh.name, function).make_netns(path.name)
            else:
                netns.create(path.name)
        inode = netns.inode(path)
        if inode == self._mesh.record.home.inode:
            what = f"function {function.name}: {path} is the host's own namespace"
            raise UsageError(what, hint="a function is a container: name the namespace of one")
        self._mesh.step(f"function {function.name}: interface")
        plugged = interface.create(
            self._mesh.name, function.name, attachment.interface, path, queues=function.queues
        )
        attachment = replace(attachment, ifindex=plugged.ifindex, netns_inode=inode)
        self._mesh.record.put_function(function, attachment, ready=False)
        return plugged, attachment

    def _attach(self, function: Function, attachment: Attachment) -> None:
        """Attach the programs; the interface comes up after: no packet gets past them."""
        for direction, name in HOOKS.items():
            self._mesh.step(f"function {function.name}: {direction}")
            with self._mesh.program(name) as program:
                pin = self._mesh.pins.links / f"{function.name}-{direction}"
                pin.unlink(missing_ok=True)
                links.attach(
                    attachment.ifindex,
                    direction,
                    program,
                    pin,
                    self._mesh.fixed.hook,
                    # With AF_XDP what comes from functions leaves there too.
                    own=attachment.made_interface and function.datapath == "tc",
                )

    def _attach_port(self, function: Function, plugged: interface.Plugged) -> None:
        """Have what is for it go to its command's socket, once it has one."""
        if not plugged.inner:
            what = f"function {function.name}: an interface of others cannot have AF_XDP"
            raise UsageError(what, hint="attach it without --iface, so that it gets one of ours")
        self._mesh.step(f"function {function.name}: XDP")
        place = self._mesh.pins.ports / function.name
        xsk.detach(place)  # what a kill left
        xsk.attach(plugged.ifindex, plugged.netns, plugged.inner, place, function.queues)

    def _bring_up(self, function: Function, plugged: interface.Plugged) -> None:
        """Both ends up, the host's first: the inner one then has a carrier from its first moment.

        Where the carrier comes later, the kernel drops what is sent until it has noticed.
        """
        self._mesh.step(f"function {function.name}: addresses")
        # Not the function's own MAC: that is what mesh_to_fn gives a packet it lets in.
        interface.configure_host(plugged.ifindex, plugged.gateway, function.addresses)
        interface.configure_inside(plugged, function, self._mesh.fixed)

    def change(self, function: Function) -> None:
        """What changes where the function is, its tenant and so on in one map update."""
        self._mesh.step(f"change function {function.name}")
        row = self._mesh.record.function(function.name)
        if row is None:
            raise NotFound(f"there is no function {function.name}")
        self._mesh.cgroup(function.name).tighten(row.function, function)
        self.limit_queue(function, row.attachment)
        self._mesh.control.functions.change(row.id, function)
        if (row.function.program, row.function.source) != (function.program, function.source):
            self._frames.run(function, row.attachment)
        self._chains.leave(row.function)
        self._chains.write(replace(row, function=function))
        self._mesh.record.put_function(function, row.attachment, ready=True)
        if row.function.pools != function.pools:
            self._pools.tidy()

    def limit_queue(self, function: Function, attachment: Attachment) -> None:
        """Have it wait before it sends too much; interfaces of others are left as they are."""
        if attachment.made_interface:
            bits = function.rate.send if function.rate else None
            self._mesh.step(f"function {function.name}: queue")
            queue.limit(self._mesh.ip, attachment.ifindex, Path(attachment.netns), bits)

    def limit(self, function: Function) -> None:
        """All limits are the function's, also those that become higher."""
        self._mesh.step(f"limits of function {function.name}")
        self._mesh.cgroup(function.name).limit(function)

    def remove(self, names: Iterable[str]) -> None:
        """Undo add_function for many: what the kernel is slow at is done for all at once."""
        rows = [row for name in names if (row := self._mesh.record.function(name))]
        for row in rows:
            self._mesh.step(f"remove function {row.function.name}")
            self._mesh.record.put_function(row.function, row.attachment, ready=False)
            self._chains.leave(row.function)
        cgroup.stop([stop_of(self._mesh.record, row.function) for row in rows], process.keepers)
        for row in rows:
            self._mesh.cgroup(row.function.name).remove()
            with contextlib.suppress(NotFound, AbiMismatch):  # maps gone or not ours to write
                self._mesh.control.functions.remove(row.id, row.function)
                sockets.remove_function(self._mesh.control.maps, row.id)
        self._unplug(rows)
        for row in rows:
            name = row.function.name
            if row.attachment.made_netns:
                netns.remove(Path(row.attachment.netns).name)
            own = exit_file(self._mesh.record, name), maps_file(self._mesh.record, name)
            for path in (*log_files(self._mesh.record, name), *own):
                path.unlink(missing_ok=True)
            self._mesh.record.delete_function(name)
        if any(row.function.pools for row in rows):
            self._pools.tidy()

    def _unplug(self, rows: Iterable[FunctionRow]) -> None:
        """Delete interfaces of ours, and programs with them; from others the programs go."""
        owners = {}
        for row in rows:
            self._mesh.step(f"remove function {row.function.name}: interface")
            if row.attachment.made_interface:
                owners[row.attachment.interface] = f"{self._mesh.name}/{row.function.name}"
        interface.remove(self._mesh.ip, owners)
        for row in rows:
            name, attachment = row.function.name, row.attachment
            self._mesh.step(f"remove function {name}: programs")
            # Otherwise the name is another interface's by now.
            there = interface.find(attachment.interface) == attachment.ifindex
            if there and attachment.made_interface:
                what = f"function {name}: interface {attachment.interface} cannot be removed"
                raise MeshError(what, hint="its programs stay while it is there: ip link delete")
            for direction in HOOKS:
                pin = self._mesh.pins.links / f"{name}-{direction}"
                links.detach(self._mesh.ip, attachment.ifindex if there else None, direction, pin)
            xsk.detach(self._mesh.pins.ports / name)
            self._frames.remove(name)

    def start(self, function: Function, *, again: int = 0) -> None:
        """Start its command, if it has one; what is left of the run before ends first.

        ``again``: after so many runs in a row that were no good ones, 0: as somebody asked for it.
        It is not ready until what it is asked has been answered, if somebody waits for that.
        """
        if not function.command:
            return
        record, name = self._mesh.record, function.name
        self._mesh.step(f"start {name}")
        self._mark(name, ", ".join(map(str, self._mesh.starting.get(name, ()))))
        self._end(function)
        before = record.command(name)
        ended = exit_status(record, name) if before.started else None
        restarts = before.restarts + bool(again)
        row = CommandRow(restarts=restarts, failures=again, started=time.time(), last_exit=ended)
        record.put_command(name, row)
        self._mesh.step(f"command of {name}")
        home = home_in(record, name)
        with contextlib.ExitStack() as stack:
            handed = self._handed(stack, function, home.netns)
            process.start(
                home,
                function.command,
                logs=log_files(record, name),
                size=log_size(record, function.tenant),
                exit_file=exit_file(record, name),
                sandbox=Sandbox(self._mesh.name, function) if function.sandboxed else None,
                handed=handed,
            )

    def _handed(
        self, stack: contextlib.ExitStack, function: Function, namespace: Path
    ) -> list[process.Handed]:
        """What its command inherits, open until ``stack`` ends."""
        found: list[process.Handed] = []
        room, frames = None, function.frames
        if function.pools:
            found.append(pools := self._pools.handed(stack, function))
            if function.frames_in:
                room = pools.room(function.frames_in)
                frames = room.size // FRAME  # of others too, whose frames it can send
        if function.datapath == "af_xdp":
            place = self._mesh.pins.ports / function.name
            port = xsk.handed(namespace, place, frames, function.queues, room)
            found.append(stack.enter_context(port))
        found += Shared(self._mesh).handed(stack, function)
        return found

    def ask_to_stop(self, function: Function) -> None:
        """Its command is to be stopped, and asked to end. Twice is fine."""
        record, name = self._mesh.record, function.name
        self._mesh.step(f"stop {name}")
        record.put_command(name, replace(record.command(name), stopped=True))
        self._mark(name, STOPPED)
        self._asked[name] = time.monotonic(), set()
        cgroup.ask(stop_of(record, function), process.keepers, self._asked[name][1])

    def end_command(self, function: Function) -> None:
        """Its command has ended, if it is to be stopped."""
        if self._mesh.record.command(function.name).stopped:
            self._mesh.step(f"end {function.name}")
            self._end(function)

    def _mark(self, name: str, why: str) -> None:
        """Why it gets no new flows from now on; empty: it does."""
        if self._mesh.record.mark(name) != why:
            self._mesh.control.services.set_unready({name: why})

    def _end(self, function: Function) -> None:
        """End its processes, and wait for that."""
        since, asked = self._asked.pop(function.name, (time.monotonic(), set[int]()))
        stop = stop_of(self._mesh.record, function)
        left = max(0.0, stop.seconds - (time.monotonic() - since))
        cgroup.stop([replace(stop, seconds=left)], process.keepers, asked)

    def runs(self, name: str) -> bool:
        """Whether the command of a function runs."""
        if exit_status(self._mesh.record, name) is not None:
            return False
        return bool(process.keepers(self._mesh.cgroup(name).processes()))

    def broken(self) -> list[str]:
        """Names of functions that were cut short, or whose interface went."""
        rows = self._mesh.record.functions()
        return [row.function.name for row in rows if problem(self._mesh.ip, row)]

    def is_new(self, row: FunctionRow) -> bool:
        """Whether a function's command is to run, and was never started."""
        name = row.function.name
        if self._mesh.record.command(name).stopped:
            return False
        files = (*log_files(self._mesh.record, name), exit_file(self._mesh.record, name))
        return not any(file.exists() for file in files) and not self._mesh.cgroup(name).processes()

    def plugged(self, row: FunctionRow) -> interface.Plugged:
        """The interface of a function, as it was when the function was made."""
        name, found = row.function.name, row.attachment
        if found.made_interface:
            return interface.made(self._mesh.name, name, found.ifindex, Path(found.netns))
        return interface.adopt(self._mesh.ip, found.interface)

    def shut(self, names: Iterable[str]) -> None:
        """Set interfaces of others down whose programs are about to go unasked."""
        for name in names:
            row = self._mesh.record.function(name)
            found = row and row.attachment
            if found and not found.made_interface and interface.exists(found.ifindex):
                down = interface.set_down(found.ifindex)
                self._mesh.step(f"function {name}: {down} is set down")
