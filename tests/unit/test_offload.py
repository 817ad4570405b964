# SPDX-License-Identifier: BSD-2-Clause
"""Offloads of the machine's own interfaces, which are only read."""

import socket
import subprocess

from ebpfmesh.kernel import offload


def test_which_drivers_hand_on_merged_segments() -> None:
    """As ethtool has it: lo does not, a virtio_net whose host may send them does."""
    for _, name in socket.if_nameindex():
        words = ["/usr/sbin/ethtool", "-k", name]
        said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        assert offload.merges(name) == ("rx-gro-hw: on" in said)
    assert not offload.merges("nosuch0")
