# SPDX-License-Identifier: BSD-2-Clause
"""bpf(2), netlink, namespaces, links and cgroups: thin and typed, without policy."""
