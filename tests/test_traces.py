"""What a run may have left, told from its journal and from the record of its creating requests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dayfly.infra import creations, providers
from dayfly.infra.run import Run, new_id
from dayfly.infra.spec import Spec
from dayfly.stacks import intent, journal
from dayfly.stacks.traces import Life, Traces, seen_gone
from dayfly.stacks.workspace import Workspace
from tests.runs import OFFER

RECORDED, PLAIN = providers.load("lambda"), providers.load("local")


@pytest.fixture
def run(workspace: Workspace) -> Run:
    """One run that is written down and nothing more."""
    return intent.write(workspace, new_id(), Spec(), OFFER)


@pytest.fixture
def traces(run: Run) -> Callable[[], Traces]:
    """Of that run, at a provider that keeps a record."""
    return lambda: Traces.of(journal.read(run.directory), RECORDED)


def test_a_run_that_asked_for_nothing_has_left_nothing(
    run: Run, traces: Callable[[], Traces]
) -> None:
    """Also when its engine had begun: no record is a proof, and there is no bill."""
    journal.append(run.directory, "up_started")
    found = traces()
    assert (found.known, found.unsettled, found.unsettled_since) == ((), (), None)
    assert (found.recorded, found.lives) == (True, ())


def test_known_ids_have_to_be_followed(run: Run, traces: Callable[[], Traces]) -> None:
    """With the tags of the run; what was seen gone need not, and ends the bill."""
    key, machine = (creations.begin(run.directory, kind) for kind in ("key", "instance"))
    creations.answered(run.directory, key, "k-1")
    creations.answered(run.directory, machine, "i-1")
    found = traces()
    assert [(t.found.kind, t.found.id, t.found.run) for t in found.known] == [
        ("key", "k-1", run.id),
        ("instance", "i-1", run.id),
    ]
    assert found.lives == (Life("i-1", machine.begun, None),)
    creations.deleted(run.directory, "i-1")
    found = traces()
    assert [t.found.id for t in found.known] == ["k-1"]
    (life,) = found.lives
    assert life.begun == machine.begun
    assert life.ended is not None


def test_a_refusal_leaves_nothing_and_costs_nothing(run: Run, traces: Callable[[], Traces]) -> None:
    """Nobody has to wait for it."""
    machine = creations.begin(run.directory, "instance")
    creations.refused(run.directory, machine, "no capacity")
    found = traces()
    assert (found.known, found.unsettled, found.lives) == ((), (), ())


def test_a_request_without_an_answer_is_unsettled_and_may_cost_money(
    run: Run, traces: Callable[[], Traces]
) -> None:
    """From the moment at which it was sent."""
    machine = creations.begin(run.directory, "instance")
    found = traces()
    assert found.unsettled == ("instance",)
    assert found.unsettled_since == machine.begun
    assert found.lives == (Life("", machine.begun, None, is_guess=True),)


def test_what_the_engine_knows_settles_what_could_not_be_recorded(
    run: Run, traces: Callable[[], Traces]
) -> None:
    """The disk was full when the answer came."""
    creations.begin(run.directory, "instance")
    journal.append(run.directory, "launched", id="i-1", usd_per_hour=1.0)
    found = traces()
    assert found.unsettled == ()
    assert [t.found.id for t in found.known] == ["i-1"]


def test_what_the_engine_knows_settles_its_own_request_alone(workspace: Workspace) -> None:
    """Of two machines the other one is still to be looked for, and may cost money."""
    run = intent.write(workspace, new_id(), Spec(nodes=2), OFFER)
    for node in range(2):
        creations.begin(run.directory, "instance", node)
    journal.append(run.directory, "launched", id="i-1", usd_per_hour=1.0, node=1)
    found = Traces.of(journal.read(run.directory), RECORDED)
    assert [t.found.id for t in found.known] == ["i-1"]
    assert found.unsettled == ("instance",)
    assert [(life.id, life.is_guess) for life in found.lives] == [("i-1", False), ("", True)]


def test_without_a_record_the_journal_has_to_do(run: Run) -> None:
    """A vendor's plugin takes no hook: an `up` without an id is a launch without an answer."""
    history = journal.read(run.directory)
    assert Traces.of(history, PLAIN).unsettled == ()
    journal.append(run.directory, "up_started")
    found = Traces.of(journal.read(run.directory), PLAIN)
    assert (found.unsettled, found.recorded) == (("instance",), False)
    assert found.unsettled_since == found.lives[0].begun
    journal.append(run.directory, "launched", id="i-1", usd_per_hour=1.0)
    assert Traces.of(journal.read(run.directory), PLAIN).unsettled == ()


def test_a_machine_is_billed_until_it_was_first_seen_gone(
    run: Run, traces: Callable[[], Traces]
) -> None:
    """By whoever looked, unless it has given a sign of life since."""
    machine = creations.begin(run.directory, "instance")
    creations.answered(run.directory, machine, "i-1")

    def drift() -> float:
        journal.append(run.directory, "drift", instance="i-1", kind="deleted", state="terminated")
        return journal.read(run.directory).events[-1].time

    drift()
    journal.append(run.directory, "job_ended")
    assert seen_gone(journal.read(run.directory), "i-1") is None
    journal.append(run.directory, "drift", instance="i-1", kind="deleted", state="stopping")
    assert traces().lives[0].ended is None
    seen = drift()
    drift()
    creations.deleted(run.directory, "i-1")
    assert traces().lives[0].ended == seen
