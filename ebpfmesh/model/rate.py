# SPDX-License-Identifier: BSD-2-Clause
"""What functions may send and get a second."""

import re
from decimal import Decimal
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema, model_validator

from ebpfmesh.model.base import Invalid, Model, show

_UNITS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_TEXT = r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([kKMGT]?)"
LEAST, MOST = 1000, 10**12
"""Bits a second."""
ALLOWED = 'bits a second from 1000 to "1T", such as "100M"'


def _number(value: object, info: ValidationInfo) -> object:
    """The number of a text such as ``100M``; anything else is left to the field's own checks."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(_TEXT, value)
    number = Decimal(match[1]) * _UNITS[match[2]] if match else Decimal("0.1")
    if number % 1:
        hint = 'a number, or a string such as "500k", "100M" or "2.5G" (powers of 1000)'
        raise Invalid(f'"{info.field_name}" cannot be {show(value)}', hint=hint)
    return int(number)


def _kind(least: int) -> WithJsonSchema:
    text = {"type": "string", "pattern": f"^{_TEXT}$"}
    return WithJsonSchema({"anyOf": [{"type": "integer", "minimum": least}, text]})


Bits = Annotated[int, BeforeValidator(_number), _kind(LEAST)]
Packets = Annotated[int, BeforeValidator(_number), _kind(1)]


def _bits() -> Any:
    return Field(default=None, ge=LEAST, le=MOST, description=ALLOWED)


def _packets() -> Any:
    text = 'packets a second from 1 to "1G", such as "50k"'
    return Field(default=None, ge=1, le=10**9, description=text)


class Rate(Model):
    """Bits and packets a second, each way; None: no limit. A text is bits, both ways.

    Of the frames as Ethernet has them (without preamble and check sum), GSO packets as what they
    would be cut into.
    """

    send: Bits | None = _bits()
    receive: Bits | None = _bits()
    send_pps: Packets | None = _packets()
    receive_pps: Packets | None = _packets()

    @model_validator(mode="before")
    @classmethod
    def _both_ways(cls, value: object) -> object:
        if not isinstance(value, (str, int)) or isinstance(value, bool):
            return value
        try:
            cls.model_validate({"send": value})
        except ValueError:
            what = f'"rate" cannot be {show(value) if isinstance(value, str) else value}'
            raise Invalid(what, hint=f"allowed: {ALLOWED}, or a table") from None
        return {"send": value, "receive": value}

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if not self.numbers:
            hint = 'such as {send = "100M"}; leave out rate, and there is no limit'
            raise Invalid('"rate" limits nothing', hint=hint)
        return self

    @property
    def numbers(self) -> dict[str, int]:
        """What it limits."""
        return {key: number for key, number in self if number is not None}

    def as_given(self) -> str | dict[str, str]:
        """As a mesh file has it, the shortest way."""
        given: dict[str, str] = {key: number_text(number) for key, number in self.numbers.items()}
        alike = given.keys() == {"send", "receive"} and self.send == self.receive
        return given["send"] if alike else given

    def __str__(self) -> str:
        """Such as ``100M``, or ``send=100M,receive_pps=50k`` as ``set --rate`` takes it."""
        given = self.as_given()
        return given if isinstance(given, str) else ",".join(f"{k}={v}" for k, v in given.items())


def rate_field() -> Any:
    """A field for a rate; its JSON schema takes a text or a number as well."""
    example = '{send = "100M", receive = "1G", send_pps = "50k"}'

    def also_text(schema: dict[str, Any]) -> None:
        schema["anyOf"] += [{"type": "integer", "minimum": LEAST}, {"type": "string"}]

    text = f"{ALLOWED}, or a table such as {example}"
    return Field(default=None, description=text, json_schema_extra=also_text)


def number_text(number: int) -> str:
    """A number as people write it, exactly: ``2500000000`` is ``2.5G``."""
    unit = next(unit for unit in "TGMk" if number >= _UNITS[unit] or unit == "k")
    if number < _UNITS[unit]:
        return str(number)
    return f"{Decimal(number) / _UNITS[unit]:f}{unit}"
