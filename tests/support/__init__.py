# SPDX-License-Identifier: BSD-2-Clause
"""What tests of several tiers share; see tests/README.md."""
