# SPDX-License-Identifier: BSD-2-Clause
"""Packets of functions that are dropped, and why; and what passes of ARP and ND."""

from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6MLQuery,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, LLC, SNAP, Dot1AD, Dot1Q, Dot3, Ether
from scapy.packet import Packet, Raw

from ebpfmesh._abi import Reason
from prog.lab import NOBODY, peer, service
from prog.rows import Row, drop, expired, ignored, step
from support.packets import (
    GATEWAY4,
    GATEWAY6,
    MULTICAST4,
    MULTICAST6,
    Peer,
    built,
    error,
    fragments,
    ip,
    ping,
    pong,
    sent,
    tcp,
    told,
    udp,
)

A, B, C, E = (peer(name) for name in "abce")
WEB, DNS, EMPTY, CLOSED = (service(n) for n in ("web", "dns", "empty", "closed"))
BOTH = (4, 6)
ZERO = Peer("", "0.0.0.0", "::")
ALIEN = "02:00:00:00:00:99"


def _link_local(mac: str) -> str:
    """The address a stack makes of a MAC (RFC 4291, appendix A)."""
    b = bytes.fromhex(mac.replace(":", ""))
    return f"fe80::{b[0] ^ 2:02x}{b[1]:02x}:{b[2]:02x}ff:fe{b[3]:02x}:{b[4]:02x}{b[5]:02x}"


def _spoofed(v: int) -> list[Row]:
    syn = tcp(v, A, B, 1000, 80)
    query = udp(v, A, B, 1000, 53)
    known = (step(A, syn),)
    alien = Ether(src=ALIEN, dst="02:eb:9f:00:00:01")
    return [
        drop(f"v{v} another's MAC", A, alien / syn, Reason.SPOOF_MAC),
        drop(f"v{v} another's MAC in a known flow", A, alien / syn, Reason.SPOOF_MAC, given=known),
        drop(
            f"v{v} another's MAC in an established flow", A, alien / query, Reason.SPOOF_MAC,
            given=(step(A, query),),
        ),
        drop(f"v{v} a function's MAC", A, Ether(src=B.mac, dst=ALIEN) / syn, Reason.SPOOF_MAC),
        drop(f"v{v} another's address", A, tcp(v, B, C, 1000, 443), Reason.SPOOF_IP),
        drop(f"v{v} another's flow", B, tcp(v, A, B, 1000, 80), Reason.SPOOF_IP, given=known),
        drop(f"v{v} address of the outside", A, tcp(v, NOBODY, B, 1000, 80), Reason.SPOOF_IP),
        drop(f"v{v} address of a service", B, tcp(v, WEB, A, 80, 1000), Reason.SPOOF_IP),
        drop(f"v{v} zero address", A, udp(v, ZERO, B, 68, 67), Reason.SPOOF_IP),
    ]  # fmt: skip


def _mapped() -> list[Row]:
    """IPv4-mapped addresses are a way to write IPv4 down, not addresses of packets (RFC 4291)."""
    own, other = (Peer("", "", f"::ffff:{p.address4}") for p in (A, B))
    return [
        drop("IPv6 from the mapped own address", A, tcp(6, own, other, 1, 2), Reason.MALFORMED),
        drop("IPv6 from the mapped own address on", A, tcp(6, own, B, 1, 2), Reason.MALFORMED),
        drop("IPv6 from another's mapped address", A, tcp(6, other, B, 1, 2), Reason.SPOOF_IP),
        drop("IPv6 to a mapped address", A, tcp(6, A, other, 1, 2), Reason.MALFORMED),
        drop("IPv6 from a function that has none", E, tcp(6, E, C, 1, 2), Reason.SPOOF_IP),
        drop("IPv6 from :: of a function that has none", E, tcp(6, ZERO, C, 1, 2), Reason.SPOOF_IP),
    ]


