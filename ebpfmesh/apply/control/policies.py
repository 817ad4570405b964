# SPDX-License-Identifier: BSD-2-Clause
"""Rules in the maps: an entry for each prefix of their ports, and prefixes of the outside."""

from collections.abc import Iterable
from typing import cast

from ebpfmesh import _abi
from ebpfmesh.apply.control.config import DEPTHS, Config
from ebpfmesh.kernel.keys import PROTOCOL, prefix_key
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.prefixes import block_of
from ebpfmesh.model import Action, Identity, Policy
from ebpfmesh.state.tables import Entry, Kind
from ebpfmesh.state.writer import Writer

_IDENTITY = {
    "any": _abi.Identity.ANY,
    "function": _abi.Identity.FUNCTION,
    "tenant": _abi.Identity.TENANT,
    "service": _abi.Identity.SERVICE,
    "outside": _abi.Identity.OUTSIDE,
    "prefix": _abi.Identity.PREFIX,
    "group": _abi.Identity.GROUP,
}
_ACTION: dict[Action, int] = {
    "deny": _abi.Action.DENY,
    "reject": _abi.Action.REJECT,
    "allow": _abi.Action.ALLOW,
}
_SOURCE = {
    "function": _abi.ShapeSource.SELF,
    "outside": _abi.ShapeSource.SELF,
    "tenant": _abi.ShapeSource.TENANT,
    "any": _abi.ShapeSource.ANY,
    "prefix": _abi.ShapeSource.PREFIX,
    "group": _abi.ShapeSource.GROUP,
}
_DESTINATION = {
    "function": _abi.ShapeDestination.SELF,
    "outside": _abi.ShapeDestination.SELF,
    "tenant": _abi.ShapeDestination.TENANT,
    "service": _abi.ShapeDestination.SERVICE,
    "any": _abi.ShapeDestination.ANY,
    "prefix": _abi.ShapeDestination.PREFIX,
    "group": _abi.ShapeDestination.GROUP,
}


class Policies:
    """The rules of one mesh."""

    def __init__(self, maps: Maps, record: Writer, config: Config) -> None:
        self._maps = maps
        self._record = record
        self._config = config

    def set(self, policy: Policy) -> None:
        """Write a rule, over the one with the same match if there is one."""
        entries = self._entries(policy)
        self._record.put_policy(policy, entries)
        self._config.look_deeper(0, entries)
        for entry in entries:
            self._write_strongest(entry.key)

    def remove(self, policy: Policy) -> None:
        """Take a rule out; the next strongest takes its place. Twice is fine."""
        number = self._record.policy_id(policy)
        if number is not None:
            for key in self._record.entries(number):
                self._write_strongest(key, without=number)
            self._record.delete_policy(policy)
        for identity in (policy.source, policy.destination):
            if identity.prefix and not self._record.names_policy(identity):
                self._forget_prefix(identity.name)

    def _write_strongest(self, raw: bytes, *, without: int = 0) -> None:
        """Have a key of mesh_policy say what the strongest of its rules does."""
        key = _abi.PolicyKey.from_buffer_copy(raw)
        found = self._record.strongest(raw, without=without)
        if found is None:
            self._maps["mesh_policy"].delete(key)
            return
        strength, number = found
        priority, action = divmod(strength, len(_abi.Action))
        value = _abi.Policy(rule=number, priority=priority, action=action)
        self._maps["mesh_policy"].set(key, value)

    def _entries(self, policy: Policy) -> list[Entry]:
        """Entries of a rule in mesh_policy: one for each prefix of its ports."""
        both = (policy.source, policy.destination)
        for kind in ("function", "tenant"):
            self._config.make_room(kind, *(end.name for end in both if end.kind == kind))
        ends = {
            "source": self._identity(policy.source),
            "destination": self._identity(policy.destination),
        }
        source, destination = _SOURCE[_kind(policy.source)], _DESTINATION[_kind(policy.destination)]
        shape = source * _abi.ShapeDestination.MESH_SHAPE_DESTINATIONS + destination
        entries = []
        for port, bits in policy.prefixes:
            depth = bits + 1 if policy.protocol != "any" else 0
            protocol = PROTOCOL[policy.protocol]
            key = _abi.PolicyKey(**ends, port=port, protocol=protocol, depth=depth)
            strength = policy.priority * len(_abi.Action) + _ACTION[policy.action]
            entries.append(Entry(bytes(key), strength, shape * DEPTHS + depth))
        return entries

    def _identity(self, identity: Identity) -> int:
        kind = _kind(identity)
        number = _IDENTITY[kind] << 24
        if not identity.name:  # any, outside
            return number
        if kind == "prefix":
            return number | self._prefix(identity.name)
        return number | self._record.id_of(cast(Kind, kind), identity.name)

    def _prefix(self, name: str) -> int:
        """The id of a prefix of the outside; from now on the programs know it."""
        number = self._record.find_id("prefix", name)
        if number is None:
            number = self._record.put_prefix(name)
            self._write_prefixes([name, *self._record.prefixes_inside(block_of(name))])
        return number

    def _forget_prefix(self, name: str) -> None:
        if self._record.find_id("prefix", name) is not None:
            self._record.delete_prefix(name)
            self._write_prefixes(self._record.prefixes_inside(block_of(name)))
            self._maps["mesh_prefix"].delete(prefix_key(name))

    def _write_prefixes(self, names: Iterable[str]) -> None:
        """Write prefixes with the next wider one of each, which must be there."""
        for name in names:
            around = self._record.prefixes_around(block_of(name))
            wider = block_of(around[0]).length + 1 if around else 0
            row = _abi.Prefix(id=self._record.id_of("prefix", name), wider=wider)
            self._maps["mesh_prefix"].set(prefix_key(name), row)

    def resync(self) -> None:
        """Make all that the maps say of rules exactly what the record does."""
        policies = [policy for _, policy in self._record.policies()]
        ends = (identity for policy in policies for identity in (policy.source, policy.destination))
        names = {identity.name for identity in ends if identity.prefix}
        keys = {bytes(prefix_key(name)) for name in names}
        for prefix, _ in list(self._maps["mesh_prefix"].items()):
            if bytes(prefix) not in keys:
                self._maps["mesh_prefix"].delete(prefix)
        for name in self._record.names("prefix").values():
            if name not in names:
                self._record.delete_prefix(name)
        for name in names:
            self._record.put_prefix(name)
        self._write_prefixes(sorted(names, key=block_of))
        for policy in policies:
            self._record.put_policy(policy, self._entries(policy))
        known = {entry.key for policy in policies for entry in self._entries(policy)}
        for key, _ in list(self._maps["mesh_policy"].items()):
            if bytes(key) not in known:
                self._maps["mesh_policy"].delete(key)
        for raw in known:
            self._write_strongest(raw)


def _kind(identity: Identity) -> str:
    """The kind of an identity, as the maps have it."""
    return "prefix" if identity.prefix else identity.kind
