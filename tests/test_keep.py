"""After what, and until when, a machine stays."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dayfly.infra import keep
from dayfly.infra.spec import Spec


def test_it_is_written_as_a_duration_or_a_word() -> None:
    """Whatever a duration may be elsewhere; the words stay as they are, and nothing is nothing."""
    assert [Spec(keep=given).kept for given in ("10m", 600, timedelta(minutes=10))] == [600.0] * 3
    assert [Spec(keep=word).kept for word in ("on-failure", "always")] == ["on-failure", "always"]
    assert Spec().kept is None


@pytest.mark.parametrize(
    ("given", "failed", "until"),
    [
        (None, True, None),
        (600.0, False, 700.0),
        (600.0, True, 700.0),
        (6000.0, False, 1000.0),
        ("on-failure", False, None),
        ("on-failure", True, 1000.0),
        ("always", False, 1000.0),
    ],
)
def test_it_ends_at_the_deadline_at_the_latest(
    given: float | str | None, failed: bool, until: float | None
) -> None:
    """The words mean until then."""
    assert keep.until(given, now=100.0, deadline=1000.0, failed=failed) == until


def test_nothing_is_kept_past_its_deadline() -> None:
    """A call may end at that very moment."""
    assert keep.until("always", now=1000.0, deadline=1000.0, failed=False) is None


def test_what_it_costs_at_most_is_said_in_advance() -> None:
    """In words, and in the longest time that the machine can stay after one call."""
    assert keep.described(600.0) == "10 min after each call"
    assert keep.described("always") == "after each call until its deadline"
    assert keep.described("on-failure") == "after a call that fails, until its deadline"
    spans = [keep.longest_s(given, 900.0) for given in (None, 600.0, 6000.0, "always")]
    assert spans == [0.0, 600.0, 900.0, 900.0]
