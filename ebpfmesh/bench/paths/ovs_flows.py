# SPDX-License-Identifier: BSD-2-Clause
"""The flows of the Open vSwitch baseline, as a bundle for ``ovs-ofctl bundle``.

Tables in the shape of Antrea's and OVN's pipelines, which do services and policies in Open vSwitch
itself. A function's packets go to a gateway that is nothing but a MAC address known to the flows.

    0 track     IPv4 through conntrack, which undoes the translation of replies
    1 service   established: to 4. A service's address: its group, which picks an endpoint by a
                hash of the connection (registers END, END_PORT). Otherwise it is the destination
    2 policy    source, endpoint, protocol and port that are allowed; the rest is dropped
    3 endpoint  commit the connection, translated to its endpoint where there is one
    4 route     the two MAC addresses, the TTL, and out at the function's port

IPv4 only, as with the other baselines.
"""

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address

from ebpfmesh.bench.paths.allowed import allowed
from ebpfmesh.bench.topology import Member, address4
from ebpfmesh.model import Mesh, Policy, Service

TRACK, SERVICE, POLICY, ENDPOINT, ROUTE = range(5)
END, END_PORT = "reg3", "reg4"
ZONE = 1
ON = f"resubmit(,{POLICY})"
BASE = (
    f"flow add table={TRACK},priority=1,ip,actions=ct(table={SERVICE},zone={ZONE},nat)",
    f"flow add table={SERVICE},priority=3,ct_state=+trk+est-inv,ip,actions=resubmit(,{ROUTE})",
    f"flow add table={SERVICE},priority=3,ct_state=+trk+rel-inv,ip,actions=resubmit(,{ROUTE})",
    *(
        f"flow add table={SERVICE},priority=1,ct_state=+trk+new-inv,{protocol},actions="
        f"move:NXM_OF_IP_DST[]->NXM_NX_{END.upper()}[],"
        f"move:NXM_OF_{protocol.upper()}_DST[]->NXM_NX_{END_PORT.upper()}[0..15],{ON}"
        for protocol in ("tcp", "udp")
    ),
    f"flow add table={ENDPOINT},priority=1,ip,actions=ct(commit,table={ROUTE},zone={ZONE})",
)


def bundle(
    mesh: Mesh, members: Mapping[str, Member], ports: Mapping[str, int], gateway: str
) -> str:
    """All that a mesh needs, for a switch without flows.

    ``ports`` are the OpenFlow ports of the functions, ``gateway`` the MAC that packets come from.
    """
    routes = (
        f"flow add table={ROUTE},priority=1,ip,nw_dst={member.address},actions="
        f"set_field:{gateway}->eth_src,set_field:{member.mac}->eth_dst,dec_ttl,output:{ports[name]}"
        for name, member in members.items()
    )
    return _text(
        [*BASE, *routes, *_services(mesh), *(f"flow add {one}" for one in _policies(mesh))]
    )


def add_service(mesh: Mesh, service: Service) -> tuple[str, str]:
    """A bundle that adds a service to the flows of ``mesh``, and one that takes it out again."""
    more = mesh.model_copy(update={"services": (*mesh.services, service)})
    return _difference(_services(mesh), _services(more))


def add_rule(mesh: Mesh, rule: Policy) -> tuple[str, str]:
    """The same for a policy."""
    more = mesh.model_copy(update={"policies": (*mesh.policies, rule)})
    old, new = ((f"flow add {one}" for one in _policies(m)) for m in (mesh, more))
    return _difference(old, new)


def _difference(old: Iterable[str], new: Iterable[str]) -> tuple[str, str]:
    """What makes the new of the old, and the old of the new; flows are deleted before groups."""
    there = set(old)
    added = [line for line in new if line not in there]
    gone = [_undone(line) for line in reversed(added)]
    return _text(added), _text(gone)


def _undone(line: str) -> str:
    kind, _, what = line.split(" ", 2)
    if kind == "group":
        return f"group delete {what.partition(',')[0]}"
    return f"flow delete_strict {what.partition(',actions=')[0]}"


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _services(mesh: Mesh) -> Iterator[str]:
    """Groups and flows of all services; an endpoint of several services is there once."""
    addresses = {function.name: address4(function) for function in mesh.functions}
    lines: dict[str, None] = {}
    for number, service in enumerate(mesh.services, 1):
        lines |= dict.fromkeys(_service(number, service, addresses))
    yield from lines


def _service(number: int, service: Service, addresses: Mapping[str, IPv4Address]) -> Iterator[str]:
    ends = [addresses[name] for name in service.functions]
    port, protocol = service.target_port, service.protocol
    buckets = ",".join(
        f"bucket=actions=set_field:{int(end):#x}->{END},set_field:{port}->{END_PORT},{ON}"
        for end in ends
    )
    yield f"group add group_id={number},type=select,{buckets}"
    yield (
        f"flow add table={SERVICE},priority=2,ct_state=+trk+new-inv,{protocol},"
        f"nw_dst={service.address4},tp_dst={service.port},actions=group:{number}"
    )
    for end in ends:
        yield (
            f"flow add table={ENDPOINT},priority=2,{protocol},{END}={int(end):#x},"
            f"{END_PORT}={port},actions=ct(commit,table={ROUTE},zone={ZONE},nat(dst={end}:{port}))"
        )


def _policies(mesh: Mesh) -> Iterator[str]:
    """Flows of all policies, without ``flow add``; what several allow is there once."""
    yield from dict.fromkeys(
        f"table={POLICY},priority=1,{one.protocol},nw_src={one.source},"
        f"{END}={int(end):#x},{END_PORT}={one.port},actions=resubmit(,{ENDPOINT})"
        for one in allowed(mesh)
        for end in one.functions
    )
