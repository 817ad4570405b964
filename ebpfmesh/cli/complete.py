# SPDX-License-Identifier: BSD-2-Clause
"""What the shell offers when Tab is pressed: names that there are.

Completion never fails: where nothing can be read, nothing is offered.
"""

import contextlib
from collections.abc import Callable, Iterable
from typing import TypeAlias

import click

Completer: TypeAlias = Callable[[click.Context, click.Parameter, str], list[str]]


def _offering(names: Callable[[], Iterable[str]]) -> Completer:
    def complete(context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
        with contextlib.suppress(Exception), context.scope(cleanup=False):
            return sorted(name for name in names() if name.startswith(begun))
        return []

    return complete


def _named(*kinds: str) -> Callable[[], Iterable[str]]:
    """Names of these kinds in the mesh that is meant."""

    def names() -> Iterable[str]:
        from ebpfmesh.cli.choose import the_mesh
        from ebpfmesh.observe import view

        with view.opened(the_mesh()) as seen:
            found = {
                "function": {row.function.name for row in seen.functions},
                "group": set(seen.groups),
                "service": {service.name for service in seen.record.services()},
                "remote": {row.name for row in seen.remotes},
                "tenant": {row.function.tenant for row in seen.functions}
                | {row.remote.tenant for row in seen.remotes},
                "injected": {row.injection.name for row in seen.record.injections()},
                "outside": {view.OUTSIDE},
                "uplink": {row.name for row in seen.record.uplinks()},
            }
        return set().union(*(found[kind] for kind in kinds))

    return names


def _meshes() -> Iterable[str]:
    from ebpfmesh.observe import view

    return view.meshes()


def _reasons() -> Iterable[str]:
    from ebpfmesh import _abi

    return (reason.name for reason in _abi.REASON_TEXT)


def _scenarios() -> Iterable[str]:
    from ebpfmesh.bench import scenario

    return scenario.names()


functions = _offering(_named("function"))
functions_and_groups = _offering(_named("function", "group"))
services = _offering(_named("service"))
tenants = _offering(_named("tenant"))
injected = _offering(_named("injected"))
parties = _offering(_named("function", "group", "remote", "outside"))
ends = _offering(_named("function", "group", "remote", "service", "outside"))
remotes = _offering(_named("remote"))
backends = _offering(_named("function", "group", "remote"))
uplinks = _offering(_named("uplink"))
meshes = _offering(_meshes)
reasons = _offering(_reasons)
scenarios = _offering(_scenarios)


def detachable(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    """What `detach` takes out, by whether --uplink stands before it."""
    chosen = uplinks if context.params.get("uplink") else functions_and_groups
    return chosen(context, parameter, begun)
