"""Durations, sizes and near names, as people write them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from datetime import timedelta
from typing import TypeGuard

from dayfly.errors import SpecError

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
# Its end has to be a date.
_LONGEST_S = 10 * 366 * 86400.0
_BYTES = {"": 1, "B": 1}
for _power, _letter in enumerate("KMGTP", start=1):
    _BYTES |= {f"{_letter}B": 1000**_power, f"{_letter}iB": 1024**_power, _letter: 1024**_power}
_SIZE = r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*$"
_PARTS = r"([0-9]+(?:\.[0-9]+)?)\s*([smhd])"
_CLOCK = r"^(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?$"


def seconds(value: float | str | timedelta, name: str) -> float:
    """A duration in seconds.

    Args:
        value: seconds, a timedelta, "90s", "1h30m", "2d", or a scheduler's "HH:MM:SS", "HH:MM" and "D-HH:MM:SS".
        name: what the message calls it.

    Raises:
        SpecError: not a positive duration.
    """
    found: float | None = None
    if isinstance(value, timedelta):
        found = value.total_seconds()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found = number(value)
    elif isinstance(value, str):
        found = _parse_duration(value.strip())
    if found is None or not 0 < found <= _LONGEST_S:
        raise SpecError(
            f'{name}={shown(value)} is not a positive duration of ten years at most; write "10m", "1h30m" or "01:30:00"'
        )
    return found


def _parse_duration(text: str) -> float | None:
    clock = re.match(_CLOCK, text)
    if clock:
        days, hours, minutes, secs = (float(part or 0) for part in clock.groups())
        return days * 86400 + hours * 3600 + minutes * 60 + secs
    if text and not re.sub(_PARTS, "", text).strip():
        return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(_PARTS, text))
    try:
        return float(text)
    except ValueError:
        return None


def size_bytes(value: int | float | str, name: str) -> int:
    """A size in bytes; "32GB" is 32 * 10**9, "32GiB" and "32G" are 32 * 2**30.

    Raises:
        SpecError: not a positive size.
    """
    found = 0.0
    if isinstance(value, int | float) and not isinstance(value, bool):
        found = number(value)
    elif isinstance(value, str) and (match := re.match(_SIZE, value)):
        unit = next((u for u in _BYTES if u.lower() == match[2].lower()), None)
        found = float(match[1]) * _BYTES[unit] if unit is not None else 0.0
    if not 1 <= found < float("inf"):
        raise SpecError(f'{name}={shown(value)} is not a size; write "32GB" or "512MiB"')
    return int(found)


def number(value: float) -> float:
    """A number as a float, infinite where it is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def is_positive(value: object) -> TypeGuard[float]:
    """Whether a value is a number above 0, and not one without end."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return 0 < number(value) < float("inf")


def shown(value: object) -> str:
    """A value as a message names it, which it must not fill."""
    try:
        text = repr(value)
    except ValueError:  # The interpreter writes no number of more than 4300 digits.
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def human_bytes(count: float) -> str:
    """A size for people, in the decimal units that clouds print."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def human_seconds(span: float) -> str:
    """A duration for people: "0.8 s", "41 s", "3 min 5 s", "24 h"."""
    if span < 10:
        return f"{span:.1f} s"
    if span < 120:
        return f"{span:.0f} s"
    minutes, secs = divmod(round(span), 60)
    if minutes < 120:
        return f"{minutes} min {secs} s" if secs else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def suggestion(name: str, known: Iterable[str]) -> str:
    """The tail of a message about an unknown name: the nearest ones, else all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(repr(n) for n in near) + "?"
    return "known: " + ", ".join(names)
