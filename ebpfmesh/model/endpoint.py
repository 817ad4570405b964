# SPDX-License-Identifier: BSD-2-Clause
"""What packets can be sent to by name."""

from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Self

from pydantic import AfterValidator, model_validator

from ebpfmesh.model.base import Address, Invalid, Model, Name, check_address


class Endpoint(Model):
    """What packets can be sent to by name; ``None`` for an address: none of that family."""

    name: Name
    address4: Annotated[IPv4Address, AfterValidator(check_address)] | None = None
    address6: Annotated[IPv6Address, AfterValidator(check_address)] | None = None

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Its addresses, IPv4 first: one or two."""
        return tuple(a for a in (self.address4, self.address6) if a is not None)

    @model_validator(mode="after")
    def _has_address(self) -> Self:
        if not self.addresses:
            raise Invalid("it has no address", hint="give it an IPv4 or an IPv6 address")
        return self
