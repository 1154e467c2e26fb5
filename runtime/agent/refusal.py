"""A request that is refused."""

from __future__ import annotations

TEXT_CHARACTERS = 2000


class Refusal(Exception):
    """An answer of "no" to the client: `kind` is for its program, the text for its user."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
