"""JSON by the part of the standard library's that is in C: its own door, `json`, loads `re` first, which takes as long as all of the agent."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Context:
    """What the scanner asks for: what `json.loads` asks for where nothing is said."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, float


def _refuse(value: Any) -> Any:
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


try:
    from _json import encode_basestring_ascii, make_encoder, make_scanner

    _context: Any = _Context
    _scan: Any = make_scanner(_context)
    _pieces: Any = make_encoder(
        None, _refuse, encode_basestring_ascii, None, ": ", ", ", False, False, True
    )
    _pieces({}, 0)
except (ImportError, AttributeError, TypeError):  # A Python that has it otherwise.
    _scan = _pieces = None


def dumps(value: Any) -> str:
    """As `json.dumps` without options."""
    if _pieces is None:
        import json

        return json.dumps(value)
    return "".join(_pieces(value, 0))


def loads(text: str | bytes) -> Any:
    """As `json.loads` of what `dumps` has made.

    Raises:
        ValueError: it is no JSON, or more than one value.
    """
    if _scan is None:
        import json

        return json.loads(text)
    line = (text if isinstance(text, str) else str(text, "utf-8")).strip(" \t\r\n")
    try:
        value, end = _scan(line, 0)
    except StopIteration as error:
        raise ValueError(f"no JSON: {line[:80]!r}") from error
    if end != len(line):
        raise ValueError(f"more than JSON: {line[end : end + 80]!r}")
    return value
