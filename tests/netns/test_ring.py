# SPDX-License-Identifier: BSD-2-Clause
"""Reading a ring buffer that a small program of this test fills."""

import contextlib
import gc
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpfmesh.compile.build import build
from ebpfmesh.kernel import bpf, pins
from ebpfmesh.kernel.programs import Program
from ebpfmesh.kernel.ring import BATCH, Ring
from support.topology import SLOWER

SOURCE = """
#define MESH_MAP(type, name, key, value, entries)
#define MESH_STORAGE(name, value)
#include "include/mesh_maps.h"

int send(struct __sk_buff *ctx)
{
	__u64 length = ctx->len;

	return mesh_events.ringbuf_output(&length, sizeof(length), 0) ? 1 : 0;
}
"""
SIZE = 1 << 16
FRAME = bytes(60)


class Sender:
    """A ring buffer and the program that puts a record into it with each run."""

    def __init__(self, directory: Path) -> None:
        self.ring = bpf.obj_get(directory / "mesh_events")
        self._program = bpf.obj_get(directory / "send")

    def send(self, length: int = len(FRAME), repeat: int = 1) -> int:
        """The last run's answer: 0, or 1 where there was no room."""
        return bpf.prog_test_run(self._program, bytes(length), repeat=repeat).verdict


@pytest.fixture(scope="module")
def sender(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sender]:
    source = tmp_path_factory.mktemp("ring") / "ring.c"
    source.write_text(SOURCE)
    directory = pins.BPFFS / "ring"
    directory.mkdir()
    try:
        with bpf.map_create(bpf.MAP_TYPE["ringbuf"], "mesh_events", 0, 0, SIZE) as fd:
            bpf.obj_pin(fd, directory / "mesh_events")
        build(
            source, [Program("send", "tc")], pin_to=directory,
            defines={"MESH_PINS": f'"{directory}"'},
        )  # fmt: skip
        yield Sender(directory)
    finally:
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()


@pytest.fixture
def ring(sender: Sender) -> Iterator[Ring]:
    with Ring(sender.ring) as ring:
        ring.skip()
        yield ring


def lengths(records: list[bytes]) -> list[int]:
    return [int.from_bytes(record, sys.byteorder) for record in records]


def test_records_come_in_order_and_once(sender: Sender, ring: Ring) -> None:
    for length in (60, 61, 62):
        sender.send(length)
    assert lengths(ring.read()) == [60, 61, 62]
    assert ring.read() == []
    sender.send(63)
    assert lengths(ring.read(1)) == [63]


def test_it_waits_no_longer_than_it_may(ring: Ring) -> None:
    assert ring.read(0.01) == []


def test_a_record_ends_the_waiting(sender: Sender, ring: Ring) -> None:
    timer = threading.Timer(0.05, sender.send)
    timer.start()
    assert lengths(ring.read(20)) == [60]
    timer.join()


def test_a_full_buffer_takes_no_more_and_loses_nothing_it_has(sender: Sender, ring: Ring) -> None:
    assert sender.send(repeat=SIZE) == 1
    found = 0
    while records := ring.read():
        assert len(records) <= BATCH
        found += len(records)
    assert found > BATCH
    assert sender.send() == 0


def test_what_nobody_read_can_be_skipped(sender: Sender) -> None:
    sender.send(repeat=3000)
    with Ring(sender.ring) as ring:
        ring.skip()
        assert ring.read() == []


def test_a_signal_ends_the_waiting(ring: Ring) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def waits() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        ring.read(20)

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            waits()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def blocked() -> set[int]:
    return signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_no_signal_is_lost_while_records_pour_in(sender: Sender, ring: Ring) -> None:
    """The handler's exception always reaches who reads, and none stays blocked afterwards.

    No garbage is collected meanwhile: Python drops what is raised in a __del__.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before, mask = signal.signal(signal.SIGALRM, interrupt), blocked()
    another = threading.Event()
    threading.Thread(target=another.wait).start()  # the kernel may give it the signal
    gc.collect()
    gc.disable()
    try:
        for turn in range(500):
            with contextlib.suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, 0.001 + turn * 1e-6)
                end = time.monotonic() + 20 * SLOWER  # the other thread may have to wait
                while time.monotonic() < end:
                    sender.send(repeat=100 if turn % 2 else 1)
                    ring.read()
                pytest.fail("the exception was lost")
            assert blocked() == mask
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        gc.enable()
        another.set()
        signal.signal(signal.SIGALRM, before)