def _arp() -> list[Row]:
    def arp(**rest: object) -> Packet:
        fields = {"hwsrc": A.mac, "psrc": A.address4, "pdst": "169.254.1.1"} | rest
        return Ether(src=A.mac, dst="ff:ff:ff:ff:ff:ff") / ARP(**fields)

    moved = arp()
    moved.src = ALIEN
    return [
        ignored("ARP request", A, arp()),
        ignored("ARP reply", A, arp(op=2)),
        ignored("ARP probe", A, arp(psrc="0.0.0.0")),
        drop("ARP for another's address", A, arp(psrc=B.address4), Reason.SPOOF_ARP),
        drop("ARP reply for the gateway", A, arp(op=2, psrc="169.254.1.1"), Reason.SPOOF_ARP),
        drop("ARP with another's MAC in it", A, arp(hwsrc=ALIEN), Reason.SPOOF_ARP),
        drop("ARP from another's MAC", A, moved, Reason.SPOOF_ARP),
        drop("ARP of another hardware", A, arp(hwtype=6), Reason.MALFORMED),
        drop("ARP of another protocol", A, arp(ptype=0x86DD), Reason.MALFORMED),
        drop("ARP with long MACs", A, arp(hwlen=8), Reason.MALFORMED),
        drop("ARP with long addresses", A, arp(plen=16), Reason.MALFORMED),
    ]


def _nd(source: str, message: Packet, *, hlim: int = 255) -> Packet:
    return IPv6(src=source, dst=GATEWAY6, hlim=hlim) / message


def _neighbour_passes() -> list[Row]:
    local, own, mac = _link_local(A.mac), A.address6, ICMPv6NDOptSrcLLAddr(lladdr=A.mac)
    nonce = Raw(b"\x0e\x01abcdef")
    return [
        ignored("ND solicitation", A, _nd(own, ICMPv6ND_NS(tgt=GATEWAY6) / mac)),
        ignored("ND solicitation without option", A, _nd(own, ICMPv6ND_NS(tgt=GATEWAY6))),
        ignored(
            "ND solicitation from the link-local address",
            A,
            _nd(local, ICMPv6ND_NS(tgt=GATEWAY6) / mac),
        ),
        ignored("ND detection of duplicates", A, _nd("::", ICMPv6ND_NS(tgt=own))),
        ignored(
            "ND detection of duplicates with nonce", A, _nd("::", ICMPv6ND_NS(tgt=own) / nonce)
        ),
        ignored(
            "ND advertisement",
            A,
            _nd(own, ICMPv6ND_NA(tgt=own) / ICMPv6NDOptDstLLAddr(lladdr=A.mac)),
        ),
        ignored(
            "ND advertisement of the link-local address", A, _nd(local, ICMPv6ND_NA(tgt=local))
        ),
    ]


def _neighbour_spoofs() -> list[Row]:
    own, mac = A.address6, ICMPv6NDOptSrcLLAddr(lladdr=A.mac)
    solicit = ICMPv6ND_NS(tgt=GATEWAY6)
    alien = Ether(src=ALIEN, dst="33:33:00:00:00:01")
    return [
        drop(f"ND {text}", A, packet, reason)
        for text, packet, reason in (
            (
                "solicitation from another's address",
                _nd(B.address6, solicit / mac),
                Reason.SPOOF_ND,
            ),
            (
                "solicitation from another's link-local address",
                _nd(_link_local(B.mac), solicit),
                Reason.SPOOF_ND,
            ),
            (
                "solicitation with another's MAC in it",
                _nd(own, solicit / ICMPv6NDOptSrcLLAddr(lladdr=ALIEN)),
                Reason.SPOOF_ND,
            ),
            ("solicitation from another's MAC", alien / _nd(own, solicit / mac), Reason.SPOOF_MAC),
            (
                "advertisement of another's address",
                _nd(own, ICMPv6ND_NA(tgt=B.address6)),
                Reason.SPOOF_ND,
            ),
            ("advertisement of the gateway", _nd(own, ICMPv6ND_NA(tgt=GATEWAY6)), Reason.SPOOF_ND),
            (
                "advertisement from another's address",
                _nd(B.address6, ICMPv6ND_NA(tgt=own)),
                Reason.SPOOF_ND,
            ),
            (
                "advertisement with another's MAC in it",
                _nd(own, ICMPv6ND_NA(tgt=own) / ICMPv6NDOptDstLLAddr(lladdr=ALIEN)),
                Reason.SPOOF_ND,
            ),
            ("router advertisement", _nd(_link_local(A.mac), ICMPv6ND_RA()), Reason.SPOOF_ND),
            ("redirect", _nd(own, ICMPv6ND_Redirect(tgt=own, dst=B.address6)), Reason.SPOOF_ND),
            ("router solicitation", _nd(_link_local(A.mac), ICMPv6ND_RS()), Reason.MULTICAST),
            ("solicitation that was routed", _nd(own, solicit / mac, hlim=254), Reason.MALFORMED),
            ("solicitation with two options", _nd(own, solicit / mac / mac), Reason.MALFORMED),
            (
                "solicitation with half an option",
                _nd(own, solicit / Raw(bytes(mac)[:4])),
                Reason.MALFORMED,
            ),
        )
    ]


