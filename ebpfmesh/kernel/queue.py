# SPDX-License-Identifier: BSD-2-Clause
"""The queue at a function's own interface that holds what it sends to its rate (tc-tbf(8)).

Who sends too much waits there, as at a slow cable, and nothing is lost. It is a courtesy: a
function with NET_ADMIN can take it away, and then the programs drop what is too much (lib/rate.h).
"""

import time
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from ebpfmesh.kernel import netns, rtnl
from ebpfmesh.kernel.interface import while_there

SECONDS = 0.01
"""What may be sent at once after a pause, in time at the rate; timers are as late as that."""
LEAST_BURST = 16 << 10
WAITING_SECONDS = 0.1
"""What may wait, in time at the rate: beyond it the sender's stack drops, or its sockets block."""
LEAST_WAITING = 256 << 10
MOST = 1 << 30  # bytes, of a field of 32 bits
UNLIMITED = 1 << 40  # bytes a second, while a queue that is no longer wanted runs empty
EMPTY_SECONDS = 2.0
ENOENT = 2


def limit(ip: IPRoute, ifindex: int, namespace: Path, bits: int | None) -> None:
    """Have what comes out of a host-side interface be so many bits a second; None: no limit.

    In place: what waits is sent. Nothing is done where the kernel has no such queue. ``ip`` is of
    the host's namespace.
    """
    with while_there(ifindex):
        inner = ip.link("get", index=ifindex)[0].get_attr("IFLA_LINK")
        with netns.entered(namespace), rtnl.Socket() as raw:
            if not bits and not rtnl.has_tbf(raw, inner):
                return
            try:
                _set(raw, inner, bits / 8 if bits else UNLIMITED)
            except NetlinkError as error:
                if error.code == ENOENT:
                    return
                raise
        if not bits:
            _remove(namespace, inner)


def _set(raw: rtnl.Socket, index: int, rate: float) -> None:
    burst = min(max(int(rate * SECONDS), LEAST_BURST), MOST)
    waiting = min(max(int(rate * WAITING_SECONDS), LEAST_WAITING), MOST)
    raw.do(rtnl.set_tbf(index, int(rate), burst, burst + waiting))


def _remove(namespace: Path, index: int) -> None:
    """Once it is empty: what waits in a queue that goes is lost."""
    deadline = time.monotonic() + EMPTY_SECONDS
    with netns.rtnetlink(namespace) as ip:
        while _waiting(ip, index) and time.monotonic() < deadline:
            time.sleep(0.002)
    with netns.entered(namespace), rtnl.Socket() as raw:
        raw.do(rtnl.delete_tbf(index))


def _waiting(ip: IPRoute, index: int) -> int:
    """Bytes that wait."""
    queues: Any = ip.get_qdiscs(index=index)
    return sum(one.get_attr("TCA_STATS2").get_attr("TCA_STATS_QUEUE")["backlog"] for one in queues)
