# SPDX-License-Identifier: BSD-2-Clause
"""What the verifier and the JIT make of the programs stays within kernels/verifier.toml."""

import pytest

from ebpfmesh.observe.objects import read_programs
from ebpfmesh.observe.view import opened
from kernels import verifier
from kernels.matrix import series_of
from prog.lab import NAME


@pytest.mark.usefixtures("lab")
def test_every_program_is_within_its_budget() -> None:
    with opened(NAME) as view:
        measured = verifier.figures(read_programs(view))
    verifier.save(measured)
    series = series_of()
    if over := verifier.overruns(measured, verifier.budgets(series), series):
        pytest.fail("\n".join([f"see {verifier.BUDGETS.name}", *over]), pytrace=False)
