# SPDX-License-Identifier: BSD-2-Clause
"""Any changes in any order, some of them killed, of a mesh that carries datagrams meanwhile.

After each: what must arrive arrives and nothing else does, the mesh is what the model says, and
nothing is left over. EBPFMESH_SOAK is the number of meshes that live through fifty changes each; a
few short lives, the same each time, unless it says otherwise (``make soak``).
"""

import gc as garbage
import os
from collections.abc import Callable, Collection
from contextlib import ExitStack, closing
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from ebpfmesh import apply
from ebpfmesh.apply import OnStep
from ebpfmesh.kernel import bpf, cgroup, interface, netns
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.programs import AT_HOST, AT_SOCKETS
from ebpfmesh.model import (
    Injection,
    Mesh,
    Policy,
    Remote,
    Service,
    Timeouts,
    Uplink,
    ranked,
)
from ebpfmesh.state import audit, early
from ebpfmesh.state.files import RUN
from ebpfmesh.state.record import Record
from support.agreeing import is_well
from support.everything import at_uplinks
from support.killing import Change, killed_at
from support.living import FRAMES, NAMES, OWN, function, packets, sharing, web, with_functions
from support.outside import beyond, sysctl
from support.shouting import Shouting
from support.topology import collected, poll

NUMBER = os.environ.get("EBPFMESH_SOAK", "")
GROWTH = 64 << 20  # bytes that this process may grow by, while it remembers what it tried
UPLINKS = ("u0", "u1")
TENANTS = ("one", "two", "three")
SERVICES = ("front", "back")
INJECTED = ("first", "second")
TEXT = """
#include "mesh_function.h"
MESH_COUNTER(seen, "packets that came by");
MESH_FUNCTION(p)
{
	mesh_count(seen);
	return mesh_next();
}
"""
FATES = st.none() | st.tuples(st.integers(0, 25), st.sampled_from(("gc", "up")))
"""Whether a change is killed: at which step, and what comes after."""
Fate = tuple[int, str] | None
NUMBERS = st.integers(0, 255)
"""Which of what there is then: what hypothesis draws must not depend on that."""


def one_of(names: Collection[str], which: int) -> str:
    return sorted(names)[which % len(names)]


