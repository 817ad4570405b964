# SPDX-License-Identifier: BSD-2-Clause
"""What `show` shows: tables as data. Each is who reads its rows, and its columns."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ebpfmesh.cli import output
from ebpfmesh.cli.base import settings
from ebpfmesh.cli.output import Column, mark, number, rate, size

if TYPE_CHECKING:
    from ebpfmesh.observe.cost import Live
    from ebpfmesh.observe.flows import Flow
    from ebpfmesh.observe.functions import Function
    from ebpfmesh.observe.mesh import Backend, Mesh, Policy, Service
    from ebpfmesh.observe.objects import Map, Program
    from ebpfmesh.observe.pools import PoolRow
    from ebpfmesh.observe.remotes import Remote
    from ebpfmesh.observe.uplinks import Uplink
    from ebpfmesh.observe.view import View


@dataclass(frozen=True)
class Table:
    """What `show NOUN` shows; ``reader`` is a function of ebpfmesh.observe, MODULE.NAME."""

    noun: str
    help: str
    reader: str
    columns: Sequence[Column]
    empty: str

    def tell(self, view: "View", **wanted: Any) -> None:
        """Print all rows there are, or those that are wanted, as a table or as JSON."""
        module, _, name = self.reader.partition(".")
        read: Callable[..., Iterable[Any]]
        read = getattr(import_module(f"ebpfmesh.observe.{module}"), name)
        rows = read(view, **wanted)
        if settings().json:
            output.data(mesh=view.name, time=output.now(), **{self.noun: list(rows)})
        else:
            output.table(self.columns, rows, empty=self.empty)


# ---- cells


def _state(row: "Function") -> object:
    told = ["audit"] * row.audit + ["port free"] * (row.port_taken is False)
    text = ", ".join([row.state, *told])
    return mark(text, "red" if row.state != "up" else "yellow" if told else "green")


def _uplink_state(row: "Uplink | Remote") -> object:
    return mark(row.state, "green" if row.state == "up" else "red")


def _masquerade(row: "Uplink") -> object:
    if (found := row.masquerade) is None:
        return None
    text = f"{found.ports}, flows {found.flows}, to one peer {found.most}"
    return mark(f"{text}, {found.exhausted} without", "red") if found.exhausted else text


def _ready(row: "Function | Remote") -> object:
    return "yes" if row.ready else mark("no", "red")


def _command(row: "Function") -> object:
    pids = " ".join(map(str, row.processes[:4])) + (" …" if len(row.processes) > 4 else "")
    if not row.command:
        return pids or None
    again = f", {row.restarts} restarts" if row.restarts else ""
    if row.command_state == "exited":
        colour = "red" if row.exit_status else ""
        return mark(f"{row.command[0]} exited {row.exit_status}{again}", colour)
    if row.command_state == "stopped":
        return mark(f"{row.command[0]} stopped{again}", "yellow")
    if row.command_state == "lost":
        return mark(f"{row.command[0]} ended{again}", "red")
    return f"{row.command[0]} {pids}{again}"


def _limits(row: "Function") -> object:
    found = [f"{row.cpu_limit:g} CPU"] if row.cpu_limit else []
    found += [size(row.memory_limit)] if row.memory_limit else []
    found += [rate(row.rate_limit)] if row.rate_limit else []
    return " ".join(found) or None


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.2f} s"


def _ports(row: "Service") -> str:
    from ebpfmesh.model import ports_text

    text = f"{row.protocol}/{ports_text(row.port, row.port + row.ports - 1)}"
    if row.target_port != row.port:
        text += f" → {ports_text(row.target_port, row.target_port + row.ports - 1)}"
    return f"{text} by source" if row.affinity == "source" else text


def _backends(row: "Service") -> str:
    shown = [f"{backend.function} {_share(backend)}" for backend in row.backends[:6]]
    more = len(row.backends) - len(shown)
    return ", ".join(shown) + (f", … {more} more" if more else "")


def _share(backend: "Backend") -> str:
    if not backend.alive:
        return f"{backend.share:.1%} gone"
    if backend.ended:
        return backend.ended
    if not backend.ready:
        return "not ready"
    return f"{backend.share:.1%}" if backend.weight else "drained"


def _pool_used(row: "PoolRow") -> object:
    if not row.in_use:
        return None
    return mark(number(row.used), "red" if row.used == row.slots else "")


def _members(row: "PoolRow") -> str:
    shown = [
        f"{one.name} {one.holds}+{one.waiting}"
        + ("" if one.state == "running" else f" {one.state or 'no command'}")
        for one in row.members[:6]
    ]
    more = len(row.members) - len(shown)
    return ", ".join(shown) + (f", … {more} more" if more else "")


def _count_ready(row: "Service") -> object:
    return mark(f"{row.ready}/{len(row.backends)}", "" if row.ready else "red")


def _named_numbers(numbers: "Mapping[str, int]") -> str | None:
    return "  ".join(f"{name}={number(value)}" for name, value in numbers.items()) or None


def breaker(live: "Live") -> object:
    """Whether packets pass a program by."""
    return mark(live.breaker, "red" if live.open else "")


def live_text(live: "Live") -> str:
    """What a program took by the last samples."""
    if live.median_ns is None or live.p99_ns is None:
        return f"no samples; the median may be {live.limit_ns} ns"
    what = f"median {live.median_ns:.0f} ns, p99 {live.p99_ns:.0f}, lately {live.lately_ns}"
    return f"{what} of {number(live.samples)} samples; the median may be {live.limit_ns}"


def _action(row: "Policy") -> object:
    return mark(row.action, "green" if row.action == "allow" else "red")


def _source(row: "Flow") -> str:
    from ebpfmesh.observe.flows import endpoint

    return endpoint(row.source, row.source_port)


def _destination(row: "Flow") -> str:
    from ebpfmesh.observe.flows import endpoint

    echo = f" id {row.echo_id}" if row.echo_id is not None else ""
    return endpoint(row.destination, row.destination_port) + echo


def _place(row: "Program") -> str | None:
    """Where a program is attached, or which others go on in it."""
    places = Counter((place.hook, place.how, bool(place.interface)) for place in row.attached)
    texts = []
    for (hook, how, at_interface), count in places.items():
        where = "interface" if count == 1 else "interfaces"
        texts.append(f"{count} {where}, {hook} by {how}" if at_interface else f"{hook} by {how}")
    return ", ".join([*texts, *(f"tail call {slot}" for slot in row.calls)]) or None


def _used(row: "Map") -> object:
    return None if row.used is None else mark(number(row.used), "red" if row.is_full else "")


def _mesh_state(row: "Mesh") -> object:
    if row.interrupted:
        return mark("a change was cut short: run up or gc", "red")
    if row.functions_broken:
        return mark(f"{row.functions_broken} functions broken", "red")
    return mark("whole", "green")


TABLES = (
    Table(
        "functions",
        """Functions: addresses, whether they work, what runs in them, what they used.

        What was used is since there is the function: `ebpfmesh top` shows what it uses now.
        "kernel" is the time of the mesh's programs for its packets, as far as `top` was ever asked.
        """,
        "functions.read",
        (
            Column("id", lambda row: row.id, right=True, drop=3),
            Column("name", lambda row: row.name),
            Column("tenant", lambda row: row.tenant),
            Column("state", _state),
            Column("ready", _ready),
            Column("addresses", lambda row: " ".join(row.addresses)),
            Column("interface", lambda row: row.interface, drop=2),
            Column("command", _command, drop=1),
            Column("limits", _limits, drop=4),
            Column("CPU", lambda row: _time(row.cpu_seconds), right=True, drop=5),
            Column("throttled", lambda row: _time(row.throttled_seconds), right=True, drop=13),
            Column("kernel", lambda row: _time(row.kernel_seconds), right=True, drop=11),
            Column(
                "memory",
                lambda row: None if row.memory is None else size(row.memory),
                right=True,
                drop=6,
            ),
            Column("OOM", lambda row: row.oom_kills, right=True, drop=12),
            Column("sent", lambda row: number(row.tx_packets), right=True, drop=8),
            Column("received", lambda row: number(row.rx_packets), right=True, drop=8),
            Column("bytes", lambda row: size(row.tx_bytes + row.rx_bytes), right=True, drop=9),
            Column("drops", lambda row: _named_numbers(row.drops), drop=7),
            Column("datapath", lambda row: row.datapath, drop=14),
            Column("flows", lambda row: number(row.flows), right=True, drop=10),
        ),
        "no functions",
    ),
    Table(
        "services",
        "Services: addresses, backends and what part of all flows each gets.",
        "mesh.read_services",
        (
            Column("id", lambda row: row.id or None, right=True, drop=2),
            Column("name", lambda row: row.name),
            Column("addresses", lambda row: " ".join(row.addresses)),
            Column("port", _ports),
            Column("published", lambda row: " ".join(row.publish) or None, drop=3),
            Column("ready", _count_ready, right=True),
            Column("backends", _backends, drop=1),
        ),
        "no services",
    ),
    Table(
        "uplinks",
        "Uplinks: interfaces of the host's to the outside, and what is published on them.",
        "uplinks.read_uplinks",
        (
            Column("name", lambda row: row.name),
            Column("interface", lambda row: row.interface),
            Column("state", _uplink_state),
            Column("addresses", lambda row: " ".join(row.addresses)),
            Column("MTU", lambda row: row.mtu, right=True, drop=5),
            Column("attached by", lambda row: row.how, drop=4),
            Column("XDP", lambda row: f"{row.xdp or 'none'}: {row.why}", drop=2),
            Column("published", lambda row: ", ".join(row.published) or None, drop=1),
            Column("masquerades", _masquerade, drop=3),
        ),
        "no uplinks",
    ),
    Table(
        "pools",
        """Pools: memory that functions of one tenant share, who they are, and what they have of it.

        A member is shown with its places in hand and messages on their way to it. "malformed" is
        what others sent that was no message, "reclaimed" what was taken back of members that died.
        """,
        "pools.read",
        (
            Column("name", lambda row: row.name),
            Column("tenant", lambda row: row.tenant),
            Column("places", lambda row: f"{number(row.slots)} × {size(row.bytes)}", right=True),
            Column("memory", lambda row: size(row.memory), right=True, drop=3),
            Column("used", _pool_used, right=True),
            Column("members", _members, drop=1),
            Column("malformed", lambda row: sum(m.malformed for m in row.members), right=True),
            Column(
                "reclaimed", lambda row: sum(m.reclaimed for m in row.members), right=True, drop=2
            ),
        ),
        "no pools",
    ),
    Table(
        "remotes",
        "Remotes: machines beyond an uplink that are backends of services.",
        "remotes.read_remotes",
        (
            Column("id", lambda row: row.id or None, right=True, drop=2),
            Column("name", lambda row: row.name),
            Column("tenant", lambda row: row.tenant),
            Column("uplink", lambda row: row.uplink),
            Column("state", _uplink_state),
            Column("ready", _ready),
            Column("addresses", lambda row: " ".join(row.addresses)),
            Column("route", lambda row: " ".join(row.route), drop=3),
            Column("services", lambda row: " ".join(row.services) or None, drop=1),
        ),
        "no remotes",
    ),
    Table(
        "policies",
        "Rules, those that decide first before the others, and what holds without one.",
        "mesh.read_policies",
        (
            Column("id", lambda row: row.id or "default", right=True),
            Column("priority", lambda row: row.priority, right=True, drop=1),
            Column("from", lambda row: row.source),
            Column("to", lambda row: row.destination),
            Column("protocol", lambda row: row.what),
            Column("action", _action),
        ),
        "no policies",
    ),
    Table(
        "programs",
        """Programs: size, tag, and where they are.

        "verified" is the number of instructions the verifier followed, of the million it may. A
        tail call is a slot of a table of calls, by which another program goes on in this one.
        """,
        "objects.read_programs",
        (
            Column("id", lambda row: row.id, right=True, drop=1),
            Column("name", lambda row: row.name),
            Column("type", lambda row: row.type),
            Column("JITed", lambda row: f"{number(row.jited)} B", right=True, drop=2),
            Column(
                "verified",
                lambda row: None if row.verified is None else number(row.verified),
                right=True,
                drop=3,
            ),
            Column("tag", lambda row: row.tag, drop=4),
            Column("place", _place),
        ),
        "no programs",
    ),
    Table(
        "maps",
        "Maps: entries and memory.",
        "objects.read_maps",
        (
            Column("id", lambda row: row.id, right=True, drop=1),
            Column("name", lambda row: row.name),
            Column("type", lambda row: row.type),
            Column("used", _used, right=True),
            Column("entries", lambda row: number(row.entries), right=True),
            Column("memory", lambda row: size(row.memory) if row.memory else None, right=True),
        ),
        "no maps",
    ),
    Table(
        "meters",
        "What functions sent to and received from each tenant.",
        "counters.read_meters",
        (
            Column("function", lambda row: row.function),
            Column("peer tenant", lambda row: row.peer_tenant),
            Column("sent", lambda row: number(row.tx_packets), right=True),
            Column("bytes", lambda row: size(row.tx_bytes), right=True),
            Column("received", lambda row: number(row.rx_packets), right=True),
            Column("bytes", lambda row: size(row.rx_bytes), right=True),
        ),
        "no packets yet",
    ),
    Table(
        "rooms",
        """How many flows each tenant has room for, and events in bytes: its own, and common.

        New ones of a tenant push out no others' flows; those evicted made room for newer ones. Of
        events that are not read yet it is the new ones that have no room.
        """,
        "rooms.read_rooms",
        (
            Column("tenant", lambda row: row.tenant),
            Column("what", lambda row: row.what),
            Column("used", lambda row: None if row.used is None else number(row.used), right=True),
            Column("own", lambda row: number(row.own), right=True),
            Column("common", lambda row: number(row.common), right=True),
            Column("evicted", lambda row: number(row.evicted), right=True),
        ),
        "no room yet",
    ),
    Table(
        "drops",
        "What was dropped, and why; the numbers are those of bpf/README.md.",
        "counters.read_drops",
        (
            Column("function", lambda row: row.function),
            Column("way", lambda row: row.direction, drop=1),
            Column("reason", lambda row: f"{row.reason} ({row.number})"),
            Column("", lambda row: f"would drop: {row.text}" if row.audited else row.text),
            Column("packets", lambda row: number(row.packets), right=True),
            Column("bytes", lambda row: size(row.bytes), right=True, drop=2),
        ),
        "no drops",
    ),
)
INJECTED = Table(
    "injected",
    "",
    "injected.read_injected",
    (
        Column("name", lambda row: row.name),
        Column("at", lambda row: row.at),
        Column("place", lambda row: row.place, right=True, drop=4),
        Column("file", lambda row: row.file, drop=3),
        Column("parameters", lambda row: _named_numbers(row.parameters), drop=2),
        Column("counters", lambda row: _named_numbers(row.counters)),
        Column("dropped", lambda row: number(sum(row.refused.values())), right=True),
        Column("ns", lambda row: f"{row.ns_median:.0f}", right=True, drop=1),
        Column("live ns", lambda row: row.live.lately_ns, right=True, drop=5),
        Column("breaker", lambda row: breaker(row.live)),
    ),
    "nothing is injected",
)
FLOWS = Table(
    "flows",
    "",
    "flows.read",
    (
        Column("proto", lambda row: row.protocol),
        Column("source", _source),
        Column("destination", _destination),
        Column("from", lambda row: row.sender, drop=1),
        Column("to", lambda row: row.receiver, drop=1),
        Column("way", lambda row: row.direction, drop=5),
        Column("state", lambda row: row.state or None, drop=3),
        Column("idle", lambda row: f"{row.idle} s", right=True, drop=4),
        Column("service", lambda row: row.service or None, drop=6),
        Column("nat", lambda row: row.nat or None, drop=2),
        Column("epoch", lambda row: "current" if row.current else mark("stale", "yellow"), drop=7),
    ),
    "no flows",
)
COUNTED = (
    Column("packets", lambda row: number(row.packets), right=True, drop=5),
    Column("bytes", lambda row: size(row.bytes), right=True, drop=3),
    Column("age", lambda row: f"{row.age} s", right=True, drop=6),
)
"""Of flows, beside the others, in a mesh that counts them."""
MESHES = (
    Column("mesh", lambda row: row.name),
    Column("state", _mesh_state),
    Column("functions", lambda row: row.functions, right=True),
    Column("services", lambda row: row.services, right=True),
    Column("policies", lambda row: row.policies, right=True),
    Column("maps", lambda row: size(row.memory), right=True),
)
