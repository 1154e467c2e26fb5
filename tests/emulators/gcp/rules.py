"""Rules of names and labels, and the part of the API's filter language that is used here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tests.emulators.gcp.refusals import Refusal, invalid

NAME = r"^(?:[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?)$"
_LABEL = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
_TERM = re.compile(r'^\(?\s*(?P<field>[\w.-]+)\s*(?P<how>=|eq|:)\s*"?(?P<value>[^"()]*)"?\s*\)?$')
_MOST_METADATA = 256 << 10


def check_name(name: object) -> None:
    """Of any resource.

    Raises:
        Refusal: it cannot be one.
    """
    if not re.match(NAME, str(name)):
        raise invalid("resource.name", name, f"Must be a match of regex '{NAME}'")


def check_labels(labels: Mapping[str, str]) -> None:
    """Lower case, digits, _ and -; 64 at most.

    Raises:
        Refusal: one is not so.
    """
    for name, value in labels.items():
        if not _LABEL.fullmatch(name) or not _VALUE.fullmatch(value) or len(labels) > 64:
            raise invalid("resource.labels", f"{name}={value}", "Label is not well formed")


def check_metadata(items: Mapping[str, str]) -> None:
    """Each value of 256 KB at most.

    Raises:
        Refusal: one is longer.
    """
    for name, value in items.items():
        if len(value) > _MOST_METADATA:
            raise invalid("resource.metadata", name, "Value is too large: maximum size 262144")


def keep(filter: str, row: Mapping[str, Any]) -> bool:
    """Whether a row satisfies a filter: terms of `=`, `eq` (a regular expression of the whole) and `:*`, joined by OR.

    Raises:
        Refusal: it is of a kind that is not known here.
    """
    return not filter or any(_holds(term, row) for term in filter.split(" OR "))


def _holds(term: str, row: Mapping[str, Any]) -> bool:
    found = _TERM.match(term.strip())
    if found is None:
        raise Refusal(400, "invalid", f"Invalid list filter expression: {term}")
    value: Any = row
    for step in found["field"].split(".", 1):
        value = value.get(step) if isinstance(value, Mapping) else None
    if found["how"] == ":":
        if found["value"] != "*":
            raise Refusal(400, "invalid", f"Invalid list filter expression: {term}")
        return value is not None
    if value is None:
        return False
    if found["how"] == "eq":
        return re.fullmatch(found["value"], str(value)) is not None
    return str(value) == found["value"]
