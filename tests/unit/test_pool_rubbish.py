# SPDX-License-Identifier: BSD-2-Clause
"""A member that writes rubbish without end: who waits for a message is not kept by it."""

import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from os import pread, pwrite

import pytest

from ebpfmesh.port.pool import LINE, WORDS
from unit.test_pool import NAMES, SHAPE, World


@pytest.fixture
def world() -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack)


@contextmanager
def rubbish(world: World) -> Iterator[threading.Thread]:
    """What far is said to have sent to near: places that it does not have, as many as there are."""
    ring, over = SHAPE.layout.rings + len(NAMES) * SHAPE.layout.ring, threading.Event()

    def write() -> None:
        while not over.is_set():
            (read,) = struct.unpack("=I", pread(world.memory, 4, ring + LINE))
            pwrite(world.memory, struct.pack("=I", (read + SHAPE.slots) % WORDS), ring)

    thread = threading.Thread(target=write)
    thread.start()
    timer = threading.Timer(20, over.set)
    timer.start()
    try:
        yield thread
    finally:
        timer.cancel()
        over.set()
        thread.join()


def test_who_waits_for_a_message_does_so_no_longer_for_rubbish(world: World) -> None:
    near = world.member("near")
    with rubbish(world) as thread:
        assert near("receive", 0.3) == {"texts": []}
        assert thread.is_alive()  # it is not that it was over
    assert near("numbers")["malformed"] > 0


def test_a_message_comes_between_rubbish(world: World) -> None:
    near, other = map(world.member, ("near", "other"))
    with rubbish(world) as thread:
        other.send(1, "near", "right")
        assert near("receive", 10) == {"texts": ["right"]}
        assert thread.is_alive()
