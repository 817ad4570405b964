# SPDX-License-Identifier: BSD-2-Clause
"""How the processes of functions live."""
