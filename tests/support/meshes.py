# SPDX-License-Identifier: BSD-2-Clause
"""Meshes that several tests begin with, as mesh files; a test adds what it needs besides."""

BALANCED = """
[mesh]
name = "balanced"
[[function]]
name = "client"
[[function]]
name = "web"
replicas = 3
[[service]]
name = "web"
address = ["198.19.0.1", "2001:db8:1::1"]
port = 80
target_port = 8080
functions = ["web"]
"""
"""client ──▶ web:80 ──▶ web-0:8080 | web-1:8080 | web-2:8080"""

TENANTS = """
[mesh]
name = "edge"
[[function]]
name = "client"
tenant = "one"
[[function]]
name = "server"
tenant = "two"
replicas = 2
command = ["sleep", "1000"]
ready = { file = "/etc/hosts" }
memory = "64M"
[[service]]
name = "web"
address = ["198.19.0.1", "2001:db8:1::1"]
port = 80
target_port = 8080
functions = ["server"]
[[policy]]
from = "function:client"
to = "service:web"
"""
"""client of one ──▶ web:80 ──▶ server-0:8080 | server-1:8080; they run, but do not listen"""
