"""One JSON object of a request, read field by field; what the API's description does not allow is refused by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tests.emulators.lambda_cloud.refusal import Refusal, invalid

_ABSENT = object()


class Body:
    """Fields are taken one at a time; `end()` refuses any that was never asked for.

    Attributes:
        where: the path of this object inside of the request, for messages.
    """

    def __init__(self, value: object, where: str = "") -> None:
        if not isinstance(value, Mapping):
            raise invalid(f"{where or 'body'}: Input should be a valid dictionary")
        self._fields: Mapping[str, Any] = value
        self._taken: set[str] = set()
        self.where = where

    def has(self, name: str) -> bool:
        """The field is there, and not null."""
        return self._fields.get(name) is not None

    def refusal(self, name: str, why: str) -> Refusal:
        """The error that names this field."""
        return invalid(f"{self._path(name)}: {why}")

    def text(self, name: str, *, least: int = 0, most: int | None = None, pattern: str = "") -> str:
        """A string that must be there."""
        value = self._take(name)
        if value is _ABSENT:
            raise self.refusal(name, "Field required")
        if not isinstance(value, str):
            raise self.refusal(name, "Input should be a valid string")
        if len(value) < least:
            raise self.refusal(name, f"String should have at least {least} characters")
        if most is not None and len(value) > most:
            raise self.refusal(name, f"String should have at most {most} characters")
        if pattern and not re.search(pattern, value):
            raise self.refusal(name, f"String should match pattern '{pattern}'")
        return value

    def optional_text(
        self, name: str, *, least: int = 0, most: int | None = None, pattern: str = ""
    ) -> str | None:
        """A string that may be left out."""
        if not self.has(name):
            self._taken.add(name)
            return None
        return self.text(name, least=least, most=most, pattern=pattern)

    def number(self, name: str, default: int, *, least: int, most: int) -> int:
        """A whole number between two bounds."""
        value = self._take(name)
        if value is _ABSENT:
            return default
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.refusal(name, "Input should be a valid integer")
        if value < least:
            raise self.refusal(name, f"Input should be greater than or equal to {least}")
        if value > most:
            raise self.refusal(name, f"Input should be less than or equal to {most}")
        return value

    def texts(self, name: str, *, required: bool = False) -> list[str]:
        """A list of strings."""
        values = self._list(name, required)
        for number, value in enumerate(values):
            if not isinstance(value, str):
                raise self.refusal(f"{name}.{number}", "Input should be a valid string")
        return values

    def records(self, name: str, *, required: bool = False) -> list[Body]:
        """A list of objects."""
        values = self._list(name, required)
        return [Body(value, self._path(f"{name}.{number}")) for number, value in enumerate(values)]

    def record(self, name: str) -> Body | None:
        """An object that may be left out."""
        value = self._take(name)
        return None if value is _ABSENT else Body(value, self._path(name))

    def list_of_values(self, name: str) -> list[Any] | None:
        """A list of anything, or None where it is left out."""
        self._taken.add(name)
        return self._list(name, False) if self.has(name) else None

    def end(self) -> None:
        """Refuses every field that the API's description does not have."""
        for name in self._fields:
            if name not in self._taken:
                raise self.refusal(name, "Extra inputs are not permitted")

    def _path(self, name: str) -> str:
        return f"{self.where}.{name}" if self.where else name

    def _take(self, name: str) -> Any:
        self._taken.add(name)
        value = self._fields.get(name)
        return _ABSENT if value is None else value

    def _list(self, name: str, required: bool) -> list[Any]:
        value = self._take(name)
        if value is _ABSENT:
            if required:
                raise self.refusal(name, "Field required")
            return []
        if not isinstance(value, list):
            raise self.refusal(name, "Input should be a valid list")
        return value
