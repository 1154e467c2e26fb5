"""The resources that a program declares, listed in a fork: its error is told as what it is."""

from __future__ import annotations

import os
from typing import Any, NoReturn

import pytest

from dayfly.infra.run import Run
from dayfly.infra.spec import Spec
from dayfly.stacks import recorder
from tests.runs import OFFER


def _run(tmp_path: Any) -> Run:
    return Run("a" * 32, "me", 0.0, 0.0, tmp_path, "", "")


def test_what_declaring_raises_comes_through_with_its_words(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not as what an empty answer looks like to a parser."""

    def refuse(*_: object) -> NoReturn:
        raise LookupError("uid 4711 has no account")

    monkeypatch.setattr(recorder, "_record", refuse)
    with pytest.raises(RuntimeError, match="LookupError: uid 4711 has no account"):
        recorder.resources(Spec(), OFFER, _run(tmp_path))


def test_a_fork_that_ends_without_a_word_is_told_with_its_signal(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where memory runs out."""
    monkeypatch.setattr(recorder, "_record", lambda *_: os.kill(os.getpid(), 9))
    with pytest.raises(RuntimeError, match="ended with -9"):
        recorder.resources(Spec(), OFFER, _run(tmp_path))
