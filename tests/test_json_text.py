"""The agent's own door to JSON lets through what the standard library's does, and nothing else."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dayfly.runtime.agent import json_text

ATOMS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    ATOMS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


@given(VALUES)
def test_it_is_what_json_makes_and_reads(value: Any) -> None:
    """Byte for byte; as text or as bytes, whatever space is around it."""
    text = json.dumps(value)
    assert json_text.dumps(value) == text
    assert json_text.loads(text) == value == json_text.loads(f" {text}\n".encode())
    assert json_text.loads(json.dumps(value, ensure_ascii=False, indent=1)) == value


def test_what_is_no_number_is_taken_as_json_takes_it() -> None:
    """A meter that has nothing to tell may say so."""
    assert json_text.dumps([math.inf, -math.inf]) == json.dumps([math.inf, -math.inf])
    read = json_text.loads('[NaN, Infinity, -Infinity, 1e5, -0.0, {"1": 1}]')
    assert math.isnan(read[0])
    assert read[1:] == [math.inf, -math.inf, 1e5, 0.0, {"1": 1}]
    keys = {1: [2, (3,)], None: 2.5, 0.5: True}
    assert json_text.dumps(keys) == json.dumps(keys)


@pytest.mark.parametrize(
    "text", ["", " ", "{", "[1,]", "nul", "{} {}", "1 x", "'a'", '{"a" 1}', "\x00"]
)
def test_what_is_no_json_is_refused(text: str) -> None:
    """With the error that whoever reads a torn file expects."""
    with pytest.raises(ValueError, match=r"."):
        json.loads(text)
    with pytest.raises(ValueError, match=r"."):
        json_text.loads(text)


def test_a_python_that_has_it_otherwise_does_it_by_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in C is no door for everybody, and may change."""
    monkeypatch.setattr(json_text, "_scan", None)
    monkeypatch.setattr(json_text, "_pieces", None)
    assert json_text.loads(json_text.dumps({"a": [1, None]})) == {"a": [1, None]}


def test_what_json_has_no_form_for_is_refused() -> None:
    """Named by its type."""
    with pytest.raises(TypeError, match="set"):
        json_text.dumps({"a": {1}})
    with pytest.raises(ValueError, match="utf-8"):
        json_text.loads(b'"\xff"')
