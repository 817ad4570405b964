# SPDX-License-Identifier: BSD-2-Clause
"""Whether a mesh is healthy: its functions, maps, and what others put on its interfaces."""

import ctypes
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ebpfmesh import _abi
from ebpfmesh.compile import compiled
from ebpfmesh.errors import MeshError, NotFound
from ebpfmesh.kernel import links, offload
from ebpfmesh.kernel.programs import FROM_FN, HOOKS
from ebpfmesh.model import Limits
from ebpfmesh.observe import (
    cost,
    counters,
    masquerade,
    netfilter,
    objects,
    pools,
    ports,
    remotes,
    rooms,
    uplinks,
)
from ebpfmesh.observe.commands import Life, lives
from ebpfmesh.observe.machine import Check, Status
from ebpfmesh.observe.mesh import read_services
from ebpfmesh.observe.view import View, opened
from ebpfmesh.runtime import capability
from ebpfmesh.runtime.process import has_hosts
from ebpfmesh.state import audit, early, listener, remains, serving
from ebpfmesh.state.place import hosts_file, problem

RULES_SHOWN = 20
HELD_SHOWN = 4


def check(mesh: str) -> Iterator[Check]:
    """All checks of a mesh; one that cannot be looked at from here is only noted."""
    try:
        remains.check_home(mesh)
        if why := remains.damage(mesh):
            hint = "ebpfmesh up FILE makes it anew, ebpfmesh gc removes what is left"
            yield Check(f"mesh {mesh}", "missing", f"not up: {why}", hint)
            return
        with opened(mesh) as view:
            yield from _check(view, f"mesh {mesh}")
    except MeshError as error:
        status: Status = "note" if isinstance(error, NotFound) else "missing"
        yield Check(f"mesh {mesh}", status, error.message, error.hint)


def _check(view: View, topic: str) -> Iterator[Check]:
    if view.record.cut_short:
        hint = "the next change undoes it first, and so does ebpfmesh gc"
        yield Check(topic, "missing", "a change was cut short", hint)
    else:
        yield from _changed(view, topic)
    broken = [(row, what) for row in view.functions if (what := problem(view.ip, row))]
    for row, state in broken:
        text = f"function {row.function.name}: {state}"
        if row.attachment.netns.startswith("/proc/") and not Path(row.attachment.netns).exists():
            text += ", since the process it was attached by has ended"
        yield Check(topic, "missing", text, "ebpfmesh gc removes it")
    down = [row for row in view.functions if row.ready and row.attachment.ifindex in view.down]
    for row in down:
        text = f"function {row.function.name}: {row.attachment.interface} or its other end is down"
        hint = "set it up; what is sent to it meanwhile is lost, and metered as received"
        yield Check(topic, "note", text, hint)
    ended = _ended(view)
    for name, life in ended.items():
        status: Status = "missing" if life.status else "note"
        hint = f"ebpfmesh logs {name} tells more; ebpfmesh start {name} starts it, and so does up"
        yield Check(topic, status, f"function {name}: its command {life.ended}", hint)
    for name, why in view.unready.items():
        if name not in ended:
            hint = "services send it no new flows until it is ready"
            yield Check(topic, "note", f"function {name} is not ready: {why}", hint)
    if not broken and not down and not ended:
        yield Check(topic, "ok", f"{len(view.functions)} functions work")
    yield from _services(view, topic)
    yield from _uplinks(view, topic)
    yield from _pools(view, topic)
    yield from _remotes(view, topic)
    yield from _build(view, topic)
    yield from _foreign(view, topic)
    yield from _administrators(view, topic)
    yield from _privileged(view, topic)
    yield from _unserved(view, topic)
    yield from _nameless(view, topic)
    yield from _fill(view, topic)
    yield from _rooms(view, topic)
    yield from _breakers(view, topic)
    yield from _counted(view, topic)
    yield from _held(view, topic)
    yield from _listener(view, topic)
    yield from _netfilter(view, topic)
    yield from _frames(view, topic)
    yield from _ports(view, topic)


def _ended(view: View) -> dict[str, Life]:
    """Commands that ended, and that nobody stopped."""
    functions = {r.function.name: r.function for r in view.functions if r.ready}
    found = lives(view.record, functions)
    return {name: one for name, one in found.items() if one.state in ("exited", "lost")}


def _services(view: View, topic: str) -> Iterator[Check]:
    """Services that have nobody to answer."""
    for service in read_services(view):
        if service.backends and not service.ready:
            what = f"service {service.name}: none of its {len(service.backends)} functions is ready"
            yield Check(
                topic, "missing", what, "ebpfmesh show functions tells why, and logs what they said"
            )


