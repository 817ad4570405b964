# SPDX-License-Identifier: BSD-2-Clause
"""The steps of a change: what each does to a mesh that is up, what undoes it, how it reads.

Small and frozen, so that they can be written down before they are done, and undone after a kill.
``plan`` puts them in order; ``apply.batch`` does them.
"""

import json

from ebpfmesh.operation.base import Object, Operation, adapter, shown
from ebpfmesh.operation.changes import Changes
from ebpfmesh.operation.commands import RollFunction, SetReady, StartFunction, StopFunction
from ebpfmesh.operation.functions import (
    AT_ONCE,
    IN_PLACE,
    ROLLED,
    AddFunction,
    ChangeFunction,
    RemoveFunction,
)
from ebpfmesh.operation.injections import RemoveInjection, SetInjection
from ebpfmesh.operation.mesh import (
    CreateMesh,
    Repair,
    ReplacePrograms,
    SetHost,
    SetOnFailure,
    SetReject,
    SetRights,
    SetTimeouts,
)
from ebpfmesh.operation.remotes import AddRemote, RemoveRemote
from ebpfmesh.operation.services import AddPolicy, RemovePolicy, RemoveService, SetService
from ebpfmesh.operation.uplinks import AddUplink, ChangeUplink, RemoveUplink

__all__ = [
    "AT_ONCE", "IN_PLACE", "KINDS", "ROLLED", "AddFunction", "AddPolicy", "AddRemote", "AddUplink",
    "ChangeFunction", "ChangeUplink", "Changes", "CreateMesh", "Object", "Operation",
    "RemoveFunction", "RemoveInjection", "RemovePolicy", "RemoveRemote", "RemoveService",
    "RemoveUplink", "Repair", "ReplacePrograms", "RollFunction", "SetHost", "SetInjection",
    "SetOnFailure", "SetReady", "SetReject", "SetRights", "SetService", "SetTimeouts",
    "StartFunction", "StopFunction", "load", "shown",
]  # fmt: skip

_CLASSES: tuple[type[Operation], ...] = (
    CreateMesh, Repair, ReplacePrograms, SetTimeouts, SetReject, SetHost, SetRights, SetOnFailure,
    AddFunction, ChangeFunction, RemoveFunction, StopFunction, StartFunction, RollFunction,
    SetReady, SetService, RemoveService, AddPolicy, RemovePolicy, SetInjection, RemoveInjection,
    AddUplink, ChangeUplink, RemoveUplink, AddRemote, RemoveRemote,
)  # fmt: skip
KINDS = {one.kind: one for one in _CLASSES}


def load(text: str) -> Operation:
    """What ``Operation.dump`` wrote down."""
    kind, fields = json.loads(text)
    found: Operation = adapter(KINDS[kind]).validate_json(fields)
    return found
