# SPDX-License-Identifier: BSD-2-Clause
"""Whether a mesh that is up is what its model says: its programs are asked, its maps are read.

No packet is sent: ``observe.dryrun`` runs the programs on the first packet of each possible flow.
"""

from collections.abc import Iterator
from contextlib import closing

from ebpfmesh import apply
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Function, Mesh, Service
from ebpfmesh.observe import dryrun, health
from ebpfmesh.observe.dryrun import Party
from ebpfmesh.observe.view import View, left, opened
from ebpfmesh.state import audit
from ebpfmesh.state.record import Record
from support.policy import decide

PORT = 80


def disagreements(mesh: Mesh) -> list[str]:
    """What is another than the model says: operations, maps, flows that pass or do not."""
    found = [step.describe() for step in apply.plan(mesh)]
    with closing(Record(mesh.name)) as record:
        found += audit.differences(Maps(Pins(mesh.name)), record)
    with opened(mesh.name) as view:
        return found + list(_flows(view, mesh))


def is_well(mesh: str) -> bool:
    """Whether doctor finds nothing missing of a mesh, be it that there is none."""
    checks = health.check(mesh) if mesh in left() else ()
    return all(check.status != "missing" for check in checks)


def _flows(view: View, mesh: Mesh) -> Iterator[str]:
    parties = {row.function.name: Party(function=row) for row in view.functions}
    parties |= {row.name: Party(remote=row) for row in view.remotes}
    for source in (*mesh.functions, None):
        sender = parties[source.name] if source else Party()
        for function in (*mesh.functions, *(beyond(mesh) if source else ())):
            if function is not source:
                yield from _direct(view, mesh, (source, sender), parties[function.name], function)
        for service in mesh.backed if source else ():
            yield from _served(view, mesh, (source, sender), service)
    for remote in beyond(mesh):
        for function in mesh.functions:
            source = (remote, parties[remote.name])
            yield from _direct(view, mesh, source, parties[function.name], function)


def beyond(mesh: Mesh) -> tuple[Function, ...]:
    """Its remotes, as functions that rules are about."""
    keys = {"name", "tenant", "address4", "address6"}
    return tuple(Function(**one.model_dump(include=keys)) for one in mesh.remotes)


def _direct(
    view: View, mesh: Mesh, source: tuple[Function | None, Party], receiver: Party,
    function: Function,
) -> Iterator[str]:  # fmt: skip
    wanted = decide(mesh, source[0], function, None, "tcp", PORT).action
    got = dryrun.ask(view, source[1], receiver, protocol="tcp", port=PORT)
    if not _same(wanted, got):
        yield f"{source[1]} → {receiver}: {got.verdict} {got.reason}, not {wanted}"


def _served(
    view: View, mesh: Mesh, source: tuple[Function | None, Party], service: Service
) -> Iterator[str]:
    got = dryrun.ask(view, source[1], Party(service=service))
    takes = {name for name, weight in service.backends.items() if weight}
    what = f"{source[1]} → service {service.name}: {got.verdict} {got.reason} {got.receiver}"
    if not takes:
        if got.reason != "NO_BACKEND":
            yield f"{what}, but nobody is behind it"
        return
    if got.receiver not in takes:
        yield f"{what}, not one of {takes}"
        return
    receiver = next(o for o in (*mesh.functions, *beyond(mesh)) if o.name == got.receiver)
    wanted = decide(mesh, source[0], receiver, service, service.protocol, service.port).action
    if not _same(wanted, got):
        yield f"{what}, not {wanted}"


def _same(wanted: str, got: dryrun.Answer) -> bool:
    """Whether the programs do what the rules say; what is audited passes, told as denied."""
    if got.audited:
        return wanted != "allow"
    return {"pass": "allow", "drop": "reject" if got.rejected else "deny"}[got.verdict] == wanted
