# SPDX-License-Identifier: BSD-2-Clause
"""The same packet wrapped in other ways: options, extension headers, fragments; and unwrapped."""

import struct
from typing import Literal, get_args

from scapy.utils import checksum

Form = Literal["plain", "wrapped", "fragments", "first", "later"]
"""``wrapped``: with IPv4 options or IPv6 extension headers; ``fragments``: cut in two; ``first``,
``later``: one of the two alone."""
FORMS: tuple[Form, ...] = get_args(Form)
CUT = ("fragments", "first", "later")
ETHERNET = 14
NOTHING_4 = bytes([1, 1, 1, 0])  # no operation, thrice, and the end of options (RFC 791)
PADDING = bytes([1, 4, 0, 0, 0, 0])  # PadN; with two bytes before it an extension header (RFC 8200)
HOP_BY_HOP, FRAGMENT, DESTINATION = 0, 44, 60
MORE = 0x2000


def wrapped(frame: bytes, version: int, form: Form, identifier: int) -> list[bytes]:
    """A whole packet's frame in another form; both fragments of a datagram have its identifier."""
    if form == "plain":
        return [frame]
    if form == "wrapped":
        return [_options4(frame) if version == 4 else _extensions6(frame)]
    both = (_fragments4 if version == 4 else _fragments6)(frame, identifier)
    return {"fragments": both, "first": both[:1], "later": both[1:]}[form]


def transport_bytes(packet: bytes) -> int:
    """Bytes of a datagram that are in a packet, or in a fragment, behind all headers of IP."""
    if packet[0] >> 4 == 4:
        return len(packet) - (packet[0] & 0xF) * 4
    return len(packet) - 40 - (8 if packet[6] == FRAGMENT else 0)


def _header4(header: bytes, length: int, fragment: int, identifier: int) -> bytes:
    """An IPv4 header with another length, with its checksum."""
    new = bytearray(header)
    new[0] = 0x40 | len(header) // 4
    struct.pack_into("!HHH", new, 2, len(header) + length, identifier, fragment)
    struct.pack_into("!H", new, 10, 0)
    struct.pack_into("!H", new, 10, checksum(bytes(new)))
    return bytes(new)


def _options4(frame: bytes) -> bytes:
    ethernet, header, rest = frame[:ETHERNET], frame[ETHERNET:34], frame[34:]
    return ethernet + _header4(header + NOTHING_4, len(rest), 0, 1) + rest


def _fragments4(frame: bytes, identifier: int) -> list[bytes]:
    ethernet, header, rest = frame[:ETHERNET], frame[ETHERNET:34], frame[34:]
    at = _cut(rest)
    return [
        ethernet + _header4(header, at, MORE, identifier & 0xFFFF) + rest[:at],
        ethernet + _header4(header, len(rest) - at, at // 8, identifier & 0xFFFF) + rest[at:],
    ]


def _header6(header: bytes, length: int, following: int) -> bytes:
    return header[:4] + struct.pack("!HB", length, following) + header[7:]


def _extensions6(frame: bytes) -> bytes:
    ethernet, header, rest = frame[:ETHERNET], frame[ETHERNET:54], frame[54:]
    more = bytes([DESTINATION, 0]) + PADDING + bytes([header[6], 0]) + PADDING
    return ethernet + _header6(header, len(more + rest), HOP_BY_HOP) + more + rest


def _fragments6(frame: bytes, identifier: int) -> list[bytes]:
    ethernet, header, rest = frame[:ETHERNET], frame[ETHERNET:54], frame[54:]
    at = _cut(rest)
    return [
        ethernet
        + _header6(header, len(part) + 8, FRAGMENT)
        + struct.pack("!BBHI", header[6], 0, offset, identifier)
        + part
        for part, offset in ((rest[:at], 1), (rest[at:], at))
    ]


def _cut(datagram: bytes) -> int:
    """Where to cut: behind the transport header, at a multiple of 8, about in the middle."""
    return (len(datagram) // 2 + 15) // 8 * 8
