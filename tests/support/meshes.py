# SPDX-License-Identifier: BSD-2-Clause
"""Mesh files: their tables, written as calls, and files that several tests begin with."""

import json


def table(kind: str, **keys: object) -> str:
    """A table of a mesh file: ``[[kind]]`` and its keys."""
    return "".join([f"[[{kind}]]\n", *(f"{key} = {_value(keys[key])}\n" for key in keys)])


def _value(value: object) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {_value(inner)}' for key, inner in value.items())}}}"
    return json.dumps(value, ensure_ascii=False)  # as TOML has it


def mesh_file(name: str, *tables: str, **settings: object) -> str:
    """A mesh file of these tables, with ``settings`` in [mesh]."""
    return table("mesh", name=name, **settings).replace("[[mesh]]", "[mesh]") + "".join(tables)


def function(name: str, tenant: str = "", **keys: object) -> str:
    return table("function", name=name, **({"tenant": tenant} if tenant else {}), **keys)


def uplink(number: int = 0, **keys: object) -> str:
    """An uplink at the interface of ``beyond(number)``."""
    return table("uplink", name=f"u{number}", interface=f"up{number}", **keys)


def service(name: str, port: int | str, *functions: str, number: int = 1, **keys: object) -> str:
    """A service with addresses of this number; it is published only if ``publish`` says where."""
    whole = {"address": [f"198.19.0.{number}", f"2001:db8:1::{number}"], "port": port} | keys
    later = {key: whole.pop(key) for key in ("weights", "affinity", "publish") if key in whole}
    return table("service", name=name, **whole, functions=functions, **later)


def rule(source: str, to: str, **keys: object) -> str:
    return table("policy", **{"from": source, "to": to}, **keys)


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
