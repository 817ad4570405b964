# SPDX-License-Identifier: BSD-2-Clause
"""Measuring the mesh beside the paths it replaces: real tools, interleaved rounds, raw results."""
