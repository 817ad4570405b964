# SPDX-License-Identifier: BSD-2-Clause
"""Measuring the mesh beside the paths it replaces: real tools, interleaved rounds, raw results.

scenarios/*.toml ─ scenario ─▶ run ─▶ lab: paths/ ◀─ measure/ ─ packets/, tools
                                │
                                └─▶ results ─▶ stats/ ─▶ report/

``kinds`` are the figures there are, ``workload`` is the mesh (demo.toml) they are taken of.
"""
