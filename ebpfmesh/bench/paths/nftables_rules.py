# SPDX-License-Identifier: BSD-2-Clause
"""The rules of the nftables baseline, as commands for ``nft -f``.

Services as kube-proxy's nftables mode has them (kubernetes, pkg/proxy/nftables): one map from
address, protocol and port to the service's chain, which picks an endpoint's chain at random by a
verdict map, which does the DNAT. Left out, in the baseline's favour, as with iptables: masquerading
and its marks, node ports, comments, and the checks of new connections for services without
endpoints, of source ranges and of cluster addresses.

Policies in a table of their own, as whoever does network policy beside kube-proxy has to: a
forward chain that drops by default, accepts established connections first, and then what is in a
set of source, destination, protocol and port. An allowed service is an element for each backend.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address

from ebpfmesh.bench.paths.allowed import allowed
from ebpfmesh.bench.topology import address4
from ebpfmesh.model import Mesh, Policy, Service

CHUNK = 2000
"""Services of one transaction."""
NAT, POLICY = "ip kube-proxy", "ip network-policy"
BASE = f"""\
add table {NAT}
add map {NAT} service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict ; }}
add chain {NAT} services
add rule {NAT} services ip daddr . meta l4proto . th dport vmap @service-ips
add chain {NAT} nat-prerouting {{ type nat hook prerouting priority -100 ; }}
add rule {NAT} nat-prerouting jump services
add chain {NAT} nat-output {{ type nat hook output priority -100 ; }}
add rule {NAT} nat-output jump services
add table {POLICY}
add set {POLICY} allowed {{ type ipv4_addr . ipv4_addr . inet_proto . inet_service ; }}
add chain {POLICY} forward {{ type filter hook forward priority 0 ; policy drop ; }}
add rule {POLICY} forward ct state established,related accept
add rule {POLICY} forward ip saddr . ip daddr . meta l4proto . th dport @allowed accept
"""


def transactions(mesh: Mesh) -> Iterator[str]:
    """All that a mesh needs, for an empty ruleset: each text is for one ``nft -f``, in order.

    One would do, but for each anonymous map the kernel walks through all that its transaction has
    done (nft_set_trans_bind of Linux 6.18): a minute at 10 000 services.
    """
    addresses = _addresses(mesh)
    ends = (line for service in mesh.services for line in _endpoints(addresses, service))
    yield BASE + _text(ends) + _text(_policy_lines("add", _elements(mesh)))
    for first in range(0, len(mesh.services), CHUNK):
        part = mesh.services[first : first + CHUNK]
        yield _text(line for service in part for line in _front_lines(service))


def add_service(mesh: Mesh, service: Service) -> tuple[str, str]:
    """Commands that add a service to the rules of ``mesh``, and that take it out again."""
    do = _service(_addresses(mesh), service)
    undo = [f"delete element {NAT} service-ips {{ {_front(service)} }}"]
    # The service's own chain first: it leads to the others, and one that is led to stays.
    for chain in _chains(service):
        undo += [f"flush chain {NAT} {chain}", f"delete chain {NAT} {chain}"]
    return _text(do), _text(undo)


def add_rule(mesh: Mesh, rule: Policy) -> tuple[str, str]:
    """The same for a policy."""
    more = mesh.model_copy(update={"policies": (*mesh.policies, rule)})
    old = set(_elements(mesh))
    new = [element for element in _elements(more) if element not in old]
    return _text(_policy_lines("add", new)), _text(_policy_lines("delete", new))


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _addresses(mesh: Mesh) -> dict[str, IPv4Address]:
    return {function.name: address4(function) for function in mesh.functions}


def _elements(mesh: Mesh) -> Iterator[str]:
    """Elements of the set of what is allowed; what several policies allow is there once."""
    yield from dict.fromkeys(
        f"{one.source} . {end} . {one.protocol} . {one.port}"
        for one in allowed(mesh)
        for end in one.functions
    )


def _policy_lines(verb: str, elements: Iterable[str]) -> Iterator[str]:
    for element in elements:
        yield f"{verb} element {POLICY} allowed {{ {element} }}"


def _front(service: Service) -> str:
    return f"{service.address4} . {service.protocol} . {service.port}"


def _chains(service: Service) -> list[str]:
    """Names of the service's chain and of its endpoints', unique and readable as kube-proxy's."""
    whole = f"{service.name}/{service.protocol}"
    ends = [f"{whole}__{backend}/{service.target_port}" for backend in service.functions]
    return [f"service-{_hash(whole)}-{whole}", *(f"endpoint-{_hash(end)}-{end}" for end in ends)]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8].upper()


def _service(addresses: Mapping[str, IPv4Address], service: Service) -> Iterator[str]:
    yield from _endpoints(addresses, service)
    yield from _front_lines(service)


def _endpoints(addresses: Mapping[str, IPv4Address], service: Service) -> Iterator[str]:
    _, *ends = _chains(service)
    for end, backend in zip(ends, service.functions, strict=True):
        address = f"{addresses[backend]}:{service.target_port}"
        yield f"add chain {NAT} {end}"
        yield f"add rule {NAT} {end} meta l4proto {service.protocol} dnat to {address}"


def _front_lines(service: Service) -> Iterator[str]:
    chain, *ends = _chains(service)
    choices = ", ".join(f"{number} : goto {end}" for number, end in enumerate(ends))
    yield f"add chain {NAT} {chain}"
    yield f"add rule {NAT} {chain} numgen random mod {len(ends)} vmap {{ {choices} }}"
    yield f"add element {NAT} service-ips {{ {_front(service)} : goto {chain} }}"
