# SPDX-License-Identifier: BSD-2-Clause
"""What systemd is told, if it asked to be: sd_notify(3)."""

import contextlib
import os
import socket


def tell(**values: object) -> None:
    """Send assignments such as READY=1; nothing where nobody asked, or nobody hears."""
    place = os.environ.get("NOTIFY_SOCKET", "")
    if not place:
        return
    address = "\0" + place[1:] if place.startswith("@") else place
    text = "\n".join(f"{name}={value}" for name, value in values.items())
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.sendto(text.encode(), address)
