# SPDX-License-Identifier: BSD-2-Clause
"""Requests in batches: all are answered, and the first refusal is told in the kernel's words."""

from ipaddress import IPv4Address, IPv4Network

import pytest
from pyroute2.netlink.exceptions import NetlinkError

from ebpfmesh.kernel import netns, rtnl

SOMEWHERE, NOWHERE = IPv4Network("198.18.7.0/24"), IPv4Address("203.0.113.1")


def test_a_refusal_says_why() -> None:
    with netns.unnamed() as place, netns.entered(place), rtnl.Socket() as ip:
        ip.do(rtnl.set_link(1, up=True))
        with pytest.raises(NetlinkError, match="Network is unreachable") as caught:
            ip.do(
                rtnl.set_link(1, up=True),
                rtnl.set_route(1, SOMEWHERE, NOWHERE),
                rtnl.set_route(1, SOMEWHERE),
            )
        assert caught.value.args[1].endswith("(Nexthop has invalid gateway)")
        with netns.rtnetlink() as there:
            assert there.get_routes(dst=str(SOMEWHERE)), "what came after was done all the same"
