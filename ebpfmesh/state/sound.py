# SPDX-License-Identifier: BSD-2-Clause
"""Whether all of a record can be read, and can be what it is taken for.

Whoever reads a row checks that one. All are before a mesh is repaired, or removed by what they say:
a row that is damaged may lead to what is somebody else's.
"""

from ebpfmesh.state.record import Record


def check(record: Record) -> None:
    """Raise UnreadableRecord, which says what is wrong, unless all of it is as it was written."""
    record.check_tables()
    record.model()
    record.limits()
    _ = record.home, record.listener, record.build, record.making, record.cut_short
    record.pools()
    record.commands()
    record.unready()
    record.denied()
    met = {one for row in record.injections() for one in row.programs}
    for chain in record.chains():
        for one in chain:
            met.update(one if isinstance(one, tuple) else (one,))
    for number in met.union(record.programs()) - {0}:
        record.program(number)
