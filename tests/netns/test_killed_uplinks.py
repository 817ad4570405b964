# SPDX-License-Identifier: BSD-2-Clause
"""Killed at each step: commands about uplinks, and `down`, of a mesh that has all there is.

Uplinks, a remote, a deny list, packet functions, a port and a pool: the next `up`, `gc` or `down`
makes it good, and nothing stays at interfaces that stay.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from ebpfmesh import apply
from ebpfmesh.config import edit
from ebpfmesh.errors import MeshError
from ebpfmesh.model import Mesh
from support.agreeing import disagreements, is_well
from support.everything import DENIED, at_uplinks, everything
from support.killing import killed_at, steps_of
from support.outside import beyond, sysctl
from support.topology import collected, leftovers, poll

NAME = "killeduplinks"
State = tuple[Mesh, int, set[str]]
Change = Callable[[apply.OnStep], object]


@pytest.fixture(scope="module", autouse=True)
def _outside() -> Iterator[None]:
    sysctl("net.ipv4.conf.lo.forwarding=1", "net.ipv6.conf.lo.forwarding=1")
    with beyond(0), beyond(1), beyond(2):
        yield


def deny(on_step: apply.OnStep) -> object:
    return apply.deny(NAME, DENIED, on_step=on_step)


def deny_no_more(on_step: apply.OnStep) -> object:
    return apply.allow(NAME, None, on_step=on_step)


def attach(on_step: apply.OnStep) -> object:
    return apply.attach_uplink(NAME, "u2", "up2", masquerade=True, xdp="native", on_step=on_step)


def detach(on_step: apply.OnStep) -> object:
    return apply.detach_uplink(NAME, "u2", on_step)


def add_remote(on_step: apply.OnStep) -> object:
    add = lambda mesh: edit.add_remote(  # noqa: E731
        mesh, "more", addresses=["198.19.210.2"], uplink="u0", tenant="far"
    )
    return apply.edit(NAME, add, on_step)


def delete_remote(on_step: apply.OnStep) -> object:
    return apply.edit(NAME, lambda mesh: edit.delete_remote(mesh, "more"), on_step)


PAIRS: dict[str, tuple[Change, Change]] = {
    "deny": (deny, deny_no_more),
    "attach --uplink": (attach, detach),
    "remote": (add_remote, delete_remote),
}


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    found = everything(NAME)
    apply.up(found)
    for do, undo in PAIRS.values():  # programs that are loaded once stay
        do(lambda _: None)
        undo(lambda _: None)
    yield found
    apply.down(NAME)


def now() -> State:
    """What the mesh is, how much is denied, and what there is."""
    with apply.opened(NAME) as live:
        return live.record.model(), len(live.record.denied()), leftovers() | at_uplinks()


@pytest.mark.usefixtures("mesh")
@pytest.mark.parametrize("command", PAIRS)
def test_a_command_is_killed_at_each_step(command: str) -> None:
    """It is undone by what comes next, be it gc or the same again; so is its contrary."""
    do, undo = PAIRS[command]
    before = now()
    do(lambda _: None)
    after = now()
    assert after[:2] != before[:2]
    killed(undo, do, after, before)
    killed(do, undo, before, after)
    undo(lambda _: None)


def again(change: Change) -> None:
    """Give a command again; one that was killed late may have done it all."""
    with suppress(MeshError):  # "there is one already", "there is none"
        change(lambda _: None)


def killed(change: Change, back: Change, old: State, new: State) -> None:
    """Kill a change at each step, from all as it was before; then it is made whole, and done."""
    again(back)
    steps = steps_of(change)
    for number, step in enumerate(steps):
        again(back)
        assert killed_at(number, change), step
        well = is_well(NAME)
        if number % 2 or step == steps[-1]:
            assert bool(collected(NAME)) != well, step
            assert is_well(NAME), step
            assert poll(lambda: now() in (old, new)), (step, now()[2] ^ old[2])
        again(change)
        assert poll(lambda: now() == new), (step, now()[2] ^ new[2])
        assert disagreements(new[0]) == [], step


def test_down_is_killed_at_each_step(mesh: Mesh) -> None:
    """Down again, or gc, or up: nothing of it stays at the interfaces of the host."""
    apply.down(NAME)
    nothing = leftovers() | at_uplinks()
    apply.up(mesh)
    deny(lambda _: None)
    steps = steps_of(lambda on_step: apply.down(NAME, on_step))
    assert poll(lambda: leftovers() | at_uplinks() == nothing)
    for number, step in enumerate(steps):
        apply.up(mesh)
        deny(lambda _: None)
        attach(lambda _: None)
        assert killed_at(number, lambda on_step: apply.down(NAME, on_step)), step
        if number % 3 == 0:
            apply.up(mesh)
            assert disagreements(mesh) == [], step
            apply.down(NAME)
        elif number % 3 == 1 and step != "record":
            apply.gc()
        else:
            apply.down(NAME)
        assert poll(lambda: leftovers() | at_uplinks() == nothing), step
