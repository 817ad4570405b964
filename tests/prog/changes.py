# SPDX-License-Identifier: BSD-2-Clause
"""Changes a user makes to a mesh, for ``Lab.change``."""

from collections.abc import Callable

from ebpfmesh.model import Function, Mesh, Policy, Service

Change = Callable[[Mesh], Mesh]


def policies(*added: Policy) -> Change:
    """More rules."""
    return lambda mesh: mesh.model_copy(update={"policies": (*mesh.policies, *added)})


def no_policy(gone: Policy) -> Change:
    """Without the rule that has the match of ``gone``."""
    return lambda mesh: mesh.model_copy(
        update={"policies": tuple(rule for rule in mesh.policies if rule.match != gone.match)}
    )


def set_service(name: str, **changed: object) -> Change:
    """A service with other values."""

    def change(mesh: Mesh) -> Mesh:
        new = Service(**(dict(mesh.service(name)) | changed))
        services = tuple(new if s.name == name else s for s in mesh.services)
        return mesh.model_copy(update={"services": services})

    return change


def add_service(service: Service) -> Change:
    """One more service."""
    return lambda mesh: mesh.model_copy(update={"services": (*mesh.services, service)})


def no_service(name: str) -> Change:
    """Without a service and the rules about it."""

    def change(mesh: Mesh) -> Mesh:
        services = tuple(s for s in mesh.services if s.name != name)
        rules = tuple(p for p in mesh.policies if str(p.destination) != f"service:{name}")
        return mesh.model_copy(update={"services": services, "policies": rules})

    return change


def add_function(function: Function) -> Change:
    """One more function."""
    return lambda mesh: mesh.model_copy(update={"functions": (*mesh.functions, function)})


def set_function(name: str, **changed: object) -> Change:
    """A function with other values."""

    def change(mesh: Mesh) -> Mesh:
        new = Function(**(dict(mesh.function(name)) | changed))
        functions = tuple(new if f.name == name else f for f in mesh.functions)
        return mesh.model_copy(update={"functions": functions})

    return change


def no_function(name: str) -> Change:
    """Without a function, its part in services, and the rules about it."""

    def change(mesh: Mesh) -> Mesh:
        services = tuple(
            s.model_copy(update={"functions": tuple(f for f in s.functions if f != name)})
            for s in mesh.services
        )
        rules = tuple(
            p
            for p in mesh.policies
            if f"function:{name}" not in (str(p.source), str(p.destination))
        )
        functions = tuple(f for f in mesh.functions if f.name != name)
        return mesh.model_copy(
            update={"functions": functions, "services": services, "policies": rules}
        )

    return change
