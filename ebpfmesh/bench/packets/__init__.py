# SPDX-License-Identifier: BSD-2-Clause
"""Packets made in the kernel, and where they end: the generator, its frames, the sinks."""