class Life(RuleBasedStateMachine):
    """One mesh, from nothing to nothing; ``mesh`` is what it should be."""

    made: ClassVar[list[int]] = []
    """A map of each mesh, by its id: it lives as long as any program that has it."""
    sizes: ClassVar[list[int]] = []
    """Bytes of this process after each."""

    @initialize(count=st.integers(1, 3))
    def begin(self, count: int) -> None:
        """A mesh with a service."""
        self.around = ExitStack()
        netns.create(OWN.name)
        self.around.callback(netns.remove, OWN.name)
        sysctl("net.ipv4.conf.lo.forwarding=1", "net.ipv6.conf.lo.forwarding=1")
        self.around.enter_context(beyond(0))
        self.around.enter_context(beyond(1))
        self.denied: set[str] = set()
        service = Service(
            name="front", address4=IPv4Address("198.19.0.1"), port=80, target_port=7000,
            protocol="udp", functions=("web",),
        )  # fmt: skip
        functions = (function("a", "one"), function("b", "two"), *web(count, "two"))
        self.mesh = Mesh(name="soak", functions=functions, services=(service,))
        apply.up(self.mesh)
        self.shouting = Shouting()
        self.made.append(bpf.map_info(Maps(Pins("soak"))["mesh_config"].fd).id)
        self.open = self.descriptors()

    def teardown(self) -> None:
        """All of it goes."""
        if not hasattr(self, "shouting"):
            return
        self.shouting.close()
        apply.down("soak")
        assert OWN.exists()
        assert at_uplinks() == set()
        self.around.close()
        self.sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)

    # ---- changes

    def change(self, change: Change, after: Mesh, fate: Fate) -> None:
        """Do it; or kill it, and have what it left undone or made whole."""
        if fate is None:
            change(lambda _: None)
            self.mesh = after
            return
        step, then = fate
        killed_at(step, change)
        well = is_well("soak")
        if then == "gc":
            assert bool(collected("soak")) != well
            self.mesh = self.mesh if apply.plan(self.mesh) == () else after
        else:
            apply.up(after)
            self.mesh = after

    def edit(self, fate: Fate, **parts: object) -> None:
        after = self.mesh.model_copy(update=parts)
        self.change(lambda on_step: apply.edit("soak", lambda _: after, on_step), after, fate)

    @rule(name=st.sampled_from(NAMES), tenant=st.sampled_from(TENANTS), fate=FATES)
    def attach(self, name: str, tenant: str, fate: Fate) -> None:
        new = function(name, tenant)
        if new.name in self.names():
            return
        after = self.mesh.model_copy(update={"functions": (*self.mesh.functions, new)})
        request = apply.Request(
            mesh="soak", name=name, tenant=tenant, namespace=new.netns,
            addresses=tuple(map(str, new.addresses)),
        )  # fmt: skip
        do: Callable[[OnStep], object] = lambda on_step: apply.attach(request, on_step)  # noqa: E731
        if not new.netns:
            do = lambda on_step: apply.add_function("soak", new, on_step=on_step)  # noqa: E731
        self.change(do, after, fate)

    @rule(which=NUMBERS, fate=FATES)
    def detach(self, which: int, fate: Fate) -> None:
        if not self.mesh.functions:
            return
        name = one_of({*self.names(), *self.mesh.groups}, which)
        left = tuple(f for f in self.mesh.functions if name not in (f.name, f.group))
        after = with_functions(self.mesh, left)
        self.change(lambda on_step: apply.detach("soak", name, on_step), after, fate)

    @rule(count=st.integers(0, 3), tenant=st.sampled_from(TENANTS), fate=FATES)
    def replicas(self, count: int, tenant: str, fate: Fate) -> None:
        others = tuple(f for f in self.mesh.functions if f.group is None)
        after = with_functions(self.mesh, (*others, *web(count, tenant)))
        self.change(lambda on_step: apply.up(after, on_step), after, fate)

    @rule(
        tenants=st.tuples(*[st.sampled_from(TENANTS)] * len(NAMES)),
        reject=st.booleans(),
        host=st.booleans(),
        udp=st.sampled_from((60, 120)),
        fate=FATES,
    )
    def up(self, tenants: tuple[str, ...], reject: bool, host: bool, udp: int, fate: Fate) -> None:
        """Settings, and tenants of functions: any number of them at once."""
        tenant = dict(zip(NAMES, tenants, strict=True))
        moved = tuple(
            f.model_copy(update={"tenant": tenant.get(f.name, f.tenant)})
            for f in self.mesh.functions
        )
        update = {"reject": reject, "host": host, "timeouts": Timeouts(udp=udp)}
        after = with_functions(self.mesh, moved).model_copy(update=update)
        self.change(lambda on_step: apply.up(after, on_step), after, fate)

    @rule(
        name=st.sampled_from(SERVICES),
        behind=st.dictionaries(st.sampled_from((*NAMES, "web")), st.sampled_from((0, 1, 3))),
        affinity=st.sampled_from(("none", "source")),
        fate=FATES,
    )
    def set_service(
        self, name: str, behind: dict[str, int], affinity: Literal["none", "source"], fate: Fate
    ) -> None:
        """It comes, or becomes another."""
        known = self.names() | self.mesh.groups.keys()
        weights = {one: weight for one, weight in behind.items() if one in known}
        new = Service(
            name=name, address4=IPv4Address("198.19.0.1") + SERVICES.index(name), port=80,
            target_port=7000, protocol="udp", functions=tuple(weights), weights=weights,
            affinity=affinity,
        )  # fmt: skip
        others = tuple(one for one in self.mesh.services if one.name != name)
        self.edit(fate, services=(*others, new))

    @rule(name=st.sampled_from(SERVICES), fate=FATES)
    def remove_service(self, name: str, fate: Fate) -> None:
        """It goes, and rules about it."""
        others = tuple(one for one in self.mesh.services if one.name != name)
        rules = tuple(
            one for one in self.mesh.policies if str(one.destination) != f"service:{name}"
        )
        self.edit(fate, services=others, policies=rules)

    @rule(
        ends=st.tuples(NUMBERS, NUMBERS),
        action=st.sampled_from(("allow", "deny", "reject")),
        priority=st.sampled_from((50, 100)),
        fate=FATES,
    )
    def add_rule(self, ends: tuple[int, int], action: str, priority: int, fate: Fate) -> None:
        """In the place of one about the same, if there is one."""
        places = {f"tenant:{name}" for name in self.mesh.tenants} | {"any"}
        places |= {f"function:{name}" for name in self.names()}
        places |= {f"group:{name}" for name in self.mesh.groups}
        services = {f"service:{one.name}" for one in self.mesh.services}
        new = Policy.model_validate(
            {
                "source": one_of(places | {"outside"}, ends[0]),
                "destination": one_of(places | services, ends[1]),
                "action": action,
                "priority": priority,
            }
        )
        others = tuple(one for one in self.mesh.policies if one.match != new.match)
        self.edit(fate, policies=(*others, new))

    @rule(which=NUMBERS, fate=FATES)
    def remove_rule(self, which: int, fate: Fate) -> None:
        rules = self.mesh.policies
        if rules:
            gone = rules[which % len(rules)]
            self.edit(fate, policies=tuple(one for one in rules if one != gone))

    @rule(
        name=st.sampled_from(INJECTED),
        place=NUMBERS,
        way=st.sampled_from(("egress", "ingress")),
        version=st.integers(1, 2),
        fate=FATES,
    )
    def inject(self, name: str, place: int, way: str, version: int, fate: Fate) -> None:
        """A program comes, or another in its place, or it moves; it lets pass what it meets."""
        places = self.names() | self.mesh.groups.keys()
        places |= {f"tenant:{tenant}" for tenant in self.mesh.tenants}
        if not places:
            return
        new = Injection(
            name=name, at=f"{one_of(places, place)}/{way}", file=f"{name}.c",
            source=f"{TEXT}/* {version} */\n",
        )  # fmt: skip
        others = tuple(one for one in self.mesh.injections if one.name != name)
        self.edit(fate, injections=ranked((*others, new)))

    @rule(name=st.sampled_from(INJECTED), fate=FATES)
    def eject(self, name: str, fate: Fate) -> None:
        others = tuple(one for one in self.mesh.injections if one.name != name)
        self.edit(fate, injections=ranked(others))

    # ---- uplinks, and what has frames

    @rule(
        name=st.sampled_from(UPLINKS),
        masquerade=st.booleans(),
        xdp=st.sampled_from(("auto", "native", "generic", "off")),
        fate=FATES,
    )
    def set_uplink(
        self, name: str, masquerade: bool, xdp: Literal["auto", "native"], fate: Fate
    ) -> None:
        """It comes, or becomes another."""
        new = Uplink(name=name, interface=f"up{name[1]}", masquerade=masquerade, xdp=xdp)
        others = tuple(one for one in self.mesh.uplinks if one.name != name)
        self.edit(fate, uplinks=tuple(sorted((*others, new), key=lambda one: one.name)))

    @rule(name=st.sampled_from(UPLINKS), fate=FATES)
    def remove_uplink(self, name: str, fate: Fate) -> None:
        """It goes, and who is beyond it."""
        left = tuple(one for one in self.mesh.uplinks if one.name != name)
        beyond = tuple(one for one in self.mesh.remotes if one.uplink != name)
        self.edit(fate, uplinks=left, **self.with_remotes(beyond))

    @rule(name=st.sampled_from(UPLINKS), there=st.booleans(), fate=FATES)
    def set_remote(self, name: str, there: bool, fate: Fate) -> None:
        """Somebody is beyond an uplink, or no longer."""
        others = tuple(one for one in self.mesh.remotes if one.uplink != name)
        new = Remote(
            name=f"far-{name}", uplink=name, tenant="far",
            address4=IPv4Address(f"198.19.21{name[1]}.2"),
        )  # fmt: skip
        if there and name not in {one.name for one in self.mesh.uplinks}:
            return
        remotes = (*others, new) if there else others
        ordered = tuple(sorted(remotes, key=lambda one: one.name))
        self.edit(fate, **self.with_remotes(ordered))

    def with_remotes(self, remotes: tuple[Remote, ...]) -> dict[str, object]:
        """Parts of the mesh with these; rules about a tenant that is nobody's any more go."""
        changed = self.mesh.model_copy(update={"remotes": remotes})
        return {
            "remotes": remotes,
            "policies": with_functions(changed, self.mesh.functions).policies,
        }

    @rule(numbers=st.tuples(st.integers(0, 3), st.integers(1, 40)), deny=st.booleans(), fate=FATES)
    def set_denied(self, numbers: tuple[int, int], deny: bool, fate: Fate) -> None:
        """Many prefixes at once; a change that is killed is undone."""
        if deny and not any(one.xdp in ("auto", "native") for one in self.mesh.uplinks):
            return
        first, count = numbers
        some = {f"192.0.2.{(40 * first + number) % 256}/32" for number in range(count)}
        some |= {f"2001:db8:bad:{number}::/64" for number in range(first)}
        prefixes = [ip_network(one) for one in some]
        do: Callable[[OnStep], object] = lambda on_step: apply.deny(  # noqa: E731
            "soak", prefixes, on_step=on_step
        )
        if not deny:
            do = lambda on_step: apply.allow(  # noqa: E731
                "soak", prefixes, missing_ok=True, on_step=on_step
            )
        wanted = self.denied | some if deny else self.denied - some
        if fate is None:
            do(lambda _: None)
            self.denied = wanted
            return
        if not killed_at(fate[0], do):
            self.denied = wanted
        well = is_well("soak")
        if fate[1] == "gc":
            assert bool(collected("soak")) != well
        else:
            apply.up(self.mesh)

    @rule(version=st.integers(0, 2), fate=FATES)
    def set_packet_function(self, version: int, fate: Fate) -> None:
        """It comes, has another program, or goes."""
        others = [one for one in self.mesh.functions if one.name != "raw"]
        after = with_functions(self.mesh, (*others, *([packets(version)] if version else ())))
        self.change(lambda on_step: apply.up(after, on_step), after, fate)

    @rule(
        names=st.sets(st.sampled_from(("port", "mate"))),
        slots=st.sampled_from((256, 512)),
        fate=FATES,
    )
    def set_pool(self, names: set[str], slots: int, fate: Fate) -> None:
        """Who shares it begins, begins anew, or goes."""
        others = [one for one in self.mesh.functions if one.name not in ("port", "mate")]
        after = with_functions(self.mesh, (*others, *sharing(sorted(names), slots)))
        self.change(lambda on_step: apply.up(after, on_step), after, fate)

    # ---- losses

    @rule()
    def gc(self) -> None:
        """It finds nothing."""
        assert collected("soak") == []

    @rule(name=st.sampled_from(("mesh_policy", "mesh_address", "mesh_iface", "mesh_maglev")))
    def lose_entries(self, name: str) -> None:
        table = Maps(Pins("soak"))[name]
        for key, value in list(table.filled()):
            if table.spec.kind == "array":
                table.set(key, type(value)())
            else:
                table.delete(key)
        well = is_well("soak")
        assert bool(collected("soak")) != well

    @rule(which=NUMBERS, pin=st.booleans())
    def lose_function(self, which: int, pin: bool) -> None:
        """Its interface, or the link of a program at it."""
        if not self.mesh.functions:
            return
        with closing(Record("soak")) as record:
            row = record.function(one_of(self.names(), which))
        assert row
        if pin:
            (Pins("soak").links / f"{row.function.name}-ingress").unlink()
            assert poll(lambda: not is_well("soak"))
        else:
            with netns.rtnetlink() as ip:
                ip.link("del", index=row.attachment.ifindex)
        assert not is_well("soak")
        apply.up(self.mesh)

    # ---- what holds after each

    @invariant()
    def is_what_it_should_be(self) -> None:
        if not hasattr(self, "open"):
            return
        assert apply.plan(self.mesh) == ()
        assert is_well("soak")
        with closing(Record("soak")) as record:
            assert audit.problems(Pins("soak"), Maps(Pins("soak")), record) == []
            for kind, names in self.named().items():
                assert {*record.names(kind).values()} == names, kind
            assert {str(one.block.prefix) for one in record.denied()} == self.denied

    @invariant()
    def what_must_arrive_arrives(self) -> None:
        if hasattr(self, "open"):
            heard = tuple(one for one in self.mesh.functions if one.datapath != "af_xdp")
            assert self.shouting.once(self.mesh.model_copy(update={"functions": heard})) == ""

    @invariant()
    def nothing_is_left_over(self) -> None:
        if not hasattr(self, "open"):
            return
        names = self.names()
        links = {path.name for path in Pins("soak").links.iterdir()}
        ends = {f"{name}-{end}" for name in names for end in ("ingress", "egress")}
        ends |= {"raw-xdp"} & {f"{name}-xdp" for name in names}
        ends |= {f"@{one.name}-ingress" for one in self.mesh.uplinks}
        with closing(Record("soak")) as record:
            ends |= {f"@{name}-xdp" for name in early.wanted(record)}
            pools = {f"pool:{key.split('/')[1]}" for key in record.pools()}
        assert links - {one.name for one in (*AT_SOCKETS, *AT_HOST)} == ends
        assert {path.name for path in Pins("soak").ports.glob("*")} == {"raw", "port"} & names
        assert bool(pools) == any(one.pools for one in self.mesh.functions)
        assert len(at_uplinks()) == sum(one.startswith("@") for one in ends)
        programs = [*Pins("soak").injected.glob("*")]
        assert len(programs) <= 2 * len(self.mesh.injections)  # each with the one before it
        made = {netns.name_of("soak", name) for name in names - {"guest"}}
        assert {path.name for path in netns.RUN.iterdir()} == made | {
            *(OWN.name, "beyond0", "beyond1")
        }
        assert {one.function for one in cgroup.groups(netns.current())} == names | pools
        with netns.rtnetlink() as ip:
            assert {*interface.ours(ip).values()} == {f"soak/{name}" for name in names}
        files = {path.stem for path in (RUN / "soak").iterdir()}
        of_commands = {*FRAMES, *(f"{name}.log" for name in FRAMES)} if pools else set[str]()
        assert files <= {"record", "hosts", "reserve", "logs"} | of_commands, files
        assert self.descriptors() == self.open

    def names(self) -> set[str]:
        return {one.name for one in self.mesh.functions}

    def named(self) -> dict[str, set[str]]:
        """What has an id: no other name has, or ids would run out."""
        beyond = {one.name for one in self.mesh.remotes}
        return {
            "function": self.names() | beyond,
            "service": {one.name for one in self.mesh.services},
        }

    def descriptors(self) -> int:
        """How many this process has open besides those of the datagrams."""
        garbage.collect()
        return len(os.listdir("/proc/self/fd")) - self.shouting.sockets  # noqa: PTH208


def has_map(number: int) -> bool:
    """Whether the kernel has a map of this id yet."""
    try:
        bpf.Fd(bpf.call("bpf_map_get_fd_by_id", number)).close()
    except FileNotFoundError:
        return False
    return True


@pytest.mark.timeout(0 if NUMBER else 900)
def test_a_mesh_lives_through_it() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Life,
        settings=settings(
            max_examples=int(NUMBER or 4),
            stateful_step_count=50 if NUMBER else 20,
            derandomize=not NUMBER,
            database=None,
            deadline=None,
            print_blob=True,
            phases=(Phase.generate, Phase.shrink) if NUMBER else (Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert poll(lambda: not any(map(has_map, Life.made)))
    assert max(Life.sizes) - Life.sizes[0] < GROWTH