def _kinds(v: int) -> list[Row]:
    syn = tcp(v, A, B, 1000, 80)
    out = Peer("", MULTICAST4, MULTICAST6)
    rows = [
        drop(f"v{v} VLAN", A, sent(A, Dot1Q(vlan=7) / syn), Reason.VLAN),
        drop(f"v{v} VLAN 802.1ad", A, sent(A, Dot1AD(vlan=7) / syn), Reason.VLAN),
        drop(f"v{v} VLAN priority tag", A, sent(A, Dot1Q(vlan=0, prio=5) / syn), Reason.VLAN),
        drop(f"v{v} multicast", A, udp(v, A, out, 5353, 5353), Reason.MULTICAST),
        drop(f"v{v} ping to multicast", A, ping(v, A, out), Reason.MULTICAST),
    ]
    for number in (2, 4, 41, 47, 50, 51, 132, 255):
        packet = ip(v, A, B) / Raw(bytes(64))
        setattr(packet, "proto" if v == 4 else "nh", number)
        rows.append(drop(f"v{v} protocol {number}", A, packet, Reason.PROTOCOL))
    return rows


def _kinds4() -> list[Row]:
    def packet(**rest: object) -> Packet:
        return IP(src=A.address4, dst=B.address4, **rest) / UDP(sport=1, dport=2) / b"data"

    rows = [
        drop(f"fragment {text}", A, packet(**fields), Reason.FRAGMENT)
        for text, fields in (
            ("last", {"frag": 1}),
            ("middle", {"flags": "MF", "frag": 185}),
            ("at the end", {"frag": 8191}),
        )
    ]
    for text, address in (("broadcast", "255.255.255.255"), ("class E", "240.0.0.1")):
        rows.append(drop(text, A, udp(4, A, Peer("", address, ""), 1, 2), Reason.MULTICAST))
    head = ip(4, A, B)
    for text, layer in (
        ("source quench", ICMP(type=4)),
        ("redirect", ICMP(type=5)),
        ("timestamp", ICMP(type=13)),
        ("echo with a code", ICMP(type=8, code=1)),
    ):
        rows.append(drop(f"ICMP {text}", A, head / layer / bytes(20), Reason.PROTOCOL))
    return rows


def _options4() -> list[Row]:
    """A source route names another receiver than the one that policy was asked about."""
    loose, strict = (bytes([kind, 7, 4, *C_RAW]) for kind in (131, 137))
    record = bytes([7, 7, 4, 0, 0, 0, 0])
    rows = []
    for text, options in (
        ("loose source route", loose),
        ("strict source route", strict),
        ("source route behind nothing", b"\x01\x01\x01" + loose),
        ("source route behind a recorded route", record + loose),
        ("option without length", b"\x07\0\x01\x01"),
        ("options without end", b"\x01" * 40),
    ):
        rows.append(drop(f"IPv4 {text}", A, _with_options(B, options), Reason.PROTOCOL))
    return rows


C_RAW = bytes(int(part) for part in C.address4.split("."))


def _with_options(to: Peer, options: bytes, ttl: int = 64) -> Packet:
    padded = options + bytes(-len(options) % 4)
    head = IP(src=A.address4, dst=to.address4, ttl=ttl, options=[Raw(padded)])
    return head / UDP(sport=1, dport=2) / b"data"


def _kinds6() -> list[Row]:
    head = ip(6, A, B)
    return [
        drop("IPv6 echo with a code", A, head / ICMPv6EchoRequest(code=1), Reason.PROTOCOL),
        drop("IPv6 multicast listener", A, head / ICMPv6MLQuery(), Reason.PROTOCOL),
    ]


def _not_ip() -> list[Row]:
    return [
        drop(f"frame of {text}", A, frame, Reason.PROTOCOL)
        for text, frame in (
            ("LLDP", Ether(src=A.mac, dst="01:80:c2:00:00:0e", type=0x88CC) / bytes(46)),
            ("MPLS", Ether(src=A.mac, dst=B.mac, type=0x8847) / bytes(46)),
            ("PPPoE", Ether(src=A.mac, dst=B.mac, type=0x8864) / bytes(46)),
            ("nothing", Ether(src=A.mac, dst=B.mac, type=0) / bytes(46)),
            ("802.3", bytes(Dot3(src=A.mac, dst=B.mac) / LLC() / SNAP() / bytes(40))),
        )
    ]


