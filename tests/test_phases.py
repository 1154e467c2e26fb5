"""The phases of a run, from journals as they are written in every kind of life."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dayfly.runtime import phases
from dayfly.stacks.journal import Event, History


def told(
    tmp_path: Path, *events: tuple[str, float, dict[str, Any]] | tuple[str, float]
) -> list[Any]:
    """Name, start and end of each phase."""
    made = tuple(Event(each[0], each[1], each[2] if len(each) > 2 else {}) for each in events)
    found = phases.of(History("ab" * 16, tmp_path, made))
    return [(phase.name, phase.start, phase.end) for phase in found]


UP = (
    ("intent", 0.0),
    ("up_started", 0.1),
    ("machine", 10.0),
    ("connected", 11.0),
    ("deadline_armed", 12.0),
)


def test_a_run_that_went_well_has_them_all(tmp_path: Path) -> None:
    """What passes between two is of the one before."""
    events = (
        *UP,
        ("job_started", 20.0),
        ("job_ended", 50.5, {"ended": 50.0}),
        ("deadline_armed", 51.0),
    )
    events += (("acknowledged", 52.0), ("closing", 52.5), ("closed", 55.0))  # type: ignore[assignment]
    assert told(tmp_path, *events) == [
        ("provision", 0.0, 10.0),
        ("connect", 10.0, 12.0),
        ("environment", 12.0, 20.0),
        ("run", 20.0, 50.0),
        ("result", 50.0, 52.0),
        ("teardown", 52.5, 55.0),
    ]


def test_a_machine_that_was_kept_has_what_became_of_it(tmp_path: Path) -> None:
    """Waiting, and lent to another run."""
    events = (("job_started", 20.0), ("job_ended", 30.0), ("acknowledged", 31.0), ("kept", 32.0))
    later = (("claimed", 40.0), ("kept", 50.0), ("closing", 60.0), ("closed", 61.0))
    assert told(tmp_path, *UP, *events, *later)[-4:] == [
        ("kept", 32.0, 40.0),
        ("lent", 40.0, 50.0),
        ("kept", 50.0, 60.0),
        ("teardown", 60.0, 61.0),
    ]


def test_what_goes_on_has_no_end(tmp_path: Path) -> None:
    """Its length is that until now."""
    assert told(tmp_path, *UP, ("job_started", 20.0))[-1] == ("run", 20.0, None)
    assert phases.Phase("run", 20.0, None).seconds(now=23.0) == 3.0
    assert told(tmp_path) == []


def test_a_run_whose_client_died_is_held_until_somebody_comes(tmp_path: Path) -> None:
    """The function ended when the machine says so, however late that was seen; who attaches while it runs changes nothing."""
    events = (("job_started", 20.0), ("attached", 25.0), ("job_ended", 90.0, {"ended": 60.0}))
    events += (("held", 91.0), ("attached", 200.0), ("job_ended", 201.0, {"ended": 60.0}))  # type: ignore[assignment]
    events += (("acknowledged", 202.0), ("closing", 203.0), ("closed", 204.0))  # type: ignore[assignment]
    assert told(tmp_path, *UP, *events)[3:] == [
        ("run", 20.0, 60.0),
        ("result", 60.0, 91.0),
        ("hold", 91.0, 200.0),
        ("result", 200.0, 202.0),
        ("teardown", 203.0, 204.0),
    ]


@pytest.mark.parametrize("ended", [5.0, 1e12, None, "soon", 0.0])
def test_a_clock_that_is_wrong_turns_no_phase_round(tmp_path: Path, ended: object) -> None:
    """A machine may believe to live in another year."""
    found = told(tmp_path, *UP, ("job_started", 20.0), ("job_ended", 50.0, {"ended": ended}))
    assert found[-2][1] == 20.0
    assert found[-2][2] in (20.0, 50.0)


def test_a_teardown_that_could_not_prove_absence_is_followed_by_another(tmp_path: Path) -> None:
    """Between the two nobody was at it."""
    events = (("closing", 20.0), ("leak_risk", 30.0), ("closing", 100.0), ("closed", 110.0))
    assert told(tmp_path, *UP, *events)[-2:] == [
        ("teardown", 20.0, 30.0),
        ("teardown", 100.0, 110.0),
    ]
