# SPDX-License-Identifier: BSD-2-Clause
"""Rules of the host that traffic between functions bypasses, and would match in its stack.

Those of nftables (iptables-nft has its own there) and of legacy iptables, in what is reachable
from the hooks of forwarded packets. A rule is left out only where one of its matches on address or
interface excludes all that the mesh has; whatever else it matches is assumed to match.
"""

import json
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from ebpfmesh.errors import CommandFailed
from ebpfmesh.model import Address

HOOKS = ("ingress", "prerouting", "forward", "postrouting", "egress")
LEGACY = (
    ("ip", "ip_tables_names", "iptables-legacy-save"),
    ("ip6", "ip6_tables_names", "ip6tables-legacy-save"),
)
Span = tuple[Address, Address]


@dataclass(frozen=True)
class Ours:
    """What packets of the mesh can have: addresses of both ends, interfaces of the host's side."""

    addresses: frozenset[Address]
    interfaces: frozenset[str]

    def has_family(self, family: str) -> bool:
        """Whether a table of this family sees any of our packets."""
        versions = {"ip": 4, "ip6": 6}
        wanted = versions.get(family)
        return wanted is None or any(address.version == wanted for address in self.addresses)


@dataclass(frozen=True)
class Match:
    """A match on address or interface: one of ``spans`` or ``names``, or with ``negated`` none."""

    spans: tuple[Span, ...] = ()
    names: tuple[str, ...] = ()
    negated: bool = False

    def can(self, ours: Ours) -> bool:
        """Whether it holds for something that packets of the mesh have."""
        if self.names:
            found = (any(fnmatchcase(i, n) for n in self.names) for i in ours.interfaces)
        else:
            found = (_within(address, self.spans) for address in ours.addresses)
        return any(one != self.negated for one in found)


@dataclass(frozen=True)
class Rule:
    """A rule as its own tool prints it, with the chains it goes on to."""

    text: str
    matches: tuple[Match, ...] = ()
    targets: tuple[str, ...] = ()


@dataclass
class Chain:
    """A chain; ``hooked``: packets come to it by themselves; ``policy`` holds at its end."""

    family: str
    table: str
    name: str
    hooked: bool = False
    policy: str = ""
    devices: tuple[str, ...] = ()
    rules: list[Rule] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.name}"


def _within(address: Address, spans: Iterable[Span]) -> bool:
    return any(
        first.version == address.version and int(first) <= int(address) <= int(last)
        for first, last in spans
    )


def rules(ours: Ours) -> list[str]:
    """All such rules of this network namespace, each with its chain, as text."""
    found = [*nftables(), *legacy()]
    return [line for chains in found for line in matching(chains, ours)]


def matching(chains: list[Chain], ours: Ours) -> Iterator[str]:
    """The rules of one table that packets of the mesh could match."""
    by_name = {chain.name: chain for chain in chains}
    todo = [chain for chain in chains if chain.hooked and _comes_to(chain, ours)]
    seen = {chain.name for chain in todo}
    while todo:
        chain = todo.pop(0)
        for rule in chain.rules:
            if not all(match.can(ours) for match in rule.matches):
                continue
            if not rule.targets:
                yield f"{chain}: {rule.text}"
            new = [by_name[name] for name in rule.targets if name in by_name and name not in seen]
            seen.update(found.name for found in new)
            todo += new
        if chain.policy.lower() == "drop":
            yield f"{chain}: policy drop"


def _comes_to(chain: Chain, ours: Ours) -> bool:
    devices = not chain.devices or bool(ours.interfaces.intersection(chain.devices))
    return devices and ours.has_family(chain.family)


def nftables() -> list[list[Chain]]:
    """Chains of every nftables table."""
    if shutil.which("nft") is None:
        return []
    rows: list[dict[str, Any]] = json.loads(_output("nft", "-j", "list", "ruleset"))["nftables"]
    texts = _texts(_output("nft", "-a", "list", "ruleset"))
    tables: dict[tuple[str, str], dict[str, Chain]] = {}
    sets = {
        (row["family"], row["table"], row["name"]): row.get("elem", [])
        for kind in ("set", "map")
        for entry in rows
        if (row := entry.get(kind))
    }
    for entry in rows:
        if row := entry.get("chain"):
            chain = Chain(
                row["family"], row["table"], row["name"],
                hooked=row.get("hook") in HOOKS, policy=row.get("policy", ""),
                devices=tuple(_listed(row.get("dev", []))),
            )  # fmt: skip
            tables.setdefault((row["family"], row["table"]), {})[row["name"]] = chain
    for entry in rows:
        if row := entry.get("rule"):
            where = row["family"], row["table"]
            named = {name: value for (*table, name), value in sets.items() if (*table,) == where}
            text = texts.get((*where, row["handle"]), json.dumps(row["expr"]))
            tables[where][row["chain"]].rules.append(nft_rule(row["expr"], named, text))
    return [list(chains.values()) for chains in tables.values()]


