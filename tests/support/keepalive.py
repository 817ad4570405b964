# SPDX-License-Identifier: BSD-2-Clause
"""Ten keep-alive connections, each asked in turn, run as a program: ADDRESS PORT FILE.

A request counts as lost if it gets no whole answer of 200, whatever the reason; none is sent again.
A connection that its server closed while no request was under way is opened anew, and counted.
Has FILE say what it counted, in JSON, with each round.
"""

import collections
import http.client
import json
import os
import select
import sys
import time

CONNECTIONS = 10


def main(address: str, port: int, file: str) -> None:
    """Ask for ever."""
    found: collections.Counter[str] = collections.Counter()
    links = [http.client.HTTPConnection(address, port, timeout=20) for _ in range(CONNECTIONS)]
    while True:
        for link in links:
            if link.sock is not None and select.select([link.sock], [], [], 0)[0]:
                link.close()  # there is nothing to read but its end
                found["reopened"] += 1
            try:
                link.request("GET", "/version")
                answer = link.getresponse()
                text = answer.read().decode().strip()
                found[text if answer.status == 200 else f"lost: {answer.status}"] += 1
                if answer.will_close:
                    link.close()
                    found["reopened"] += 1
            except (OSError, http.client.HTTPException) as error:
                link.close()
                found[f"lost: {type(error).__name__} {error}"] += 1
        found["rounds"] += 1
        with open(f"{file}.new", "w") as new:  # noqa: PTH123  (its start should be quick)
            json.dump(found, new)
        os.replace(f"{file}.new", file)  # noqa: PTH105
        time.sleep(0.01)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