def _pools(view: View, topic: str) -> Iterator[Check]:
    """Pools whose places are all taken, of which members have some that do not run."""
    for pool in pools.read(view):
        for one in pool.members:
            if one.state != "running" and one.holds + one.waiting:
                what = f"{one.holds + one.waiting} of {pool.slots} places are {one.name}'s"
                what += ", which does not run"
                hint = f"what waits for it waits until it is started: ebpfmesh start {one.name}"
                yield Check(topic, "note", f"pool {pool.name}: {what}", hint)
            if one.malformed:
                what = f"{one.name} was sent {one.malformed} messages that were none"
                hint = "a member writes what ebpfmesh.port and its header do not"
                yield Check(topic, "note", f"pool {pool.name}: {what}", hint)


def _changed(view: View, topic: str) -> Iterator[Check]:
    """What somebody else has changed or removed, as ``up`` and ``gc`` find it.

    No lock is taken: what a change that goes on now has not written yet is right a moment later.
    """
    wrong = _differences(view)
    again = _differences(view) if wrong else []
    for what in [] if view.record.cut_short else again:
        if what in wrong:
            hint = "ebpfmesh gc puts it right, and so does ebpfmesh up"
            yield Check(topic, "missing", f"{what} is not as it was made", hint)


def _differences(view: View) -> list[str]:
    found = audit.problems(view.pins, view.maps, view.record)
    file = hosts_file(view.record)
    return found if has_hosts(file, view.record.hosts()) else [*found, f"file {file}"]


def _uplinks(view: View, topic: str) -> Iterator[Check]:
    """Interfaces to the outside, and ports there that are the host's too."""
    services = view.record.services()
    for row, seen in zip(view.record.uplinks(), uplinks.read_uplinks(view), strict=True):
        if seen.state == "down":
            what = f"uplink {row.name}: interface {seen.interface} is down"
            yield Check(topic, "note", what, "ip link set it up; is the cable in?")
        elif seen.state != "up":
            hint = "ebpfmesh gc removes it; ebpfmesh up FILE makes it anew"
            yield Check(topic, "missing", f"uplink {row.name}: {seen.state}", hint)
        if seen.state in ("up", "down"):
            yield _xdp(seen, topic)
        for service in services:
            for text in uplinks.taken(service, row.uplink, row.addresses):
                hint = "it gets nothing from there: publish another port, or stop it"
                yield Check(topic, "note", text, hint)
        for one in masquerade.findings(row.uplink, row.addresses):
            yield Check(topic, "missing" if one.bad else "note", one.text, one.hint)
        if seen.masquerade and seen.masquerade.exhausted:
            what = f"uplink {row.name}: {seen.masquerade.exhausted} flows to the outside found no "
            what += f"port of {row.uplink.masquerade_ports}"
            yield Check(topic, "note", what, "give it more masquerade_ports")


def _remotes(view: View, topic: str) -> Iterator[Check]:
    """Machines beyond uplinks that are not there for the mesh, or are reached otherwise."""
    for row in remotes.read_remotes(view):
        if row.state != "up":
            hint = "ebpfmesh gc removes it; ebpfmesh up FILE makes it anew"
            what = f"remote {row.name}: uplink {row.uplink}: {row.state}"
            yield Check(topic, "missing", what, hint)
    for name, why in remotes.astray(view):
        hint = "the mesh sends by the uplink, and takes answers from there: ip route get"
        yield Check(topic, "note", f"remote {name}: {why}", hint)


def _xdp(seen: uplinks.Uplink, topic: str) -> Check:
    """What is at XDP of an uplink, and why."""
    if seen.xdp and not early.ours(seen.xdp):
        what = f"uplink {seen.name}: XDP program {seen.xdp} of others runs before the mesh"
        return Check(topic, "note", what, "a veth loses its segmentation offload to it")
    what = f"uplink {seen.name}: {'XDP' if seen.xdp else 'no XDP'}: {seen.why}"
    if "offload" in seen.why:
        hint = 'TCP from there is at about a third; xdp = "off" at [[uplink]] ends it'
        return Check(topic, "note", what, hint)
    if seen.denied and not seen.xdp:
        return Check(topic, "note", what, 'leave out xdp = "off", or ebpfmesh deny show')
    return Check(topic, "ok", what)


def _build(view: View, topic: str) -> Iterator[Check]:
    """Programs of another version, which the next ``up`` replaces."""
    runs, ours = view.record.build, compiled.fingerprint(count_flows=view.maps.count_flows)
    if ours and runs != ours:
        what = f"its programs are those of another build, {runs}; this version's are {ours}"
        yield Check(topic, "note", what, "ebpfmesh up FILE replaces them and loses no packet")