def _texts(listing: str) -> dict[tuple[str, str, int], str]:
    """Rules as nft writes them, by family, table and handle."""
    found, family, table = {}, "", ""
    for line in listing.splitlines():
        text, _, handle = line.strip().rpartition(" # handle ")
        words = text.split()
        if words[:1] == ["table"]:
            family, table = words[1:3]
        elif handle.isdigit() and not text.endswith("{"):
            found[family, table, int(handle)] = " ".join(words)
    return found


def nft_rule(expressions: list[dict[str, Any]], sets: dict[str, Any], text: str) -> Rule:
    """A rule of nftables from its JSON (libnftables-json(5))."""
    matches = (_nft_match(e["match"], sets) for e in expressions if "match" in e)
    targets = set(_targets(expressions, sets))
    return Rule(text, tuple(match for match in matches if match), tuple(sorted(targets)))


def _nft_match(match: dict[str, Any], sets: dict[str, Any]) -> Match | None:
    """A match on address or interface; None if it is about something else, or not clear."""
    if match["op"] not in ("==", "!=", "in") or not isinstance(match["left"], dict):
        return None
    payload, meta = match["left"].get("payload", {}), match["left"].get("meta", {})
    about_address = payload.get("protocol") in ("ip", "ip6")
    about_address &= payload.get("field") in ("saddr", "daddr")
    about_interface = meta.get("key") in ("iif", "oif", "iifname", "oifname")
    right, negated = match["right"], match["op"] == "!="
    if isinstance(right, str) and right.startswith("@"):
        right = sets.get(right[1:], [])
    values = _listed(right.get("set", right) if isinstance(right, dict) else right)
    if not values:  # an empty set: it may be filled any time
        return None
    try:
        if about_address:
            return Match(spans=tuple(map(_span, values)), negated=negated)
        if about_interface:
            return Match(names=tuple(map(_name, values)), negated=negated)
    except (KeyError, TypeError, ValueError):
        return None
    return None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _span(value: Any) -> Span:
    """First and last address of an element, a prefix, a range or an address; else ValueError."""
    if isinstance(value, dict) and "elem" in value:
        value = value["elem"]["val"]
    if isinstance(value, dict) and "prefix" in value:
        network = ip_network(f"{value['prefix']['addr']}/{value['prefix']['len']}", strict=False)
        return network[0], network[-1]
    if isinstance(value, dict):
        first, last = value["range"]
        return ip_address(first), ip_address(last)
    return ip_address(value), ip_address(value)


def _name(value: Any) -> str:
    if isinstance(value, dict):
        value = value["elem"]["val"]
    if not isinstance(value, str):
        raise TypeError
    return value


def _targets(part: Any, sets: dict[str, Any]) -> Iterator[str]:
    """Chains that something in a rule jumps or goes to, verdict maps included."""
    if isinstance(part, list):
        for one in part:
            yield from _targets(one, sets)
    elif isinstance(part, dict):
        for key, value in part.items():
            if key in ("jump", "goto"):
                yield value["target"]
            elif key == "vmap" and isinstance(value["data"], str):
                yield from _targets(sets.get(value["data"].removeprefix("@"), []), {})
            else:
                yield from _targets(value, sets)


def legacy() -> list[list[Chain]]:
    """Chains of every table of legacy iptables that is there; none is made by looking."""
    found = []
    for family, names, save in LEGACY:
        if _has_lines(Path("/proc/net") / names) and shutil.which(save):
            found += saved(family, _output(save))
    return found


def _has_lines(path: Path) -> bool:
    try:
        return bool(path.read_text().strip())
    except OSError:
        return False


def saved(family: str, text: str) -> list[list[Chain]]:
    """Chains of each table in what iptables-save prints."""
    tables: dict[str, dict[str, Chain]] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            name, policy, *_ = line[1:].split()
            hooked = name.lower() in HOOKS
            chain = Chain(family, table, name, hooked, "" if policy == "-" else policy)
            tables.setdefault(table, {})[name] = chain
        elif line.startswith("-A "):
            words = shlex.split(line)
            rule = _legacy_rule(words[2:], set(tables[table]))
            tables[table][words[1]].rules.append(rule)
    return [list(chains.values()) for chains in tables.values()]


def _legacy_rule(words: list[str], chains: set[str]) -> Rule:
    matches, targets, negated = [], [], False
    for option, value in zip(words, [*words[1:], ""], strict=True):
        if option in ("-s", "-d"):
            network = ip_network(value, strict=False)
            matches.append(Match(spans=((network[0], network[-1]),), negated=negated))
        elif option in ("-i", "-o"):
            name = f"{value[:-1]}*" if value.endswith("+") else value
            matches.append(Match(names=(name,), negated=negated))
        elif option in ("-j", "-g") and value in chains:
            targets.append(value)
        negated = option == "!"
    return Rule(" ".join(words), tuple(matches), tuple(targets))


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        what = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[0]
        raise CommandFailed(f"{' '.join(command)}: {what}", hint="run it by hand to see more")
    return done.stdout
