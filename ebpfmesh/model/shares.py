# SPDX-License-Identifier: BSD-2-Clause
"""What a tenant has of what all tenants share: at least, and at most."""

from collections.abc import Iterator
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from ebpfmesh._abi import EVENT_BYTES
from ebpfmesh.model.base import Invalid, Model
from ebpfmesh.model.limits import Limits
from ebpfmesh.model.sizes import BYTES, parse_bytes

GUARANTEED = 3, 4
"""The part of a table that tenants can have guaranteed, numerator and denominator.

The rest is for tenants without a guarantee, the outside, and whoever comes first.
"""
_MOST = 1 << 21
_WORDS = f"an integer from 1 to {_MOST}"


class Share(Model):
    """Places in a table: for the tenant alone, and altogether; None: as if it did not say."""

    guarantee: int | None = Field(default=None, ge=1, le=_MOST, description=_WORDS)
    maximum: int | None = Field(default=None, ge=1, le=_MOST, description=_WORDS)

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        if self.guarantee and self.maximum and self.guarantee > self.maximum:
            what = f"the guarantee, {self.guarantee}, is above the maximum, {self.maximum}"
            raise Invalid(what, path=("guarantee",), hint="raise maximum, or lower guarantee")
        return self


Bytes = Annotated[int, BeforeValidator(parse_bytes), BYTES]
_SIZE = f'from 4096 to {EVENT_BYTES}, such as "64K"'


class ByteShare(Share):
    """The same of a buffer, in bytes."""

    guarantee: Bytes | None = Field(default=None, ge=4096, le=EVENT_BYTES, description=_SIZE)
    maximum: Bytes | None = Field(default=None, ge=4096, le=EVENT_BYTES, description=_SIZE)


def size_of(key: str, limits: Limits) -> int:
    """How much there is of what ``Shares`` calls so."""
    return EVENT_BYTES if key == "events" else int(getattr(limits, key))


def guaranteed(size: int) -> int:
    """How much of a table of this size can be guaranteed."""
    return size * GUARANTEED[0] // GUARANTEED[1]


class Shares(Model):
    """The shares of a tenant."""

    flows: Share = Field(
        default=Share(), description="a table, such as {guarantee = 4096, maximum = 16384}"
    )
    half_open: Share = Field(
        default=Share(), description="a table, such as {guarantee = 512, maximum = 1024}"
    )
    fragments: Share = Field(default=Share(), description="a table, such as {guarantee = 512}")
    events: ByteShare = Field(
        default=ByteShare(), description='a table, such as {guarantee = "128K", maximum = "256K"}'
    )

    def guarantees(self) -> Iterator[tuple[str, int]]:
        """What is guaranteed, by the limit of the mesh that it is a part of."""
        for key in Shares.model_fields:
            if guarantee := getattr(self, key).guarantee:
                yield key, guarantee
