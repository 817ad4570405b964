# SPDX-License-Identifier: BSD-2-Clause
"""All that is wrong with the values of files, and what can be made of them nevertheless.

Whatever the values are, looking at them costs little more than reading them did: each table is
looked at by itself, its unknown keys never reach pydantic, and after a thousand faults nobody
looks for more.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ebpfmesh.config.explain import explain, keys_of, subject
from ebpfmesh.model import TOLD, Invalid, Location, show, suggest

_Made = TypeVar("_Made", bound=BaseModel)
_COUNTED = 1000


class Check:
    """The faults of the values of ``files``, which are to be a ``model`` together.

    What leads to a part begins with the number of its file. ``told`` are the first of them,
    ``more`` is the number of the others that were found.
    """

    def __init__(self, model: type[BaseModel], files: Sequence[Mapping[str, Any]]) -> None:
        self.told: list[Invalid] = []
        self.more = 0
        self._model = model
        self._files = files

    @property
    def enough(self) -> bool:
        """Whether it is no use to look for others."""
        return self.more > _COUNTED

    def add(self, fault: Invalid) -> None:
        """Add one."""
        if len(self.told) < TOLD:
            self.told.append(fault)
        else:
            self.more += 1

    def table(
        self, model: type[_Made], table: object, at: Location, **spare: object
    ) -> _Made | None:
        """The ``table`` that is ``at`` a place in a file, without what is wrong with it.

        None if what is left is not enough, with the ``spare`` values of keys that are wrong.
        """
        kept = self._known(model, table, at) if isinstance(table, dict) else {}
        try:
            return model.model_validate(kept if isinstance(table, dict) else table)
        except ValidationError as error:
            wrong = {detail["loc"][:1] for detail in self._explain(error, at)}
        try:
            right = {key: value for key, value in kept.items() if (key,) not in wrong}
            return model.model_validate(spare | right)
        except ValidationError:
            return None

    def _explain(self, error: ValidationError, at: Location) -> list[Any]:
        details = error.errors(include_url=False)
        number, *inside = at
        values = self._files[int(number)]
        for fault in explain(details[: TOLD + 1], self._model, values, tuple(inside)):
            fault.path = (number, *fault.path)
            self.add(fault)
        self.more += max(0, len(details) - TOLD - 1)
        return details

    def _known(self, model: type[BaseModel], table: dict[str, Any], at: Location) -> dict[str, Any]:
        """``table`` without the keys that ``model`` does not know."""
        keys = keys_of(model)
        unknown = [key for key in table if key not in keys]
        for key in unknown[: TOLD + 1]:
            about = subject(self._model, self._files[int(at[0])], (*at[1:], key))
            message = f"{about}unknown key {show(key)}"
            self.add(Invalid(message, path=(*at, key), hint=suggest(key, keys)))
        self.more += max(0, len(unknown) - TOLD - 1)
        kept = {key: value for key, value in table.items() if key in keys}
        for key, value in kept.items():
            inner = keys[key].annotation
            if isinstance(value, dict) and isinstance(inner, type) and issubclass(inner, BaseModel):
                kept[key] = self._known(inner, value, (*at, key))
        return kept
