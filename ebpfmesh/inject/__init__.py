# SPDX-License-Identifier: BSD-2-Clause
"""Functions of others in the kernel: from a C file to a program in a chain.

The text is read (``source``), compiled where it can do no harm (``compile``, ``compiler``), its
instructions are checked (``check``), its maps made (``maps``); it is verified and measured
(``build``, ``measure``) and put between instructions of ours (``compose``).
"""
