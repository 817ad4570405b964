# SPDX-License-Identifier: BSD-2-Clause
"""What the tools print, and what is read from it."""

import pytest

from ebpfmesh.bench.measure.traffic import (
    parse_iperf3,
    parse_sockperf,
    parse_wrk,
    read_sockperf_log,
)
from ebpfmesh.errors import CommandFailed

RECEIVED = '{"end": {"sum_received": {"bits_per_second": 2e9, "bytes": 5000}}'


def test_sockperf_report() -> None:
    text = "sockperf: ---> percentile 99.000 =   65.7\nsockperf: ---> percentile 50.000 =   37.3\n"
    assert parse_sockperf(text) == {99.0: 65.7, 50.0: 37.3}
    with pytest.raises(CommandFailed):
        parse_sockperf("sockperf: ERROR: connection refused")


@pytest.mark.parametrize(
    "text", ["iperf3: error", '{"end": {}}', RECEIVED + ', "error": "control socket closed"}']
)
def test_iperf3_without_result_is_a_failure(text: str) -> None:
    with pytest.raises(CommandFailed):
        parse_iperf3(text)


def test_iperf3_report() -> None:
    assert parse_iperf3(RECEIVED + "}") == (2e9, 5000)


def test_wrk_report() -> None:
    text = "  12345 requests in 1.00s\nRequests/sec:  12344.50\n"
    assert parse_wrk(text) == (12344.5, 12345)
    with pytest.raises(CommandFailed):
        parse_wrk("  Socket errors: connect 0, read 3\n" + text)


def test_sockperf_log_has_every_message() -> None:
    lines = ["sockperf: 3 messages\n", "1,0.5,0.6,7.004\n", "2,0.7,0.8,7.004\n", "3,1,2,20\n"]
    times = read_sockperf_log(lines)
    assert times.get_total_count() == 3
    assert times.get_value_at_percentile(50) == 7007  # three digits are kept
    assert times.get_max_value() == pytest.approx(20_000, rel=1e-3)
    with pytest.raises(CommandFailed, match="no message"):
        read_sockperf_log(lines[:1])
