# SPDX-License-Identifier: BSD-2-Clause
"""From the sources in bpf/ to verified, pinned programs, which are kept."""
