# SPDX-License-Identifier: BSD-2-Clause
"""What is said of a run: its page, pictures and tables, and the same on a terminal."""
