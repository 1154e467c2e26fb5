"""Takes what must stay secret out of a line before it is shown: keys, tokens, passwords, and values told in advance."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Iterator

MASK = "[secret]"
# Shorter values ("1", "yes") would blacken half of every line and protect nothing.
LEAST_LENGTH = 6

_PATTERNS = (
    # A block whose end is missing is secret to the end of the text.
    (
        r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*-----|\Z)",
        MASK,
    ),
    (r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}", rf"\1 {MASK}"),
    (r"(?i)\b([a-z][a-z0-9+.-]*://)[^\s/@]*:[^\s/@]+@", rf"\1{MASK}@"),
    (r"\b(?:pul-[0-9a-f]{40}|hf_\w{20,}|gh[pousr]_\w{20,}|sk-[\w-]{20,})\b", MASK),
    (
        r"(?i)\b([\w-]*(?:password|passwd|secret|token|api[_-]?key))(\s*[=:]\s*)[^\s,;'\"]{6,}",
        rf"\1\2{MASK}",
    ),
)
_known: set[str] = set()
_lock = threading.Lock()


def remember(values: Iterable[str]) -> None:
    """Has these values masked from now on, wherever they appear: those of the Spec's secrets."""
    with _lock:
        _known.update(value for value in values if len(value) >= LEAST_LENGTH)


def remember_variables(names: Iterable[str]) -> list[str]:
    """Has the values of these variables of this process masked; gives the names of those that are not set."""
    declared = list(names)
    remember(os.environ[name] for name in declared if name in os.environ)
    return [name for name in declared if name not in os.environ]


def redact_known(text: str) -> str:
    """The text with every known secret masked, and nothing else: for words of the user's own program."""
    with _lock:
        known = sorted(_known, key=len, reverse=True)
    for value in known:
        text = text.replace(value, MASK)
    return text


def redact_tail(data: bytes, most: int) -> str:
    """The text of the last `most` bytes of something longer, masked as by `redact_known`.

    Where there are so many, what it begins with may be the end of a value whose beginning was cut off.
    """
    cut = _end_of_value(data) if len(data) >= most else 0
    return (MASK if cut else "") + redact_known(data[cut:].decode(errors="replace"))


def _end_of_value(data: bytes) -> int:
    """Length of the longest beginning of the data that is a proper end of a value, with the values that overlap it."""
    values = _known_bytes()
    ends = (
        size for value in values for size in range(1, len(value)) if data.startswith(value[-size:])
    )
    length = max(ends, default=0)
    for start, stop in sorted(_places(data, values)) if length else ():
        if start < length:
            length = max(length, stop)
    return length


def redact(text: str) -> str:
    """The text with every known secret, and everything that looks like one, masked."""
    text = redact_known(text)
    for pattern, replacement in _PATTERNS:
        text = re.sub(pattern, replacement, text)
    return text


class StreamMask:
    """Masks the remembered values in a stream of bytes, also where they are split over its pieces.

    Each is replaced by as many asterisks, so that offsets into the stream stay what they are. Only a tail that may be
    the beginning of a value is held back.
    """

    def __init__(self) -> None:
        self._held = b""
        # So many of the held bytes belong to a value of which the beginning is out already.
        self._covered = 0

    def feed(self, data: bytes) -> bytes:
        """The masked bytes that can be shown now."""
        values = _known_bytes()
        text = self._held + data
        return self._pass(text, values, len(text) - _open_tail(text, values))

    def flush(self) -> bytes:
        """What was held back, at the end of the stream."""
        return self._pass(self._held, _known_bytes(), len(self._held))

    def _pass(self, text: bytes, values: list[bytes], end: int) -> bytes:
        shown, covered = bytearray(text), self._covered
        for start, stop in [(0, covered), *_places(text, values)]:
            shown[start:stop] = b"*" * (stop - start)
            if start < end:
                covered = max(covered, stop)
        self._held, self._covered = text[end:], max(0, covered - end)
        return bytes(shown[:end])


def _known_bytes() -> list[bytes]:
    with _lock:
        return [value.encode(errors="surrogateescape") for value in _known]


def _places(text: bytes, values: list[bytes]) -> Iterator[tuple[int, int]]:
    """Where values stand, also those that overlap."""
    for value in values:
        place = text.find(value)
        while place >= 0:
            yield place, place + len(value)
            place = text.find(value, place + 1)


def _open_tail(text: bytes, values: list[bytes]) -> int:
    """Length of the longest end of the text that is a proper beginning of a value."""
    longest = 0
    for value in values:
        place = text.find(value[:1], max(0, len(text) - len(value) + 1))
        while place >= 0 and not value.startswith(text[place:]):
            place = text.find(value[:1], place + 1)
        if place >= 0:
            longest = max(longest, len(text) - place)
    return longest
