# SPDX-License-Identifier: BSD-2-Clause
"""Whether an interface takes frames that XDP of another one sends on to it.

What it does not take, the kernel drops without a word. Drivers say it by the family ``netdev`` of
generic netlink, since Linux 6.3 (linux/include/uapi/linux/netdev.h); before, nobody can know.
"""

from typing import Any

from pyroute2.netlink import NLM_F_REQUEST, genlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import GenericNetlinkSocket

_DEV_GET = 1  # NETDEV_CMD_DEV_GET
_NDO_XMIT = 4  # NETDEV_XDP_ACT_NDO_XMIT


class _Device(genlmsg):  # type: ignore[misc]
    nla_map = (
        ("NETDEV_A_DEV_UNSPEC", "none"),
        ("NETDEV_A_DEV_IFINDEX", "uint32"),
        ("NETDEV_A_DEV_PAD", "hex"),
        ("NETDEV_A_DEV_XDP_FEATURES", "uint64"),
    )


def takes_frames(ifindex: int) -> bool:
    """Whether an interface of this namespace does, as it is now."""
    with GenericNetlinkSocket() as asked:
        try:
            asked.bind("netdev", _Device)
            message: Any = _Device()
            message["cmd"], message["version"] = _DEV_GET, 1
            message["attrs"] = [("NETDEV_A_DEV_IFINDEX", ifindex)]
            found: Any = asked.nlm_request(message, msg_type=asked.prid, msg_flags=NLM_F_REQUEST)
            rows = list(found)
        except NetlinkError:  # no such family, or interface
            return False
    return bool(rows and (rows[0].get_attr("NETDEV_A_DEV_XDP_FEATURES") or 0) & _NDO_XMIT)
