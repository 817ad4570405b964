# SPDX-License-Identifier: BSD-2-Clause
"""A change: its operations are done all, or none.

Every operation can be done again after it was cut short, and undone; each is written down before it
is begun, so that a change that fails undoes itself, and one that is killed is undone by the next.
What makes a step visible to ``on_step`` is that something is about to change.
"""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ebpfmesh import operation
from ebpfmesh.apply import listen, logs, programs, strays
from ebpfmesh.apply.live import Live
from ebpfmesh.apply.ready import Unready
from ebpfmesh.errors import MeshError
from ebpfmesh.kernel import host, rcu, sockets
from ebpfmesh.kernel.cgroup import directory_above
from ebpfmesh.kernel.programs import CALLS
from ebpfmesh.operation import AddFunction, Operation, RollFunction, SetService, StopFunction
from ebpfmesh.state import audit
from ebpfmesh.state.place import at_host, group_of


def apply(
    mesh: Live, operations: Iterable[Operation], wait: Callable[[], None] | None = None
) -> None:
    """Do all operations, or none. ``wait`` is called when all is done but can still be undone."""
    operations = tuple(operations)
    mesh.control.maps.check()  # a map that fails later would fail the undo too
    mesh.record.reserve()
    _load_sockets(mesh, operations)
    with rcu.expedited(mesh.fixed.expedited):
        done: list[Operation] = []
        try:
            for one in operations:
                _begin(mesh, one, done)
            _finish(mesh, done, wait)
        except BaseException as error:
            mesh.step("undo")
            mesh.starting = {}
            _undo_all(mesh, error)
            raise


def _begin(mesh: Live, one: Operation, done: list[Operation]) -> None:
    """Write it down and do it; it is done when it can be finished."""
    ready = one.prepared(mesh)
    mesh.record.begin_step(ready.dump())
    ready.do(mesh)
    done.append(ready)


def roll(mesh: Live, rolls: Iterable[RollFunction]) -> tuple[list[Operation], list[Unready]]:
    """Within ``wait`` of ``apply``: one after the other, those first that are not ready.

    What was done, and why it ended if it did: with the first that does not get ready.
    """
    done: list[Operation] = []
    unready = mesh.record.unready()
    for one in sorted(rolls, key=lambda one: one.name not in unready):
        if not mesh.is_stopped(one.name) and (why := mesh.rolls.refusal(one.object)):
            what = f'function "{one.name}" is left as it is: {why}'
            return done, [Unready(what, about=(one.name, "name"))]
        try:
            _begin(mesh, one, done)
        except Unready as error:
            return [*done, one], [error]
    return done, []


def settle(mesh: Live) -> None:
    """Repair what a crash left, if the last change was cut short; else costs nothing."""
    listen.stop_dead(mesh.record, mesh.control.maps)
    if mesh.record.cut_short:
        recover(mesh)


def recover(mesh: Live, wrong: Sequence[str] = ()) -> list[str]:
    """Undo a change that was cut short; functions, uplinks and remotes that could not be kept."""
    listen.stop_dead(mesh.record, mesh.control.maps)
    broken, cut_off = mesh.functions.broken(), mesh.uplinks.broken()
    beyond = mesh.remotes.broken(cut_off)
    if broken or cut_off or beyond or wrong or mesh.record.cut_short:
        mesh.step("recover")
        mesh.record.release()
        mesh.record.doubt()
        mesh.names.doubt()
        mesh.chains.doubt()
        programs.load_missing(mesh.pins, services=False)
        programs.set_calls(mesh.pins, "mesh_tc_calls", CALLS)
        lost = _undo_what_can_be(mesh)
        broken = mesh.functions.broken()
        mesh.functions.shut(broken)
        mesh.functions.remove(broken)
        cut_off = mesh.uplinks.broken()
        beyond = mesh.remotes.broken(cut_off)
        for name in beyond:
            mesh.remotes.remove(name)
        for name in cut_off:
            mesh.uplinks.remove(name)
        strays.sweep(mesh)
        broken += [name for name in lost if name not in broken]
        mesh.record.drop_dangling()
        _write_anew(mesh)
    found = {"function": broken, "uplink": cut_off, "remote": beyond}
    return [f"{kind} {name}" for kind, names in found.items() for name in names]


def problems(mesh: Live) -> list[str]:
    """What is not as the record says, where nothing is known to be broken or unfinished."""
    parts = (mesh.functions, mesh.uplinks, mesh.remotes)
    if mesh.record.cut_short or any(one.broken() for one in parts):
        return []
    return audit.problems(mesh.pins, mesh.control.maps, mesh.record) + mesh.names.problems()


