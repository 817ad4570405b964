# SPDX-License-Identifier: BSD-2-Clause
"""What a mesh is: functions, the services in front of them, and who may talk to whom.

The models are frozen and strict, know nothing of the kernel and do no I/O. They survive JSON
(``model_dump_json`` and ``model_validate_json``), which is how the record keeps them. What is
wrong with a value is an ``Invalid``; pydantic collects it like any ``ValueError``, and
``ebpfmesh.config`` makes one line for people of it.

Memory is in bytes, CPU in CPUs, time in seconds; ports are numbers as people write them.
"""

from ebpfmesh.model.base import (
    TOLD,
    Address,
    Hints,
    Invalid,
    Location,
    MeshName,
    Model,
    Name,
    Network,
    Port,
    check_address,
    check_mesh_name,
    few,
    parse_prefix,
    show,
    suggest,
    too_many,
)
from ebpfmesh.model.command import LIFE, SANDBOX, Capability, Volume
from ebpfmesh.model.endpoint import Endpoint
from ebpfmesh.model.function import FRAME, Function, FunctionSettings
from ebpfmesh.model.idle import idle_rules, warnings
from ebpfmesh.model.injection import Canary, Injection, InjectionSettings, Rights, ranked
from ebpfmesh.model.limits import Limits, Timeouts
from ebpfmesh.model.mesh import Mesh
from ebpfmesh.model.parts import Hook, OnFailure, Parts, groups_of, probes_of
from ebpfmesh.model.policy import (
    Action,
    Destination,
    Identity,
    Match,
    Policy,
    PolicySettings,
    Protocol,
    Source,
)
from ebpfmesh.model.pool import MEMBERS, POOL_BYTES, Pool
from ebpfmesh.model.ports import parse_ports, port_prefixes, ports_text
from ebpfmesh.model.rate import Rate, number_text
from ebpfmesh.model.readiness import Health, Probe, Ready
from ebpfmesh.model.remote import REMOTES, Remote
from ebpfmesh.model.scope import Scope
from ebpfmesh.model.service import Service, Weight
from ebpfmesh.model.shares import ByteShare, Share, Shares, guaranteed
from ebpfmesh.model.sizes import memory_text
from ebpfmesh.model.uplink import DENIED, UPLINK_IN_PLACE, UPLINKS, Published, Uplink
from ebpfmesh.model.whole import problems

__all__ = [
    "DENIED",
    "FRAME",
    "LIFE",
    "MEMBERS",
    "POOL_BYTES",
    "REMOTES",
    "SANDBOX",
    "TOLD",
    "UPLINKS",
    "UPLINK_IN_PLACE",
    "Action",
    "Address",
    "ByteShare",
    "Canary",
    "Capability",
    "Destination",
    "Endpoint",
    "Function",
    "FunctionSettings",
    "Health",
    "Hints",
    "Hook",
    "Identity",
    "Injection",
    "InjectionSettings",
    "Invalid",
    "Limits",
    "Location",
    "Match",
    "Mesh",
    "MeshName",
    "Model",
    "Name",
    "Network",
    "OnFailure",
    "Parts",
    "Policy",
    "PolicySettings",
    "Pool",
    "Port",
    "Probe",
    "Protocol",
    "Published",
    "Rate",
    "Ready",
    "Remote",
    "Rights",
    "Scope",
    "Service",
    "Share",
    "Shares",
    "Source",
    "Timeouts",
    "Uplink",
    "Volume",
    "Weight",
    "check_address",
    "check_mesh_name",
    "few",
    "groups_of",
    "guaranteed",
    "idle_rules",
    "memory_text",
    "number_text",
    "parse_ports",
    "parse_prefix",
    "port_prefixes",
    "ports_text",
    "probes_of",
    "problems",
    "ranked",
    "show",
    "suggest",
    "too_many",
    "warnings",
]
