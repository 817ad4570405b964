# SPDX-License-Identifier: BSD-2-Clause
"""Rates as people write them, what they are told of wrong ones, and what programs get."""

import ctypes
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfmesh import _abi
from ebpfmesh._abi import Direction, FunctionFlag
from ebpfmesh.config import edit, load
from ebpfmesh.config.explain import make
from ebpfmesh.errors import ConfigError, UsageError
from ebpfmesh.kernel import rates
from ebpfmesh.model import Function, Limits, Mesh, Rate, number_text

pytestmark = pytest.mark.unit

RATE_SEND = FunctionFlag.RATE_SEND
MESH = '[mesh]\nname = "edge"\n[[function]]\nname = "a"\n'


@pytest.mark.parametrize(
    ("given_", "numbers", "text"),
    [
        ('"100M"', {"send": 10**8, "receive": 10**8}, "100M"),
        ('"2.5G"', {"send": 2_500_000_000, "receive": 2_500_000_000}, "2.5G"),
        ("64000", {"send": 64000, "receive": 64000}, "64k"),
        ('"1T"', {"send": 10**12, "receive": 10**12}, "1T"),
        ('{send = "10M"}', {"send": 10**7}, "send=10M"),
        ('{receive = "10K", send = 10000}', {"send": 10**4, "receive": 10**4}, "10k"),
        (
            '{send = "1M", receive = "2M", send_pps = "50k", receive_pps = 7}',
            {"send": 10**6, "receive": 2 * 10**6, "send_pps": 50000, "receive_pps": 7},
            "send=1M,receive=2M,send_pps=50k,receive_pps=7",
        ),
    ],
)
def test_what_is_allowed(tmp_path: Path, given_: str, numbers: dict[str, int], text: str) -> None:
    path = tmp_path / "mesh.toml"
    path.write_text(f"{MESH}rate = {given_}\n")
    rate = load(path).function("a").rate
    assert rate
    assert (rate.numbers, str(rate)) == (numbers, text)
    assert Rate.model_validate(rate.as_given()) == rate


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ('"1x"', 'function "a": "rate" cannot be "1x"'),
        ('"-1M"', 'function "a": "rate" cannot be "-1M"'),
        ('"0.0001k"', 'function "a": "rate" cannot be "0.0001k"'),
        ("999", 'function "a": "rate" cannot be 999'),
        ('"1.1T"', 'function "a": "rate" cannot be "1.1T"'),
        ("true", 'function "a": "rate" must be a table, not a boolean'),
        ("{}", 'function "a": "rate" limits nothing'),
        ('{sends = "1M"}', 'function "a": unknown key "sends"'),
        ('{send = "1kbit"}', 'function "a": "send" cannot be "1kbit"'),
        ("{send_pps = 0}", 'function "a": "send_pps" cannot be 0'),
        ("{receive_pps = 1.5}", 'function "a": "receive_pps" must be an integer, not a float'),
    ],
)
def test_what_is_not(tmp_path: Path, given_: str, message: str) -> None:
    path = tmp_path / "mesh.toml"
    path.write_text(f"{MESH}rate = {given_}\n")
    with pytest.raises(ConfigError) as raised:
        load(path)
    assert str(raised.value) == f"{path}:5: {message}"
    assert raised.value.hint


@given(st.integers(0, 10**12))
def test_numbers_are_written_exactly(number: int) -> None:
    text = number_text(number)
    assert number < 1000 or Rate.model_validate({"send": text}).send == number


def test_set() -> None:
    mesh = make_mesh()
    changed = edit.set_limits(mesh, "a", rate={"send": "10M", "send_pps": "5k"})
    assert changed.function("a").rate == Rate(send=10**7, send_pps=5000)
    assert edit.set_limits(changed, "a", rate=None) == mesh
    for wrong in ("10X", {"sent": "1M"}, {"send": ""}):
        with pytest.raises(UsageError, match="a"):
            edit.set_limits(mesh, "a", rate=wrong)


def make_mesh() -> Mesh:
    function = make(Function, name="a", address4=IPv4Address("198.18.0.1"))
    return make(Mesh, name="edge", functions=(function,))


@given(st.integers(1000, 10**12), st.integers(1, 10**9))
def test_buckets(bits: int, packets: int) -> None:
    """Rounded so that never more is dropped than must be; no number leaves its 64 bits."""
    row = rates.row(Rate(send=bits, send_pps=packets), Direction.FROM_FN)
    for bucket, units, least, most in (
        (row.bytes, bits / 8, rates.LEAST_BYTES, 1 << 20),
        (row.packets, packets, rates.LEAST_PACKETS, 1 << 16),
    ):
        exact = (10**9 << _abi.RATE_SHIFT) / units
        assert exact * 0.998 < bucket.cost <= exact
        assert bucket.burst >= least / units * 10**9 - 1
        assert bucket.cost * most < 1 << 63
        assert bucket.burst < (1 << 43)
    other = rates.row(Rate(send=bits, send_pps=packets), Direction.TO_FN)
    assert not any(bytes(other))
    full = rates.row(Rate(send=bits, send_pps=packets), Direction.FROM_FN)
    full.bytes.due = 5
    assert rates.alike(row, full)
    assert not rates.alike(row, other)


@pytest.mark.parametrize(
    ("rate", "flags"),
    [
        (None, 0),
        ("1M", FunctionFlag.RATE_SEND | FunctionFlag.RATE_RECEIVE),
        ({"send_pps": 1}, FunctionFlag.RATE_SEND),
        ({"receive": 1000}, FunctionFlag.RATE_RECEIVE),
    ],
)
def test_flags(rate: object, flags: int) -> None:
    function = make(Function, name="a", address4=IPv4Address("198.18.0.1"), rate=rate)
    assert rates.flags(function, None) == flags
    audited = function.model_copy(update={"audit": True})
    assert rates.flags(audited, Rate(send=1000)) == flags | FunctionFlag.AUDIT | RATE_SEND


def test_no_two_are_at_one_place() -> None:
    limits = Limits(functions=3, tenants=2)
    places = [rates.slot(one) + way for one in range(4) for way in rates.WAYS]
    places += [rates.tenant_slot(limits, one) + way for one in range(5) for way in rates.WAYS]
    assert places == list(range(18))
    assert ctypes.sizeof(_abi.Rate) == 56
