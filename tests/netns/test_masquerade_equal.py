# SPDX-License-Identifier: BSD-2-Clause
"""Beside iptables: what leaves by an uplink that masquerades, and what comes back, is the same.

own ─┬─ the mesh ──────────────────────────────┬─ out0: nobody there says anything by himself
     └─ a host that forwards, with MASQUERADE ─┴─ out1

The same packets are written into both; what comes out is compared whole, but for the port (or the
identifier of an echo) that either has chosen.
"""

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from ebpfmesh.kernel import interface, netns
from ebpfmesh.model import Mesh
from support.meshes import function, mesh_file, table
from support.mute import mute
from support.outside import batch, delete, forward, namespaces, sysctl
from support.packets import Peer, built, error, ping, pong, tcp, udp
from support.sockets import SECONDS, frames, home
from support.topology import mesh_of, running

MESH = mesh_file(
    "equal",
    function("own", address=["198.18.7.1", "2001:db8::7:1"]),
    table("uplink", name="u0", interface="equal0", masquerade=True),
)
OWN = Peer("own", "198.18.7.1", "")
HOST, PEER, ROUTER = (Peer(f".{n}", f"198.19.210.{n}", "") for n in (1, 2, 3))
MACS = [f"02:00:00:00:02:{number:02x}" for number in range(4)]
OUTSIDE = """
link add equal{n} type veth peer name eth0 netns equal-out{n}
link set equal{n} up address {host}
addr add 198.19.210.1/24 dev equal{n}
neigh add 198.19.210.2 lladdr {peer} dev equal{n} nud permanent
neigh add 198.19.210.3 lladdr {peer} dev equal{n} nud permanent
"""
INSIDE = """
link set lo up
link add own type veth peer name eth0 netns equal-own
link set own up address {gateway}
route add 198.18.7.1 dev own
neigh add 198.18.7.1 lladdr {own} dev own nud permanent
"""
PORTS = "--to-ports 61000-65535"
RULES = f"""*nat
-A POSTROUTING -o equal1 -p tcp -j MASQUERADE {PORTS}
-A POSTROUTING -o equal1 -p udp -j MASQUERADE {PORTS}
-A POSTROUTING -o equal1 -p icmp -j MASQUERADE
COMMIT
"""
NOBODY = Mesh(name="nobody")
HIDDEN = 4242
"""In the place of a port that was chosen."""


@dataclass
class World:
    """Who is on either side, and what is heard there of what is said on the other."""

    own: tuple[Path, str, str]
    """The function's namespace, its MAC, and to which it sends."""
    out: tuple[Path, str, str]

    def leaves(self, packet: Packet) -> Packet:
        """What comes out of what the function sends."""
        place, mac, gateway = self.own
        return self._passed(place, Ether(src=mac, dst=gateway) / packet, self.out[0])

    def arrives(self, packet: Packet) -> Packet:
        """What the function gets of what comes in."""
        place, mac, host = self.out
        return self._passed(place, Ether(src=mac, dst=host) / packet, self.own[0])

    def _passed(self, source: Path, frame: Packet, destination: Path) -> Packet:
        with frames(NOBODY, source) as said, frames(NOBODY, destination) as hearing:
            hearing.settimeout(SECONDS)
            said.send(bytes(built(frame)))
            while True:
                got = Ether(hearing.recv(4096))
                if IP in got:
                    break
        packet = got[IP]
        assert bytes(packet) == bytes(_summed(packet)), "a checksum is wrong"
        return packet


def _summed(packet: Packet) -> Packet:
    """The packet with checksums reckoned anew, but for a datagram without one."""
    again = packet.copy()
    for layer in (IP, TCP, UDP, ICMP):
        if layer in again and not (layer is UDP and again[UDP].chksum == 0):
            del again[layer].chksum
    return built(again)


def hidden(packet: Packet, key: str = "sport") -> Packet:
    """The packet without what was chosen; in what an error quotes that is where it went to."""
    again = packet.copy()
    if ICMP in again and again[ICMP].type in (0, 8):
        again[ICMP].id = HIDDEN
    elif ICMP in again:
        quoted = IP(bytes(again[ICMP].payload))
        assert bytes(quoted) == bytes(_summed(quoted)), "a checksum of the quoted is wrong"
        again[ICMP].remove_payload()
        again = again / hidden(quoted, "dport")
    else:
        setattr(again[TCP if TCP in again else UDP], key, HIDDEN)
    return _summed(again)