def _ttl(v: int) -> list[Row]:
    """The sender is told, as the gateway of a traceroute would, but never about an error."""
    rows = []
    for text, make, arguments in (
        ("TCP", tcp, (v, A, WEB, 1000, 80, "S", b"data")),
        ("UDP", udp, (v, A, DNS, 1000, 53)),
        ("ping", ping, (v, A, B)),
        ("direct", tcp, (v, A, B, 1000, 80)),
    ):
        known = (step(A, make(*arguments)),)
        for ttl, when, given in ((0, "new", ()), (1, "new", ()), (1, "known", known)):
            packet = make(*arguments, ttl=ttl)
            answer = told(v, A, packet)
            rows.append(expired(f"v{v} TTL {ttl} {text} {when}", A, packet, answer, given=given))
    established = tuple(
        step(here, tcp(v, here, there, *ports, flags))
        for here, there, ports, flags in (
            (A, WEB, (1000, 80), "S"),
            (B, A, (8080, 1000), "SA"),
            (A, WEB, (1000, 80), "A"),
        )
    )
    packet = tcp(v, A, WEB, 1000, 80, "A", bytes(1000), ttl=1)
    answer = told(v, A, packet)
    rows.append(expired(f"v{v} TTL 1 established", A, packet, answer, given=established))
    about = error(v, B, A, tcp(v, A, B, 1000, 8080, ttl=63), ttl=1)
    return [*rows, drop(f"v{v} TTL 1 error", B, about, Reason.TTL, given=established)]


def _ttl_quietly() -> list[Row]:
    """No answer to a later fragment (RFC 1122, 3.2.2), nor where options would be quoted."""
    rows = []
    for v in BOTH:
        whole = udp(v, A, B, 1000, 53, bytes(64))
        first, last = fragments(whole, 32)
        for one in (first, last):
            setattr(one, "ttl" if v == 4 else "hlim", 1)
        given = (step(A, fragments(whole, 32)[0]),)
        rows.append(drop(f"v{v} TTL 1 later fragment", A, last, Reason.TTL, given=given))
        size = 28 if v == 4 else 48
        gateway = Peer("gateway", GATEWAY4, GATEWAY6)
        answer = error(v, gateway, A, built(first), "time exceeded", size=size)
        if v == 4:
            answer.id = 0
        rows.append(expired(f"v{v} TTL 1 first fragment", A, first, answer))
    options = IP(src=A.address4, dst=B.address4, ttl=1, options=[IPOption(b"\x94\x04\0\0")])
    return [*rows, drop("TTL 1 IPv4 options", A, options / UDP(sport=1, dport=2), Reason.TTL)]


def _policy(v: int) -> list[Row]:
    return [
        drop(f"v{v} {text}", sender, packet, reason)
        for text, sender, packet, reason in (
            ("TCP to another tenant", A, tcp(v, A, C, 1000, 80), Reason.POLICY),
            ("UDP to another tenant", A, udp(v, A, C, 1000, 53), Reason.POLICY),
            ("ping to another tenant", A, ping(v, A, C), Reason.POLICY),
            ("another tenant the other way", C, tcp(v, C, A, 1, 443), Reason.POLICY),
            ("service of another tenant", A, tcp(v, A, CLOSED, 1000, 80), Reason.POLICY),
            ("deny within a tenant", A, udp(v, A, B, 1, 666), Reason.POLICY),
            ("deny of lower priority number", A, udp(v, A, C, 1000, 1), Reason.POLICY),
            ("deny of the same priority", A, udp(v, A, C, 1000, 3), Reason.POLICY),
            ("deny to the outside", A, tcp(v, A, NOBODY, 1000, 25), Reason.POLICY),
            ("no service on this port", A, tcp(v, A, WEB, 1000, 8080), Reason.NO_SERVICE),
            ("no service of this protocol", A, udp(v, A, WEB, 1000, 80), Reason.NO_SERVICE),
            ("ping to a service", A, ping(v, A, WEB), Reason.NO_SERVICE),
            ("service without functions", A, tcp(v, A, EMPTY, 1000, 80), Reason.NO_BACKEND),
            ("to itself", A, udp(v, A, A, 1000, 80), Reason.HAIRPIN),
        )
    ]  # fmt: skip


