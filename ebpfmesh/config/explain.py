# SPDX-License-Identifier: BSD-2-Clause
"""What pydantic found wrong, in words for people: one line naming the object, and a hint."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from ebpfmesh.model import Invalid, Location, Mesh, show, suggest

_Made = TypeVar("_Made", bound=BaseModel)

_WANTED = {
    "bool_type": "true or false",
    "dict_type": "a table",
    "float_type": "a number",
    "int_type": "an integer",
    "model_type": "a table",
    "string_type": "a string",
    "tuple_type": "an array",
}
_GIVEN: dict[type, str] = {
    bool: "a boolean",
    dict: "a table",
    float: "a float",
    int: "an integer",
    list: "an array",
    str: "a string",
}
_SINGULAR = {
    "functions": "function",
    "services": "service",
    "policies": "policy",
    "uplinks": "uplink",
    "remotes": "remote",
}


def make(model: type[_Made], **values: object) -> _Made:
    """A ``model`` (Function, Service, …) of ``values``; raises ``Invalid`` in words for people.

    For what is typed on a command line: memory may be "64M", identities may be strings.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise explain(error.errors(include_url=False), model, values)[0] from None


def explain(
    details: Sequence[ErrorDetails],
    model: type[BaseModel],
    values: Mapping[str, Any],
    at: Location = (),
) -> list[Invalid]:
    """Each fault of ``values``, which were to be a ``model``, with the path that leads to it.

    ``at`` leads to the part of them that the ``details`` are about.
    """
    details = [{**detail, "loc": (*at, *detail["loc"])} for detail in details]
    # An array whose elements are all wrong is too short for pydantic as well.
    inside = {detail["loc"][:-1] for detail in details if detail["loc"]}
    return [
        _explain(detail, model, values)
        for detail in details
        if not (detail["type"] == "too_short" and detail["loc"] in inside)
    ]


def _explain(detail: ErrorDetails, model: type[BaseModel], values: Mapping[str, Any]) -> Invalid:
    at: Location = detail["loc"]
    if at[-1:] == ("[key]",):  # of a table whose keys are names
        at = at[:-1]
    about = subject(model, values, at)
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, Invalid):
        return Invalid(about + cause.message, path=at + cause.path, hint=cause.hint)
    holder, field = _find(model, at)
    key = next((str(part) for part in reversed(at) if isinstance(part, str)), "it")
    what = show(key) if isinstance(at[-1], str) else f"element {at[-1] + 1} of {show(key)}"
    match detail["type"]:
        case "extra_forbidden":
            message = f"{about}unknown key {show(key)}"
            return Invalid(message, path=at, hint=suggest(key, keys_of(holder)))
        case "missing":
            problem = "is missing"
        case "too_short":
            problem = "is empty"
        case kind if kind in _WANTED:
            given = _GIVEN.get(type(detail["input"]), "a date or time")
            problem = f"must be {_WANTED[kind]}, not {given}"
        case _:
            problem = f"cannot be {_shown(detail['input'])}"
    hint = f"allowed: {field.description}" if field and field.description else ""
    return Invalid(f"{about}{what} {problem}", path=at, hint=hint)


def subject(model: type[BaseModel], values: Mapping[str, Any], at: Location) -> str:
    """What a message about the part ``at`` begins with: the object by the name people know."""
    noun, item = model.__name__.lower(), values
    match at:
        case ("mesh", _, *_):
            return "[mesh]: "
        case (str(key), int(index), *_):
            noun, item = _SINGULAR.get(key, key), values[key][index]
            if not (isinstance(item, dict) and isinstance(item.get("name"), str)):
                return f"{noun} number {index + 1}: "
        case () if model is Mesh:  # its own checks name the object
            return ""
    name = item.get("name")
    return f"{noun} {show(name)}: " if isinstance(name, str) else ""


def _find(model: type[BaseModel], at: Location) -> tuple[type[BaseModel], FieldInfo | None]:
    """The model that has the last key of ``at``, and the field of it, if it knows the key."""
    holder, field = model, None
    for part in at:
        if isinstance(part, str):
            inner = next(_models(field.annotation), None) if field else model
            if inner is None:  # a table whose keys are names: what is said of it holds for all
                return holder, field
            holder, field = inner, keys_of(inner).get(part)
    return holder, field


def keys_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a table, by the keys they have in a file."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    """The models that a field with this ``annotation`` can hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _shown(value: object) -> str:
    """A value in a message, on one line and short."""
    match value:
        case str():
            return show(value)
        case bool():
            return str(value).lower()
        case float():
            return str(value)
        case int():
            return str(value) if value.bit_length() <= 64 else "an integer of more than 64 bits"
    return _GIVEN.get(type(value), "a date or time")
