# SPDX-License-Identifier: BSD-2-Clause
"""A mesh that is up, held by its lock: operations in, kernel state out.

Every operation can be done again after it was cut short, and has an inverse; a batch that fails
is undone by the inverses of what it did. What makes a step visible to ``on_step`` is that
something is about to change.
"""

import contextlib
import functools
import resource
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import assert_never

from pyroute2 import IPRoute

from ebpfmesh.apply import listen, programs
from ebpfmesh.apply.control import Control
from ebpfmesh.apply.lookup import home_in
from ebpfmesh.errors import AbiMismatch, MeshError, NotFound, UsageError
from ebpfmesh.kernel import bpf, cgroup, interface, links, netns, rcu, sockets
from ebpfmesh.kernel.cgroup import Cgroup, directory_above
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.programs import HOOKS
from ebpfmesh.model import Function, Mesh, Policy, Service, Timeouts
from ebpfmesh.plan import Operation
from ebpfmesh.runtime import process
from ebpfmesh.state import audit
from ebpfmesh.state.place import (
    cgroup_of,
    check_place,
    exit_file,
    fault,
    group_of,
    hosts_file,
    log_file,
)
from ebpfmesh.state.record import FunctionRow, Place
from ebpfmesh.state.writer import Writer, locked

FILES = 128  # more than a change ever has open: all maps, a compiler's pipes, some sockets
OnStep = Callable[[str], None]


def quiet(_step: str) -> None:
    """An ``on_step`` that says nothing."""


