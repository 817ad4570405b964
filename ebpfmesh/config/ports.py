# SPDX-License-Identifier: BSD-2-Clause
"""Ports of services and policies as people give them, for the model."""

from ebpfmesh.model import Invalid, ports_text

Range = tuple[int, int]
"""First and last port."""


def service_ports(own: Range, target: Range | None) -> dict[str, int]:
    """``port``, ``ports`` and ``target_port`` of a service; its target is its own if left out.

    Raises ``Invalid`` unless there are as many of both.
    """
    target = target or own
    count = own[1] - own[0] + 1
    if target[1] - target[0] + 1 != count:
        what = f"target port {ports_text(*target)} has {target[1] - target[0] + 1} ports, "
        what += f"port {ports_text(*own)} has {count}"
        last = target[0] + count - 1
        hint = f'did you mean "{ports_text(target[0], last)}"?' if last <= 65535 else ""
        hint = hint or "a range becomes one of the same length"
        raise Invalid(what, path=("target_port",), hint=hint)
    return {"port": own[0], "ports": count, "target_port": target[0]}


def policy_ports(ports: Range | None) -> dict[str, int]:
    """``port`` and ``port_end`` of a policy; without ports it is about any."""
    first, last = ports or (0, 0)
    return {"port": first, "port_end": last if last > first else 0}
