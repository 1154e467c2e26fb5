"""A request that is refused."""

from __future__ import annotations

from .json_text import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

TEXT_CHARACTERS = 2000


# A shorter value masks half of every line, and is none of a secret's.
_SECRET_CHARACTERS = 6


class Refusal(Exception):
    """An answer of "no" to the client: `kind` is for its program, the text for its user."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def cleared(text: str, secrets: Mapping[str, str]) -> str:
    """Give a text without the values that must stay secret, nor what stands in one that is JSON: a service account's key."""
    found = {part for value in secrets.values() for part in _parts_of(value)}
    for value in sorted(found, key=len, reverse=True):
        if len(value) >= _SECRET_CHARACTERS:
            text = text.replace(value, "[secret]")
    return text


def _parts_of(secret: str) -> Iterator[str]:
    yield secret
    try:
        waiting: list[Any] = [loads(secret)]
    except ValueError:
        return
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str):
            yield value
            yield from value.splitlines()
