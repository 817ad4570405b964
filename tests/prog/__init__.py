# SPDX-License-Identifier: BSD-2-Clause
"""One program and one packet at a time, by BPF_PROG_TEST_RUN."""
