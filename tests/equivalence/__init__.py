# SPDX-License-Identifier: BSD-2-Clause
"""The mesh and iptables-nft, given the same rules and the same packets, let the same ones pass."""
