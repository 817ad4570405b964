# SPDX-License-Identifier: BSD-2-Clause
"""Functions of others in the kernel: from a C file to a program in a chain."""
