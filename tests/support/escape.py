# SPDX-License-Identifier: BSD-2-Clause
"""What a process inside a function tries at the host's interfaces; prints a JSON object of errors.

    python3 escape.py [--spare] IFINDEX...

To each index of the host's it sends RTM_NEWLINK (down) and RTM_DELLINK, through the number that its
namespace has for the host's; and it deletes its own eth0, which would take the host side along,
unless it shall spare that.
"""

import json
import os
import socket
import struct
import sys

NEW_LINK, DELETE_LINK, GET_LINK = 16, 17, 18
REQUEST_ACK = 0x5
LINK_NETNSID, TARGET_NETNSID = 37, 46  # IFLA_*, linux/include/uapi/linux/if_link.h
UP = 1


def request(kind: int, index: int, nsid: int | None = None) -> bytes:
    """Ask to set an interface down, or delete it, or show it; the answer's body."""
    body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, 0, UP if kind == NEW_LINK else 0)
    if nsid is not None:
        body += struct.pack("=HHi", 8, TARGET_NETNSID, nsid)
    flags = 1 if kind == GET_LINK else REQUEST_ACK
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.send(struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body)
        return netlink.recv(65536)


def error(answer: bytes) -> str:
    """Name of the error that an answer carries; empty for success."""
    code = -struct.unpack_from("=i", answer, 16)[0]
    return os.strerror(code) if code else ""


def host_nsid() -> int:
    """The number this namespace has for the one of its interface's other end."""
    answer = request(GET_LINK, socket.if_nametoindex("eth0"))
    at = 16 + 16
    while at + 4 <= len(answer):
        length, kind = struct.unpack_from("=HH", answer, at)
        if kind & 0x7FFF == LINK_NETNSID:
            return int(struct.unpack_from("=i", answer, at + 4)[0])
        at += (length + 3) & ~3
    raise LookupError


def main() -> None:
    nsid, found = host_nsid(), {}
    spare = sys.argv[1] == "--spare"
    for index in map(int, sys.argv[1 + spare :]):
        found[f"down {index}"] = error(request(NEW_LINK, index, nsid))
        found[f"delete {index}"] = error(request(DELETE_LINK, index, nsid))
    if not spare:
        found["delete eth0"] = error(request(DELETE_LINK, 2))
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