@pytest.fixture(scope="module")
def worlds() -> Iterator[tuple[World, World]]:
    host, peer, gateway, own = MACS
    with contextlib.ExitStack() as stack:
        namespaces(stack, "equal-out0", "equal-out1", "equal-own", "equal-host")
        for number, where in enumerate(("", "equal-host")):
            batch(OUTSIDE.format(n=number, host=host, peer=peer), where)
            batch(f"link set eth0 up address {peer}", f"equal-out{number}")
        stack.callback(delete, "equal0")
        batch(INSIDE.format(gateway=gateway, own=own), "equal-host")
        batch(f"link set eth0 up address {own}", "equal-own")
        forwarder = netns.find("equal-host")
        forward(1, home=forwarder)
        with netns.entered(forwarder):
            subprocess.run(["iptables-nft-restore"], input=RULES, text=True, check=True)
        sysctl("net.ipv4.conf.lo.forwarding=1")
        mesh = stack.enter_context(running(mesh_of(MESH)))
        mute(mesh, "own")
        mine = interface.mac_of(mesh.name, "own")
        yield (
            World(
                (home(mesh, "own"), mine, interface.GATEWAY_MAC),
                (netns.find("equal-out0"), peer, host),
            ),
            World(
                (netns.find("equal-own"), own, gateway),
                (netns.find("equal-out1"), peer, host),
            ),
        )


def segment(
    source: Peer, destination: Peer, ports: tuple[int, int], flags: str, **more: int
) -> Packet:
    """One of TCP with its numbers, and data if it pushes."""
    made = tcp(4, source, destination, *ports, flags, b"data" if "P" in flags else b"", ttl=9)
    made[TCP].seq, made[TCP].ack = more.get("seq", 0), more.get("ack", 0)
    return made


def stream(world: World) -> Iterator[Packet]:
    """A connection, from its first to its last segment, and what a router says of one."""
    syn = world.leaves(segment(OWN, PEER, (1000, 80), "S"))
    yield hidden(syn)
    there, back = (1000, 80), (80, syn[TCP].sport)
    yield world.arrives(segment(PEER, HOST, back, "SA", ack=1))
    yield hidden(world.leaves(segment(OWN, PEER, there, "A", seq=1, ack=1)))
    data = world.leaves(segment(OWN, PEER, there, "PA", seq=1, ack=1))
    yield hidden(data)
    yield world.arrives(error(4, ROUTER, HOST, data, "fragmentation needed"))
    yield world.arrives(error(4, ROUTER, HOST, data, "unreachable", size=28))
    yield world.arrives(segment(PEER, HOST, back, "PA", seq=1, ack=5))
    yield hidden(world.leaves(segment(OWN, PEER, there, "FA", seq=5, ack=5)))
    yield world.arrives(segment(PEER, HOST, back, "FA", seq=5, ack=6))
    yield hidden(world.leaves(segment(OWN, PEER, there, "A", seq=6, ack=6)))


def question(world: World, checksum: int | None) -> Iterator[Packet]:
    """A datagram, its answer, and what either side may say of them."""
    asked = world.leaves(udp(4, OWN, PEER, 1000, 53, b"question", checksum=checksum, ttl=9))
    yield hidden(asked)
    yield world.arrives(error(4, PEER, HOST, asked))
    yield world.arrives(error(4, ROUTER, HOST, asked, "time exceeded"))
    told = world.arrives(udp(4, PEER, HOST, 53, asked[UDP].sport, checksum=checksum, ttl=9))
    yield told
    yield hidden(world.leaves(error(4, OWN, PEER, told)))


def echo(world: World) -> Iterator[Packet]:
    """A request, its reply, and what a router says of it."""
    asked = world.leaves(ping(4, OWN, PEER, 7, ttl=9))
    yield hidden(asked)
    yield world.arrives(pong(4, PEER, HOST, asked[ICMP].id, ttl=9))
    yield world.arrives(error(4, ROUTER, HOST, asked, "unreachable"))


@pytest.mark.parametrize(
    "talk",
    [stream, lambda world: question(world, None), lambda world: question(world, 0), echo],
    ids=["stream", "datagrams", "datagrams without a checksum", "echo"],
)
def test_all_that_is_said_comes_out_alike(
    worlds: tuple[World, World], talk: Callable[[World], Iterator[Packet]]
) -> None:
    for here, there in zip(*map(talk, worlds), strict=True):
        assert here.show2(dump=True) == there.show2(dump=True)
