"""A request that is refused."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

TEXT_CHARACTERS = 2000


# A shorter value masks half of every line, and is none of a secret's.
_SECRET_CHARACTERS = 6


class Refusal(Exception):
    """An answer of "no" to the client: `kind` is for its program, the text for its user."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def cleared(text: str, secrets: Mapping[str, str]) -> str:
    """Give a text without the values that must stay secret."""
    for value in sorted(secrets.values(), key=len, reverse=True):
        if len(value) >= _SECRET_CHARACTERS:
            text = text.replace(value, "[secret]")
    return text
