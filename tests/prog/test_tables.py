# SPDX-License-Identifier: BSD-2-Clause
"""Every row of the tables, through every program it is about.

Both programs for what a function sends are compared with the same row, so they agree.
"""

import pytest

from ebpfmesh._abi import Reason
from prog import (
    table_drop,
    table_error,
    table_extension,
    table_forward,
    table_fragment,
    table_reject,
    table_to_function,
)
from prog.lab import TC, TO_FN, Drop, Lab
from prog.rows import Row, check, name

FROM_FN = [
    *table_forward.ROWS,
    *table_drop.ROWS,
    *table_fragment.ROWS,
    *table_extension.ROWS,
    *table_error.ROWS,
    *table_reject.ROWS,
]
TO_FUNCTION = [*table_to_function.ROWS, *table_reject.TO_FUNCTION]
ELSEWHERE = {
    Reason.NO_PROGRAM: "test_missing.py: a slot of calls is empty",
    Reason.INJECTED: "test_chain.py: something injected drops it",
    Reason.RATE: "test_rate.py: more than a token bucket holds",
    Reason.TENANT_RATE: "test_rate.py: more than a tenant's holds",
    Reason.RING_FULL: "tests/netns/test_port.py: the kernel counts it at the function's interface",
    Reason.DENIED: "test_deny.py: its source is in the deny list of the uplink",
    Reason.TOO_BIG: "tests/netns/test_uplink_mtu.py: an uplink has a smaller MTU than a function",
    Reason.NO_PORT: "tests/netns/test_masquerade_ports.py: others have them all",
    Reason.FLOW_FULL: "test_full.py: its tenant's slots are in use on other cores",
}


@pytest.mark.parametrize("row", FROM_FN, ids=name)
def test_from_function(lab: Lab, row: Row) -> None:
    check(lab, TC, row)


@pytest.mark.parametrize("row", TO_FUNCTION, ids=name)
def test_to_function(lab: Lab, row: Row) -> None:
    check(lab, TO_FN, row)


def test_every_reason_has_a_row() -> None:
    counted = [where for row in [*FROM_FN, *TO_FUNCTION] for where in row.counted]
    shown = {where.reason for where in counted if isinstance(where, Drop)}
    assert shown | set(ELSEWHERE) == set(Reason) - {Reason.OK, Reason.REASONS}
    assert not shown & set(ELSEWHERE)


def test_every_row_has_a_name_of_its_own() -> None:
    for table in (FROM_FN, TO_FUNCTION):
        names = [row.text for row in table]
        assert sorted(set(names)) == sorted(names)