def _foreign(view: View, topic: str) -> Iterator[Check]:
    ours = {*HOOKS.values(), FROM_FN.name}
    for row in view.functions:
        if problem(view.ip, row):
            continue
        for program in links.programs(view.ip, row.attachment.ifindex):
            if program.name not in ours:
                what = f"function {row.function.name}: {row.attachment.interface} has {program} too"
                yield Check(topic, "note", what, "it sees packets before or after the mesh does")


def _administrators(view: View, topic: str) -> Iterator[Check]:
    """Containers that could set down or delete the host's interfaces."""
    names = {row.attachment.netns_inode: row.function.name for row in view.functions}
    found: dict[str, list[int]] = {}
    for inode, process in capability.administrators(names.keys()):
        found.setdefault(names[inode], []).append(process)
    for name, processes in sorted(found.items()):
        what = f"function {name}: CAP_NET_ADMIN reaches the host's interfaces from process"
        hint = "start the container without it, or with a user namespace of its own"
        yield Check(topic, "note", f"{what} {' '.join(map(str, processes[:4]))}", hint)


def _privileged(view: View, topic: str) -> Iterator[Check]:
    """Commands that were asked to be the host's root."""
    for row in view.functions:
        if row.function.privileged:
            what = f"function {row.function.name} is privileged: its command is root of the host"
            hint = "it reads and changes the host's files; leave out privileged for a sandbox"
            yield Check(topic, "note", what, hint)


def _unserved(view: View, topic: str) -> Iterator[Check]:
    """Functions that are to be looked after, by nobody."""
    functions = [row.function for row in view.functions]
    ending = [one.name for one in functions if one.restart != "no"]
    asked = [one.name for one in functions if one.health]
    if not (ending or asked) or serving.is_served(view.record):
        return
    hint = "run ebpfmesh serve; serve --unit has systemd do it"
    if ending:
        what = f"nobody starts the commands of {_shown(ending)} again when they end"
        yield Check(topic, "note", what, hint)
    if asked:
        yield Check(topic, "note", f"nobody looks at the health of {_shown(asked)}", hint)


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (" …" if len(names) > 4 else "")


def _nameless(view: View, topic: str) -> Iterator[Check]:
    """Containers of others, whose /etc/hosts is their engine's."""
    file = hosts_file(view.record)
    names = [
        row.function.name
        for row in view.functions
        if row.attachment.netns.startswith("/proc/") and not _shows(row.attachment.netns, file)
    ]
    if names:
        what = f"names do not resolve in containers of others: {', '.join(names[:4])}"
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        hint = f"start them with --volume {file}:/etc/hosts:ro if they shall"
        yield Check(topic, "note", what + more, hint)


def _shows(netns: str, file: Path) -> bool:
    """Whether a process of a namespace, if it still is there, has a file as its /etc/hosts.

    A mesh that went and came again has another one.
    """
    try:
        return Path(netns).parents[1].joinpath("root/etc/hosts").samefile(file)
    except FileNotFoundError:
        return not Path(netns).exists()  # it ended, which is told elsewhere
    except OSError:
        return False


def _fill(view: View, topic: str) -> Iterator[Check]:
    """Maps that take no more, or soon will not."""
    for row in objects.read_maps(view):
        if row.is_full:
            what = f"map {row.name}: {row.used} of {row.entries} entries are used"
            yield Check(topic, "note", what, _raise(_limit(row.name)))


def _rooms(view: View, topic: str) -> Iterator[Check]:
    """Tenants whose new flows have had to push out flows of theirs that lived."""
    for row in rooms.read_rooms(view):
        if row.evicted and row.what != rooms.EVENTS:
            what = f"{row.evicted} {row.what} made room for newer ones of it"
            hint = f"raise maximum of {row.limit} under [[tenant]]" if row.capped else None
            hint = hint or _raise(row.limit)
            yield Check(topic, "note", f"tenant {row.tenant}: {what}", hint)


def _breakers(view: View, topic: str) -> Iterator[Check]:
    """What is injected and too slow, so that packets pass it by."""
    for row in view.record.injections():
        name = row.injection.name
        for program in sorted(row.running):
            live = cost.read_live(view, program)
            if live.open:
                who = f"the canary of {name}" if program == row.canary else name
                what = f"median {live.lately_ns or 0} ns over its {live.limit_ns} ns"
                hint = f"ebpfmesh rollback {name}, or swap it; ebpfmesh inject reset {name}"
                text = f"injected {who}: circuit breaker open, {what}; packets pass it by"
                yield Check(topic, "missing", text, hint)