class Live:
    """The mesh ``name`` of this host namespace; use ``opened``."""

    def __init__(self, record: Writer, on_step: OnStep) -> None:
        self.name = record.mesh
        self.record = record
        self.pins = Pins(self.name)
        self._sockets = contextlib.ExitStack()
        self._doubted = False  # the file of hosts, until it was written anew
        self.step = on_step
        self.control = Control(Maps(self.pins), record)

    @functools.cached_property
    def ip(self) -> IPRoute:
        """A netlink socket of the host namespace; changes of the policy need none."""
        return self._sockets.enter_context(netns.rtnetlink())

    def close(self) -> None:
        """Close what was opened."""
        self._sockets.close()

    def apply(
        self, operations: Iterable[Operation], *, adopt: str = "", force: bool = False
    ) -> None:
        """Do all operations, or none. ``adopt`` and ``force``: see add_function."""
        operations = tuple(operations)
        self.control.maps.check()  # a map that fails later would fail the undo too
        self._load_sockets(operations)
        with rcu.expedited(self._fixed.expedited):
            try:
                for operation in operations:
                    self.record.begin_step(operation.dump(), self._adopted(operation))
                    self._do(operation, adopt, force)
                self._finish(operations)
            except BaseException as error:
                self.step("undo")
                self._undo_all(error)
                raise

    def _adopted(self, operation: Operation) -> str:
        """The interface of others that an operation gives back, and its undo takes again."""
        if operation.kind == "remove-function" and isinstance(operation.object, Function):
            row = self.record.function(operation.object.name)
            if row and not row.place.made_interface:
                return row.place.interface
        return ""

    def _undo_all(self, error: BaseException) -> None:
        try:
            self._finish(self._undo_steps())
        except MeshError as second:
            raise MeshError(
                f"{str(error) or 'interrupted'}; and it could not be undone: {second.message}",
                hint=f"mend this, then ebpfmesh gc: {second.hint}",
            ) from error

    def _undo_steps(self) -> list[Operation]:
        """Undo what a change has begun to do, from the last to the first; what was done."""
        done = []
        for number, text, iface in self.record.steps():
            done += self._undo(Operation.load(text), iface)
            self.record.end_step(number)
        return done

    def _undo(self, operation: Operation, iface: str) -> list[Operation]:
        """Do the inverse of an operation that may have been cut short; what was done."""
        back = operation.inverse()
        if back is None:
            return []
        if back.kind == "add-function" and isinstance(back.object, Function):
            name = back.object.name
            row = self.record.function(name)
            if row and row.ready:
                return []  # its removal had not begun
            self.remove_function(name)
            self._do(back, iface, force=True)
        else:
            self._do(back)
        return [back]

    def settle(self) -> None:
        """Repair what a crash left, if the last change was cut short; else costs nothing."""
        listen.stop_dead(self.record, self.control.maps)
        if self.record.cut_short:
            self.recover()

    def recover(self, wrong: Sequence[str] = ()) -> list[str]:
        """Undo a change that was cut short; names of the functions that could not be kept."""
        listen.stop_dead(self.record, self.control.maps)
        broken = self.broken()
        if broken or wrong or self.record.cut_short:
            self.step("recover")
            self.record.doubt()
            self._doubted = True
            lost = self._try_undo()
            broken = self.broken()
            self._close(broken)
            self.remove_functions(broken)
            broken += [name for name in lost if name not in broken]
            self.record.drop_dangling()
            rows = self.record.functions()
            self.control.resync({row.id: (row.function, self._plugged(row)) for row in rows})
            for row in rows:
                sockets.add_function(self.control.maps, row.id, Path(row.place.netns))
            self._finish(
                [Operation("add-function", row.function) for row in rows if self._new(row)]
            )
        return broken

    def faults(self) -> list[str]:
        """What is not as the record says, where nothing is known to be broken or unfinished."""
        if self.record.cut_short or self.broken():
            return []
        found = [f"map {name}" for name in audit.differences(self.control.maps, self.record)]
        if not process.has_hosts(self.hosts_file, self.record.hosts()):
            found.append(f"file {self.hosts_file}")
        if not sockets.attached(self.pins, directory_above(group_of(self.record))):
            found.append("programs at sockets")
        return found

    def _plugged(self, row: FunctionRow) -> interface.Plugged:
        """The interface of a function, as it was when the function was made."""
        if row.place.made_interface:
            return interface.made(
                self.name, row.function.name, row.place.ifindex, Path(row.place.netns)
            )
        return interface.adopt(self.ip, row.place.interface)

    def _try_undo(self) -> list[str]:
        """Undo what can be; names of the functions that cannot be brought back."""
        lost = []
        self.record.doubt_all()
        for number, text, iface in self.record.steps():
            operation = Operation.load(text)
            try:
                self._undo(operation, iface)
            except MeshError:
                lost.append(str(operation.name))
            self.record.end_step(number)
        return lost

    def _close(self, names: Iterable[str]) -> None:
        """Set interfaces of others down whose programs are about to go unasked."""
        for name in names:
            row = self.record.function(name)
            if row and not row.place.made_interface and interface.exists(row.place.ifindex):
                self.step(f"function {name}: {interface.set_down(row.place.ifindex)} is set down")

    def _finish(self, done: Iterable[Operation]) -> None:
        """Raise the epoch, once for all changes; start commands when everything is in place."""
        self._attach_sockets()
        self.step("commit")
        self.control.commit()
        self.write_hosts()
        for operation in done:
            if operation.kind == "add-function" and isinstance(operation.object, Function):
                self._start(operation.object)
        self.record.end_change()

    def _load_sockets(self, operations: Iterable[Operation]) -> None:
        """The first service brings the programs at sockets, before anything of it is there."""
        serves = any(operation.kind == "set-service" for operation in operations)
        if serves and programs.lack_sockets(self.pins):
            self.step("programs at sockets")
            programs.load_sockets(self.pins)

    def _attach_sockets(self) -> None:
        """The cgroup above those of functions comes with the first and goes with the last."""
        above = directory_above(group_of(self.record))
        if not sockets.attached(self.pins, above):
            self.step("sockets")
            sockets.attach(self.pins, above)

    def _new(self, row: FunctionRow) -> bool:
        """Whether a function's command was never started."""
        name = row.function.name
        files = (self.log_file(name), self.exit_file(name))
        return not any(file.exists() for file in files) and not self._cgroup(name).processes()

    def _do(self, operation: Operation, adopt: str = "", force: bool = False) -> None:
        match operation.kind:
            case "add-function":
                self.add_function(operation.of(Function), adopt=adopt, force=force)
            case "change-function":
                self._change_function(operation.of(Function))
            case "remove-function":
                self.remove_function(operation.name)
            case "set-service":
                self.step(f"service {operation.name}")
                self.control.set_service(operation.of(Service))
            case "remove-service":
                self.step(f"remove service {operation.name}")
                self.control.remove_service(operation.of(Service))
            case "set-timeouts":
                self.step("timeouts")
                self.control.set_timeouts(operation.of(Timeouts))
            case "set-reject":
                self.step("reject")
                self.control.set_reject(operation.of(Mesh).reject)
            case "add-policy":
                self.step(f"policy {operation.object}")
                self.control.set_policy(operation.of(Policy))
            case "remove-policy":
                self.step(f"remove policy {operation.object}")
                self.control.remove_policy(operation.of(Policy))
            case "create-mesh" | "repair":  # done before there are operations
                pass
            case unknown:
                assert_never(unknown)

    def add_function(self, function: Function, *, adopt: str = "", force: bool = False) -> None:
        """Make a function, or take one that is there.

        ``adopt`` is the host-side interface of a container that keeps its own configuration;
        ``force`` attaches beside programs of others on it. Undone whole if a step fails.
        """
        self.control.make_room("function", function.name)
        number = self.record.id_of("function", function.name)
        ours = netns.name_of(self.name, function.name)
        path = netns.find(function.netns) if function.netns else netns.RUN / ours
        host = adopt or interface.host_name(self.name, number)
        place = Place(str(path), not (function.netns or adopt), host, not adopt)
        if place.made_netns and path.exists():
            what = f"function {function.name}: namespace {path.name} is there already"
            raise MeshError(what, hint="remove what is left of other meshes: ebpfmesh gc")
        self.step(f"function {function.name}")
        self.record.put_function(function, place, ready=False)
        try:
            plugged, place = self._plug(function, place, force=force)
            self._attach(function, place)
            self.step(f"function {function.name}: maps")
            self.control.set_function(number, function, plugged)
            sockets.add_function(self.control.maps, number, plugged.netns)
            if place.made_interface:
                self._bring_up(function, plugged)
            self.step(f"function {function.name}: cgroup")
            self._cgroup(function.name).create(function)
        except BaseException:
            self.remove_function(function.name)
            raise
        self.record.put_function(function, place, ready=True)

    def _plug(
        self, function: Function, place: Place, *, force: bool
    ) -> tuple[interface.Plugged, Place]:
        path = Path(place.netns)
        if not place.made_interface:
            plugged = interface.adopt(self.ip, place.interface)
            links.refuse_foreign(
                self.ip, plugged.ifindex, place.interface, self._fixed.hook, force=force
            )
            inode = netns.NetnsId.of(plugged.netns).inode
            where = str(plugged.netns)
            return plugged, replace(place, ifindex=plugged.ifindex, netns=where, netns_inode=inode)
        if place.made_netns:
            self.step(f"function {function.name}: namespace")
            netns.create(path.name)
        inode = netns.NetnsId.of(path).inode
        if inode == self.record.home:
            what = f"function {function.name}: {path} is the host's own namespace"
            raise UsageError(what, hint="a function is a container: name the namespace of one")
        self.step(f"function {function.name}: interface")
        plugged = interface.create(self.name, function.name, place.interface, path)
        place = replace(place, ifindex=plugged.ifindex, netns_inode=inode)
        self.record.put_function(function, place, ready=False)
        return plugged, place

    def _attach(self, function: Function, place: Place) -> None:
        """Attach the programs; the interface comes up after: no packet gets past them."""
        for direction, name in HOOKS.items():
            self.step(f"function {function.name}: {direction}")
            with self.program(name) as program:
                pin = self.pins.links / f"{function.name}-{direction}"
                pin.unlink(missing_ok=True)
                links.attach(
                    place.ifindex,
                    direction,
                    program,
                    pin,
                    self._fixed.hook,
                    own=place.made_interface,
                )

    def _bring_up(self, function: Function, plugged: interface.Plugged) -> None:
        """Both ends up, the host's first: the inner one then has a carrier from its first moment.

        Where the carrier comes later, the kernel drops what is sent until it has noticed.
        """
        self.step(f"function {function.name}: addresses")
        # Not the function's own MAC: that is what mesh_to_fn gives a packet it lets in.
        interface.configure_host(plugged.ifindex, plugged.gateway, function.addresses)
        interface.configure_inside(plugged, function, self._fixed)

    def _change_function(self, function: Function) -> None:
        """Tenant and audit change where the function is, in one map update."""
        self.step(f"change function {function.name}")
        row = self.record.function(function.name)
        if row is None:
            raise NotFound(f"there is no function {function.name}")
        self.control.change_function(row.id, function)
        self.record.put_function(function, row.place, ready=True)

    def remove_function(self, name: str) -> None:
        """Undo add_function, as far as it went. Twice is fine."""
        self.remove_functions((name,))

    def remove_functions(self, names: Iterable[str]) -> None:
        """Undo add_function for many: what the kernel is slow at is done for all at once."""
        rows = [row for name in names if (row := self.record.function(name))]
        for row in rows:
            self.step(f"remove function {row.function.name}")
            self.record.put_function(row.function, row.place, ready=False)
        cgroup.stop([self._cgroup(row.function.name) for row in rows])
        for row in rows:
            self._cgroup(row.function.name).remove()
            with contextlib.suppress(NotFound, AbiMismatch):  # maps gone or not ours to write
                self.control.remove_function(row.id, row.function)
                sockets.remove_function(self.control.maps, row.id)
        self._unplug(rows)
        for row in rows:
            name = row.function.name
            if row.place.made_netns:
                netns.remove(Path(row.place.netns).name)
            for path in (self.log_file(name), self.exit_file(name)):
                path.unlink(missing_ok=True)
            self.record.delete_function(name)

    def _unplug(self, rows: Iterable[FunctionRow]) -> None:
        """Delete interfaces of ours, and programs with them; from others the programs go."""
        owners = {}
        for row in rows:
            self.step(f"remove function {row.function.name}: interface")
            if row.place.made_interface:
                owners[row.place.interface] = f"{self.name}/{row.function.name}"
        interface.remove(self.ip, owners)
        for row in rows:
            name, place = row.function.name, row.place
            self.step(f"remove function {name}: programs")
            there = interface.find(place.interface) == place.ifindex  # else it is another one
            if there and place.made_interface:
                what = f"function {name}: interface {place.interface} cannot be removed"
                raise MeshError(what, hint="its programs stay while it is there: ip link delete")
            for direction in HOOKS:
                pin = self.pins.links / f"{name}-{direction}"
                links.detach(self.ip, place.ifindex if there else None, direction, pin)

    def broken(self) -> list[str]:
        """Names of functions that were cut short, or whose interface went."""
        return [row.function.name for row in self.record.functions() if fault(self.ip, row)]

    def write_hosts(self) -> None:
        """Names of all functions and services, for /etc/hosts inside functions.

        Lines that come or go are changed in the file, unless something may be wrong with it.
        """
        gone, new = self.record.host_changes()
        if self._doubted or not self.hosts_file.exists():
            process.write_hosts(self.hosts_file, self.record.hosts())
            self._doubted = False
        elif gone or new:
            process.change_hosts(self.hosts_file, gone, new)

    def _start(self, function: Function) -> None:
        if function.command:
            self.step(f"start {function.name}")
            log, exit_file = self.log_file(function.name), self.exit_file(function.name)
            process.start(self.home(function.name), function.command, log=log, exit_file=exit_file)

    def home(self, name: str) -> process.Home:
        """Where a function's processes run; NotFound if there is no such function or namespace."""
        return home_in(self.record, name)

    @property
    def hosts_file(self) -> Path:
        """What functions see as /etc/hosts."""
        return hosts_file(self.record)

    def log_file(self, name: str) -> Path:
        """First mebibyte of what a function's command said."""
        return log_file(self.record, name)

    def exit_file(self, name: str) -> Path:
        """Exit status of a function's command; empty until it ended."""
        return exit_file(self.record, name)

    def program(self, name: str) -> bpf.Fd:
        """A pinned program of the mesh."""
        return bpf.obj_get(self.pins.progs / name)

    @functools.cached_property
    def _fixed(self) -> Mesh:
        """What cannot change while the mesh is up, hook and prefixes among it."""
        return self.record.base()

    def _cgroup(self, name: str) -> Cgroup:
        return cgroup_of(self.record, name)


@contextlib.contextmanager
def changing(mesh: str) -> Iterator[None]:
    """Hold a mesh's lock, with what a change needs at hand; a dead change's grace periods end."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < FILES:
        raise MeshError(f"only {soft} open files are allowed", hint=f"ulimit -n {FILES}")
    with locked(mesh):
        rcu.put_back()
        yield


@contextlib.contextmanager
def opened(mesh: str, on_step: OnStep = quiet) -> Iterator[Live]:
    """The mesh, locked, in the host namespace it was made in; NotFound if it is not up."""
    with changing(mesh):
        record = Writer(mesh)
        try:
            check_place(record)
            Pins(mesh).check()
            with contextlib.closing(Live(record, on_step)) as live:
                yield live
        finally:
            record.close()
