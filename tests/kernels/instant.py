# SPDX-License-Identifier: BSD-2-Clause
"""A plugin of pytest for guests: prints each failure at once, should the guest not end."""

import sys

import pytest


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        sys.stdout.write(f"\n{report.longreprtext}\n")
