# SPDX-License-Identifier: BSD-2-Clause
"""What takes a figure over a path: packets per second, real traffic, changes, CPU, costs."""
