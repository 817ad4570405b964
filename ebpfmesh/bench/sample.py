# SPDX-License-Identifier: BSD-2-Clause
"""What one measurement gives."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sample:
    """A figure in the unit of its kind, and the raw output it was read from.

    ``packets`` is the least number of packets that must have gone through the path for it to be
    true. ``more`` are figures of other kinds that came along; ``by_cpu`` is the same figure by the
    CPU time that it took instead of the time that went by, where that is known.
    """

    value: float
    raw: str
    packets: int = 1
    more: Mapping[str, float] = field(default_factory=dict)
    by_cpu: float | None = None
