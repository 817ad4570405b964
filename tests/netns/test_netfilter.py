# SPDX-License-Identifier: BSD-2-Clause
"""Rules that the tools themselves made: which of them would have met packets of the mesh."""

import subprocess
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from ebpfmesh.observe.netfilter import Ours, rules
from support.topology import needs, unavailable

OURS = Ours(
    addresses=frozenset(map(ip_address, ("198.18.0.1", "198.18.0.2", "2001:db8::1"))),
    interfaces=frozenset({"em1234.1", "em1234.2"}),
)
NFT = """
table inet guard {
    set far { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.0.2.7 }; }
    set near { type ipv4_addr; flags interval; elements = { 198.18.0.0-198.18.0.9 }; }
    map doors { type ipv4_addr : verdict; elements = { 198.18.0.1 : jump mapped }; }
    chain forward {
        type filter hook forward priority 0; policy drop;
        ct state established,related accept
        ip saddr @far drop
        ip saddr @near tcp dport 25 drop
        iifname "docker*" accept
        ip daddr vmap @doors
        oifname { "em1234.1", "eth7" } goto near
        iifname "eth7" jump never
    }
    chain near { ip6 saddr 2001:db8::/64 drop; }
    chain never { drop; }
    chain mapped { udp dport 53 limit rate 5/second accept; }
    chain input { type filter hook input priority 0; drop; }
}
table ip6 nat {
    chain prerouting { type nat hook prerouting priority -100; tcp dport 80 dnat to 2001:db8::9; }
}
"""


def run(*words: str, stdin: str = "") -> None:
    subprocess.run(words, input=stdin, check=True, capture_output=True, text=True)


@pytest.fixture(autouse=True)
def _no_rules() -> Iterator[None]:
    needs("nft", "iptables-nft")
    yield
    run("nft", "flush", "ruleset")


def test_a_host_without_rules() -> None:
    assert rules(OURS) == []


def test_rules_of_nftables() -> None:
    run("nft", "-f", "-", stdin=NFT)
    assert set(rules(OURS)) == {
        "inet guard forward: ct state established,related accept",
        "inet guard forward: ip saddr @near tcp dport 25 drop",
        "inet guard forward: policy drop",
        "inet guard near: ip6 saddr 2001:db8::/64 drop",
        "inet guard mapped: udp dport 53 limit rate 5/second accept",
        "ip6 nat prerouting: tcp dport 80 dnat to 2001:db8::9",
    }


def test_rules_of_iptables_nft() -> None:
    for words in (
        ("FORWARD", "-s", "198.18.0.0/15", "-i", "em+", "-m", "conntrack", "--ctstate", "NEW"),
        ("FORWARD", "-s", "10.0.0.0/8"),
        ("FORWARD", "-o", "docker0"),
        ("INPUT",),
    ):
        run("iptables-nft", "-A", *words, "-j", "DROP")
    (found,) = rules(OURS)
    assert found.startswith("ip filter FORWARD: ")
    assert "198.18.0.0/15" in found


def test_rules_of_legacy_iptables() -> None:
    needs("iptables-legacy")
    probe = subprocess.run(["iptables-legacy", "-L"], capture_output=True, check=False)
    if probe.returncode != 0:
        unavailable("the kernel has no legacy iptables")
    try:
        run("iptables-legacy", "-A", "FORWARD", "-s", "198.18.0.1", "-j", "DROP")
        run("iptables-legacy", "-A", "FORWARD", "-s", "198.18.0.7", "-j", "DROP")
        run("iptables-legacy", "-t", "nat", "-A", "PREROUTING", "-i", "eth7", "-j", "ACCEPT")
        assert rules(OURS) == ["ip filter FORWARD: -s 198.18.0.1/32 -j DROP"]
    finally:
        for table in ("filter", "nat"):
            run("iptables-legacy", "-t", table, "-F")


def test_looking_makes_no_table() -> None:
    names = Path("/proc/thread-self/net/ip_tables_names")
    before = names.read_text() if names.exists() else ""
    rules(OURS)
    assert (names.read_text() if names.exists() else "") == before
