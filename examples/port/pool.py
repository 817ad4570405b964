# SPDX-License-Identifier: BSD-2-Clause
"""Messages from one function to another by a pool: `pool.py send NAME COUNT`, `pool.py receive`.

Each message is a number of eight bytes; who receives them says their sum when there are no more.
"""

import sys

import numpy as np

from ebpfmesh.port import Pool

ENDED = 0  # the number that says so


def send(pool: Pool, to: str, count: int) -> None:
    """The numbers from 1 to ``count``, and then that these are all."""
    numbers = np.append(np.arange(1, count + 1, dtype="<u8"), np.uint64(ENDED))
    while len(numbers):
        batch = pool.take(min(len(numbers), 256), timeout=60)
        batch.lengths[:] = 8
        batch.write(0, numbers[: len(batch)], "<u8")
        numbers = numbers[len(batch) :]
        pool.send(to, batch)


def receive(pool: Pool) -> None:
    """What they are together."""
    total = 0
    for batch in pool.receive():
        numbers = batch.read(0, "<u8")
        total += int(numbers.sum())
        if ENDED in numbers:
            sys.stdout.write(f"{total}\n")
            sys.stdout.flush()
            total = 0


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "send":
        send(Pool("numbers"), rest[0], int(rest[1]))
    else:
        receive(Pool("numbers"))