def _unsolicited(v: int) -> list[Row]:
    return [
        drop(
            f"v{v} unsolicited TCP {flags or 'null'}",
            A,
            tcp(v, A, B, 1000, 80, flags),
            Reason.NO_FLOW,
        )
        for flags in ("SA", "R", "RA", "F", "FA", "", "SF", "SR", "FPU")
    ] + [drop(f"v{v} unsolicited echo reply", A, pong(v, A, B), Reason.NO_FLOW)]


def _nobody(v: int) -> list[Row]:
    syn = tcp(v, A, B, 1000, 80)
    return [
        drop(f"v{v} unknown interface", NOBODY, syn, Reason.NO_FUNCTION),
        drop(
            f"v{v} unknown interface in another's flow", NOBODY, sent(A, syn), Reason.NO_FUNCTION,
            given=(step(A, syn),),
        ),
        drop(f"v{v} unknown interface, VLAN", NOBODY, sent(A, Dot1Q() / syn), Reason.VLAN),
    ]  # fmt: skip


def _malformed4() -> list[Row]:
    def packet(layer: Packet, **fields: int) -> bytes:
        return bytes(sent(A, IP(src=A.address4, dst=B.address4, **fields) / layer))

    segment, datagram = TCP(sport=1, dport=2), UDP(sport=1, dport=2) / b"data"
    return [
        drop(f"IPv4 {text}", A, frame, Reason.MALFORMED)
        for text, frame in (
            ("version 6", packet(segment, version=6)),
            ("version 0", packet(segment, version=0)),
            ("header of 0", packet(segment, ihl=0)),
            ("header of 16", packet(segment, ihl=4)),
            # What would be the UDP header then is in order.
            ("header of 0 over UDP", packet(datagram, ihl=0, id=12)),
            ("header of 16 over UDP", packet(UDP(sport=12, dport=2) / bytes(8), ihl=4)),
            ("header longer than the packet", packet(segment, ihl=15)),
            ("length below its header", packet(segment, len=19)),
            ("length of zero", packet(segment, len=0)),
            ("length above the frame", packet(segment, len=41)),
            ("length below its TCP header", packet(segment, len=39)),
            ("length below its UDP header", packet(datagram, len=27)),
            ("length below its ICMP header", packet(ICMP(), len=27)),
            ("length below the TCP options", packet(TCP(options=[("MSS", 1)]), len=40)),
        )
    ] + _malformed_inner("IPv4", packet)


def _malformed6() -> list[Row]:
    def packet(layer: Packet, **fields: int) -> bytes:
        return bytes(sent(A, IPv6(src=A.address6, dst=B.address6, **fields) / layer))

    segment, datagram = TCP(sport=1, dport=2), UDP(sport=1, dport=2) / b"data"
    return [
        drop(f"IPv6 {text}", A, frame, Reason.MALFORMED)
        for text, frame in (
            ("version 4", packet(segment, version=4)),
            ("version 15", packet(segment, version=15)),
            ("length above the frame", packet(segment, plen=21)),
            ("length of a jumbogram", packet(segment, plen=0)),
            ("length below its TCP header", packet(segment, plen=19)),
            ("length below its UDP header", packet(datagram, plen=7)),
            ("length below its ICMP header", packet(ICMPv6EchoRequest(), plen=7)),
            ("length below the TCP options", packet(TCP(options=[("MSS", 1)]), plen=20)),
        )
    ] + _malformed_inner("IPv6", packet)


def _malformed_inner(family: str, packet) -> list[Row]:  # type: ignore[no-untyped-def]
    return [
        drop(f"{family} {text}", A, packet(layer), Reason.MALFORMED)
        for text, layer in (
            ("TCP header of 0", TCP(dataofs=0)),
            ("TCP header of 16", TCP(dataofs=4)),
            ("TCP header above its packet", TCP(dataofs=6)),
            ("TCP header of 60 above its packet", TCP(dataofs=15) / bytes(39)),
            ("UDP length of 0", UDP(len=0) / b"data"),
            ("UDP length below its header", UDP(len=7) / b"data"),
            ("UDP length above its packet", UDP(len=13) / b"data"),
        )
    ]


ROWS = [
    row
    for v in BOTH
    for make in (_spoofed, _kinds, _ttl, _policy, _unsolicited, _nobody)
    for row in make(v)
] + [
    row
    for make in (
        _mapped, _ttl_quietly, _arp, _neighbour_passes, _neighbour_spoofs, _kinds4, _options4,
        _kinds6, _not_ip, _malformed4, _malformed6,
    )
    for row in make()
]  # fmt: skip