def _undo_all(mesh: Live, error: BaseException) -> None:
    try:
        mesh.record.release()
        mesh.names.doubt()  # what was asked for may not be written, or was rolled back
        _finish(mesh, _undo_steps(mesh))
        with contextlib.suppress(MeshError):  # the next change cannot be begun without
            mesh.record.reserve()
    except MeshError as second:
        raise MeshError(
            f"{str(error) or 'interrupted'}; and it could not be undone: {second.message}",
            hint=f"mend this, then ebpfmesh gc: {second.hint}",
        ) from error


def _undo_steps(mesh: Live) -> list[Operation]:
    """Undo what a change has begun to do, from the last to the first; what was done."""
    done = []
    for number, text in mesh.record.steps():
        back = operation.load(text).undo(mesh)
        done += [back] if back else []
        mesh.record.end_step(number)
    return done


def _undo_what_can_be(mesh: Live) -> list[str]:
    """As ``_undo_steps``; names of the functions that cannot be brought back."""
    lost = []
    mesh.record.doubt_all()
    for number, text in mesh.record.steps():
        begun = operation.load(text)
        try:
            begun.undo(mesh)
        except MeshError:
            lost.append(begun.name)
        mesh.record.end_step(number)
    return lost


def _write_anew(mesh: Live) -> None:
    """Have the maps say what the record does; start what was never started, end what is stopped."""
    mesh.uplinks.follow()
    rows = mesh.record.functions()
    plugged = {row.id: (row.function, mesh.functions.plugged(row)) for row in rows}
    mesh.control.resync(plugged)
    for row in rows:
        sockets.add_function(mesh.control.maps, row.id, Path(row.attachment.netns))
        mesh.functions.limit_queue(row.function, row.attachment)
        with contextlib.suppress(MeshError):  # more is in use: audit goes on telling of it
            mesh.functions.limit(row.function)
    mesh.deny.repair()
    new = (AddFunction(row.function) for row in rows if mesh.functions.is_new(row))
    ended = (StopFunction(row.function) for row in rows if mesh.is_stopped(row.function.name))
    _finish(mesh, [*new, *ended])


def _finish(mesh: Live, done: Iterable[Operation], wait: Callable[[], None] | None = None) -> None:
    """Raise the epoch, once for all changes; start commands when everything is in place."""
    _attach_sockets(mesh)
    _attach_host(mesh)
    _have_out(mesh)
    mesh.chains.draw()
    if mesh.deny.stale:  # and with it what is at XDP
        mesh.deny.draw()
    if mesh.early.stale:
        mesh.early.draw()
    mesh.uplinks.know_host()
    mesh.step("commit")
    mesh.control.commit()
    mesh.chains.sweep()
    mesh.names.write()
    logs.share_out(mesh.record)
    for one in done:
        one.finish(mesh)
    if wait:
        wait()
    mesh.record.end_change()


def _load_sockets(mesh: Live, operations: Iterable[Operation]) -> None:
    """The first service brings the programs at sockets, before anything of it is there."""
    serves = any(isinstance(one, SetService) for one in operations)
    if serves and programs.lack_sockets(mesh.pins):
        mesh.step("programs at sockets")
        programs.load_sockets(mesh.pins)


def _attach_sockets(mesh: Live) -> None:
    """The cgroup above those of functions comes with the first and goes with the last."""
    above = directory_above(group_of(mesh.record))
    if not sockets.attached(mesh.pins, above):
        mesh.step("sockets")
        sockets.attach(mesh.pins, above)


def _attach_host(mesh: Live) -> None:
    """Processes of the host reach services, or no longer, as the mesh says."""
    maps, wanted = mesh.control.maps, at_host(mesh.record)
    if host.attached(mesh.pins, maps, wanted):
        return
    if wanted and not host.loaded(mesh.pins):
        mesh.step("programs at sockets of the host")
        programs.load_host(mesh.pins)
    mesh.step("sockets of the host")
    host.attach(mesh.pins, maps, wanted)


def _have_out(mesh: Live) -> None:
    """The first uplink that masquerades brings the program for it, before flows are sent there."""
    wanted = any(row.uplink.masquerade for row in mesh.record.uplinks())
    if wanted and programs.lack_out(mesh.pins):
        mesh.step("program for masquerade")
        programs.load_out(mesh.pins)
