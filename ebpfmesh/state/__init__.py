# SPDX-License-Identifier: BSD-2-Clause
"""What there is of a mesh: its record, and what the kernel tells without one."""
