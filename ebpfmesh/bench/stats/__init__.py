# SPDX-License-Identifier: BSD-2-Clause
"""What the raw results say: pure functions of them, the same on every call."""
