# SPDX-License-Identifier: BSD-2-Clause
"""A plugin of pytest for guests: says at once what failed, in case that the guest does not end."""

import sys

import pytest


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        sys.stdout.write(f"\n{report.longreprtext}\n")