def _counted(view: View, topic: str) -> Iterator[Check]:
    """What was counted since the mesh is up, and should not have been."""
    drops: Counter[str] = Counter()
    for row in counters.read_drops(view):
        drops[row.reason] += row.packets
    if lost := _count(view, _abi.Count.EVENT_LOST):
        what = f"{lost} events were lost: they came faster than they were read"
        what += rooms.told_of(rooms.lost_events(view))
        yield Check(topic, "note", what, "ask for fewer: --kind, --snap, --drops-only")
    if full := drops["RING_FULL"]:
        what = f"{full} packets came faster than functions with frames took them"
        yield Check(topic, "note", what, "show drops says whose; raise frames, or add replicas")
    if full := drops["FLOW_FULL"]:
        what = f"{full} packets were dropped because there was no room for a flow"
        yield Check(topic, "note", what, _raise("flows"))


def _held(view: View, topic: str) -> Iterator[Check]:
    """Functions of whose packets a tenth or more were more than their rate."""
    lost: dict[str, Counter[str]] = {"from function": Counter(), "to function": Counter()}
    for row in counters.read_drops(view):
        if row.reason in {_abi.Reason.RATE.name, _abi.Reason.TENANT_RATE.name}:
            lost[row.direction][row.function] += row.packets
    if not any(lost.values()):
        return
    passed: dict[str, Counter[str]] = {"from function": Counter(), "to function": Counter()}
    for meter in counters.read_meters(view):
        passed["from function"][meter.function] += meter.tx_packets
        passed["to function"][meter.function] += meter.rx_packets
    for way, what in (("from function", "sent"), ("to function", "got")):
        for name, packets in lost[way].most_common(HELD_SHOWN):
            whole = packets + passed[way][name]
            if packets * 10 >= whole:
                text = f"function {name}: of {whole} packets it {what}, {packets} were over a rate"
                hint = f"ebpfmesh set {name} --rate …, or rate of its tenant; show drops says whose"
                yield Check(topic, "note", text, hint)


def _frames(view: View, topic: str) -> Iterator[Check]:
    """Interfaces that would lose frames, or send some that are not right."""
    for row in view.functions:
        if not problem(view.ip, row) and (found := ports.changed(view, row)):
            what = f"function {row.function.name}: offloads are {found}"
            hint = f"frames get lost: ethtool -K … {offload.FOR_FRAMES}, or make it anew"
            yield Check(topic, "note", what, hint)


def _ports(view: View, topic: str) -> Iterator[Check]:
    """Ports that no process has."""
    for row in view.functions:
        name, command = row.function.name, row.function.command
        stopped = command and view.record.command(name).stopped
        if problem(view.ip, row) or stopped or ports.taken(row) is not False:
            continue
        what = f"function {name}: nobody has its port: packets go to its own stack, as without one"
        hint = f"ebpfmesh port {name} SOCKET hands it over; EBPFMESH_PORT says there where that is"
        if command:
            hint = f"its command ended or closed it: ebpfmesh logs {name}; ebpfmesh restart {name}"
        yield Check(topic, "note", what, hint)


def _count(view: View, count: _abi.Count) -> int:
    value = view.maps["mesh_counts"].get(ctypes.c_uint32(count))
    return int(value.value) if value else 0


def _limit(name: str) -> str:
    """What makes a map larger."""
    return next(spec.entries for spec in _abi.MAPS if spec.name == name)


def _raise(limit: str) -> str:
    what = f"limits.{limit}" if limit in Limits.model_fields else "its limit"
    return f"raise {what} under [mesh], then down and up"


def _listener(view: View, topic: str) -> Iterator[Check]:
    found = listener.find(view.record)
    if found is None:
        return
    if not found.lives:
        what = f"events are sent to process {found.pid}, which is gone"
        yield Check(topic, "note", what, "ebpfmesh gc stops it, and so does any change")
    elif view.config.events & _abi.EventKind.VERDICT:
        what = f"process {found.pid} asks for every packet's verdict: all go the slow way"
        yield Check(topic, "note", what, "end it when it is no longer needed")


def _netfilter(view: View, topic: str) -> Iterator[Check]:
    """Rules of the host that would have matched, had the packets come by."""
    functions = [row.function for row in view.functions]
    owners = [*functions, *view.record.services()]
    ours = netfilter.Ours(
        addresses=frozenset(address for owner in owners for address in owner.addresses),
        interfaces=frozenset(row.attachment.interface for row in view.functions),
    )
    try:
        found = netfilter.rules(ours)
    except MeshError as error:
        yield Check(topic, "unknown", f"rules of the host: {error.message}", error.hint)
        return
    if not found:
        return
    what = f"{len(found)} rules of the host would match traffic between functions, and never see it"
    yield Check(topic, "note", what, "say the same by policies: ebpfmesh policy add")
    for line in found[:RULES_SHOWN]:
        yield Check(topic, "note", line)
    if len(found) > RULES_SHOWN:
        yield Check(topic, "note", f"… and {len(found) - RULES_SHOWN} more")
