# SPDX-License-Identifier: BSD-2-Clause
"""A member of a pool that does what it is told, a line of words at a time, and says what it saw.

Commands: `take N`, `send TO TEXT` (in each place that was taken last), `receive SECONDS` (a batch,
which is held), `back` (all that is held), `churn TO` (goes on for ever: takes, sends to TO, and
gives back what comes), `numbers`.
"""

import json
import os
import sys
from itertools import count

import numpy as np

from ebpfmesh.port import Batch, Pool


def main() -> None:
    pool = Pool(os.environ.get("POOL", "frames"))
    held: list[Batch] = []
    say(name=pool.name, members=sorted(pool.members))
    for line in sys.stdin:
        match line.split():
            case ["take", number]:
                held.append(pool.take(int(number), timeout=10))
                say(took=len(held[-1]))
            case ["send", to, text]:
                batch = held.pop()
                batch.lengths[:] = len(text)
                for place in batch:
                    place[:] = np.frombuffer(text.encode(), np.uint8)
                pool.send(to, batch)
                say(sent=len(batch))
            case ["receive", seconds]:
                batch = next(pool.receive(float(seconds)), None)
                held += [batch] if batch is not None else []
                say(texts=[bytes(one).decode(errors="replace") for one in batch or ()])
            case ["back"]:
                for batch in held:
                    pool.give_back(batch)
                held.clear()
                say(back=True)
            case ["churn", to]:
                say(churns=True)
                churn(pool, to)
            case ["numbers"]:
                say(**pool.statistics._asdict())


def churn(pool: Pool, to: str) -> None:
    for number in count():
        batch = pool.take(number % 5, timeout=0.01)
        batch.lengths[:] = 8
        batch.write(0, number, "<u8")
        pool.send(to, batch)
        for _ in pool.receive(0):
            pass


def say(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
