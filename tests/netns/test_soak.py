# SPDX-License-Identifier: BSD-2-Clause
"""Any changes in any order, some of them killed, of a mesh that carries datagrams meanwhile.

After each: what must arrive arrives and nothing else does, the mesh is what the model says, and
nothing is left over. EBPFMESH_SOAK is the number of meshes that live through fifty changes each; a
few short lives, the same each time, unless it says otherwise (``make soak``).
"""

import gc as garbage
import os
from collections.abc import Callable, Collection
from contextlib import closing
from ipaddress import IPv4Address, IPv6Address
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
from ebpfmesh.kernel.programs import AT_SOCKETS
from ebpfmesh.model import Function, Identity, Injection, Mesh, Policy, Service, Timeouts, ranked
from ebpfmesh.state import audit
from ebpfmesh.state.files import RUN
from ebpfmesh.state.record import Record
from support.agreeing import is_well
from support.killing import Change, killed_at
from support.shouting import Shouting
from support.topology import collected, poll

NUMBER = os.environ.get("EBPFMESH_SOAK", "")
GROWTH = 64 << 20  # bytes that this process may grow by, while it remembers what it tried
NAMES = ("a", "b", "c", "guest")
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
OWN = netns.RUN / "mine"
"""The namespace of the guest, which is there before it and after."""
FATES = st.none() | st.tuples(st.integers(0, 25), st.sampled_from(("gc", "up")))
"""Whether a change is killed: at which step, and what comes after."""
Fate = tuple[int, str] | None
NUMBERS = st.integers(0, 255)
"""Which of what there is then: what hypothesis draws must not depend on that."""


def one_of(names: Collection[str], which: int) -> str:
    return sorted(names)[which % len(names)]


def function(name: str, tenant: str, group: str | None = None) -> Function:
    """A function at an address that it has whenever it is there."""
    number = 10 + (*NAMES, "web-0", "web-1", "web-2").index(name)
    return Function(
        name=name,
        tenant=tenant,
        group=group,
        address4=IPv4Address("198.18.0.0") + number,
        address6=IPv6Address("2001:db8::") + number,
        netns=str(OWN) if name == "guest" else None,
    )


def web(count: int, tenant: str) -> tuple[Function, ...]:
    return tuple(function(f"web-{number}", tenant, "web") for number in range(count))


def with_functions(mesh: Mesh, functions: tuple[Function, ...]) -> Mesh:
    """The mesh with these functions; services, rules and places lose whoever is gone."""
    names = {f.name for f in functions} | {f.group for f in functions if f.group}
    tenants = {f.tenant for f in functions}
    known = {"function": names, "group": names, "tenant": tenants}
    kept = (one for one in mesh.injections if one.target[1] in known[one.target[0]])

    def is_there(end: Identity) -> bool:
        return end.name in known.get(end.kind, {end.name})

    parts = {
        "functions": functions,
        "injections": ranked(tuple(kept)),
        "services": tuple(service.only(names) for service in mesh.services),
        "policies": tuple(
            one for one in mesh.policies if is_there(one.source) and is_there(one.destination)
        ),
    }
    return mesh.model_copy(update=parts)


class Life(RuleBasedStateMachine):
    """One mesh, from nothing to nothing; ``mesh`` is what it should be."""

    made: ClassVar[list[int]] = []
    """A map of each mesh, by its id: it lives as long as any program that has it."""
    sizes: ClassVar[list[int]] = []
    """Bytes of this process after each."""

    @initialize(count=st.integers(1, 3))
    def begin(self, count: int) -> None:
        """A mesh with a service."""
        netns.create(OWN.name)
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
        netns.remove(OWN.name)
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
        udp=st.sampled_from((60, 120)),
        fate=FATES,
    )
    def up(self, tenants: tuple[str, ...], reject: bool, udp: int, fate: Fate) -> None:
        """Settings, and tenants of functions: any number of them at once."""
        tenant = dict(zip(NAMES, tenants, strict=True))
        moved = tuple(
            f if f.group else f.model_copy(update={"tenant": tenant[f.name]})
            for f in self.mesh.functions
        )
        update = {"reject": reject, "timeouts": Timeouts(udp=udp)}
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

    @invariant()
    def what_must_arrive_arrives(self) -> None:
        if hasattr(self, "open"):
            assert self.shouting.once(self.mesh) == ""

    @invariant()
    def nothing_is_left_over(self) -> None:
        if not hasattr(self, "open"):
            return
        names = self.names()
        links = {path.name for path in Pins("soak").links.iterdir()}
        ends = {f"{name}-{end}" for name in names for end in ("ingress", "egress")}
        assert links - {one.name for one in AT_SOCKETS} == ends
        programs = [*Pins("soak").injected.glob("*")]
        assert len(programs) <= 2 * len(self.mesh.injections)  # each with the one before it
        made = {netns.name_of("soak", name) for name in names - {"guest"}}
        assert {path.name for path in netns.RUN.iterdir()} == made | {OWN.name}
        assert {one.function for one in cgroup.groups(netns.current())} == names
        with netns.rtnetlink() as ip:
            assert {*interface.ours(ip).values()} == {f"soak/{name}" for name in names}
        files = {path.stem for path in (RUN / "soak").iterdir()}
        assert files <= {"record", "hosts", "reserve", "logs"}, files
        assert self.descriptors() == self.open

    def names(self) -> set[str]:
        return {one.name for one in self.mesh.functions}

    def named(self) -> dict[str, set[str]]:
        """What has an id: no other name has, or ids would run out."""
        return {"function": self.names(), "service": {one.name for one in self.mesh.services}}

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


@pytest.mark.timeout(0 if NUMBER else 300)
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
