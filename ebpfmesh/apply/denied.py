# SPDX-License-Identifier: BSD-2-Clause
"""What users do to the deny list of a mesh."""

from collections.abc import Collection
from typing import NamedTuple

from ebpfmesh.apply import batch
from ebpfmesh.apply.held import OnStep, quiet
from ebpfmesh.apply.live import Live, opened
from ebpfmesh.errors import NotFound, UsageError
from ebpfmesh.kernel import rcu
from ebpfmesh.kernel.prefixes import block_of
from ebpfmesh.model import DENIED, Network, suggest
from ebpfmesh.state import early
from ebpfmesh.state.record import Record
from ebpfmesh.state.tables import Denied


class Changed(NamedTuple):
    """How many prefixes a change added and removed, and how many are denied after it."""

    added: int
    removed: int
    denied: int


def deny(
    mesh: str,
    prefixes: Collection[Network],
    *,
    uplink: str = "",
    replace: bool = False,
    on_step: OnStep = quiet,
) -> Changed:
    """Let nothing from these prefixes come in by an uplink of this name, or by any.

    With ``replace`` they are all that is denied there. Raises NotFound if there is no such uplink,
    UsageError where that is to have no XDP or there are too many prefixes, Unsupported and
    ForeignProgram if XDP cannot be had at one.
    """
    with opened(mesh, on_step) as live:
        batch.settle(live)
        _check_uplink(live.record, uplink)
        there = live.record.denied().keys()
        wanted = {Denied(uplink, block_of(prefix)) for prefix in prefixes}
        gone = {one for one in there if one.uplink == uplink} - wanted if replace else set()
        new = wanted - there
        size = len(there) - len(gone) + len(new)
        if size > DENIED:
            raise UsageError(
                f"{size} prefixes are more than the {DENIED} that can be denied",
                hint="join neighbours to shorter prefixes",
            )
        _change(live, gone, new)
        return Changed(len(new), len(gone), size)


def allow(
    mesh: str,
    prefixes: Collection[Network] | None,
    *,
    uplink: str = "",
    missing_ok: bool = False,
    on_step: OnStep = quiet,
) -> Changed:
    """Deny these prefixes no more, as ``deny`` was given them; None: nothing of that uplink's.

    None without an uplink: nothing at all.

    Raises NotFound if one is not denied, unless with ``missing_ok``.
    """
    with opened(mesh, on_step) as live:
        batch.settle(live)
        there = live.record.denied().keys()
        if prefixes is None:
            gone = {one for one in there if not uplink or one.uplink == uplink}
        else:
            wanted = {Denied(uplink, block_of(prefix)) for prefix in prefixes}
            gone = wanted & there
            if (missing := wanted - gone) and not missing_ok:
                _refuse(missing)
        _change(live, gone, ())
        return Changed(0, len(gone), len(there) - len(gone))


def _change(live: Live, gone: Collection[Denied], new: Collection[Denied]) -> None:
    if gone or new:
        with rcu.expedited(live.fixed.expedited):
            live.deny.change(gone, new)


def _check_uplink(record: Record, name: str) -> None:
    rows = {row.name: row for row in record.uplinks()}
    if not rows:
        hint = "ebpfmesh attach NAME --uplink INTERFACE makes an interface one"
        raise NotFound(f"mesh {record.mesh} has no uplink", hint=hint)
    if name and name not in rows:
        raise NotFound(f"there is no uplink {name}", hint=suggest(name, rows))
    chosen = [rows[name]] if name else list(rows.values())
    if not any(early.may_deny(row.uplink) for row in chosen):
        why = f'xdp = "{chosen[0].uplink.xdp}"'
        has = {"off": "no XDP", "generic": "no native XDP (some packets get around generic)"}
        what = f"uplink {chosen[0].name} is to have {has[chosen[0].uplink.xdp]}"
        raise UsageError(
            f"{what}, which a deny list needs",
            hint=f"leave out {why} at [[uplink]] in the file, then up",
        )


def _refuse(missing: Collection[Denied]) -> None:
    first = min(missing)
    where = f" at uplink {first.uplink}" if first.uplink else ""
    more = f", nor are {len(missing) - 1} others" if len(missing) > 1 else ""
    raise NotFound(
        f"{first.block.prefix} is not denied{where}{more}",
        hint="ebpfmesh deny show lists what is; --if-exists passes over what is not",
    )
