"""A machine that is kept goes to one caller, of the same Spec, while there is time enough."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dayfly.infra.run import new_id
from dayfly.infra.spec import Spec
from dayfly.stacks import intent, journal
from dayfly.stacks.claim import claim, fingerprint
from dayfly.stacks.journal import History
from dayfly.stacks.run_lock import locked
from dayfly.stacks.standing import standing
from dayfly.stacks.workspace import Workspace
from tests.runs import OFFER, launched

SPEC = Spec(keep="10m", environment=[])
Keeps = Callable[..., History]


@pytest.fixture
def keeps(workspace: Workspace) -> Keeps:
    """Journals a run of a Spec whose machine is kept."""

    def one(spec: Spec = SPEC, *, of: Workspace = workspace, **said: Any) -> History:
        run_id, client = new_id(), journal.myself()
        intent.write(of, run_id, spec, OFFER, client=client, fingerprint=fingerprint(spec))
        launched(of, run_id)
        directory = of.directory(run_id)
        journal.append(directory, "kept", **{"until": time.time() + 600, "after": run_id} | said)
        return journal.read(directory)

    return one


def test_what_concerns_the_call_alone_asks_for_no_other_machine() -> None:
    """Its environment is found by its own digest; what the machine is, and how long it may live, is the machine's."""
    same: list[dict[str, Any]] = [
        {"environment": ["numpy"]},
        {"secrets": ["TOKEN"]},
        {"retries": 2},
        {"job_name": "night"},
        {"hold": "5m"},
        {"grace": "5m"},
    ]
    for options in same:
        assert fingerprint(dataclasses.replace(SPEC, **options)) == fingerprint(SPEC), options
    other: list[dict[str, Any]]
    other = [{"cores": 8}, {"max_runtime": "1h"}, {"max_cost": 3.0}, {"keep": "always"}]
    found = {fingerprint(dataclasses.replace(SPEC, **options)) for options in other}
    assert len(found | {fingerprint(SPEC)}) == 5


def test_it_is_taken_by_the_next_call_of_its_spec(workspace: Workspace, keeps: Keeps) -> None:
    """The run is then at work again, for as long as the one that has taken it is open."""
    host = keeps()
    taken = claim(workspace, SPEC, "b" * 32)
    assert taken is not None
    assert taken.id == host.id
    history = journal.read(host.directory)
    assert history.field("claimed", "run") == "b" * 32
    assert standing(history, time.time())[0] == "RUNNING"
    assert claim(workspace, SPEC, "c" * 32) is None


def test_of_many_callers_at_once_each_machine_gets_one(workspace: Workspace, keeps: Keeps) -> None:
    """And no caller gets two."""
    hosts = {keeps().id for _ in range(3)}
    ids = [new_id() for _ in range(12)]
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda run: claim(workspace, SPEC, run), ids))
    taken = [history.id for history in found if history is not None]
    assert sorted(taken) == sorted(set(taken))
    assert set(taken) <= hosts
    for host in taken:
        events = journal.read(workspace.directory(host)).events
        assert [event.name for event in events].count("claimed") == 1
    # Whoever finds it locked goes on; what was left over is there for the next.
    rest = [claim(workspace, SPEC, new_id()) for _ in range(4)]
    assert len(taken) + sum(history is not None for history in rest) == 3


def test_the_one_that_lives_longest_is_taken_first(workspace: Workspace, keeps: Keeps) -> None:
    """What is about to go is left to go."""
    keeps(until=time.time() + 60)
    host = keeps(until=time.time() + 500)
    keeps(until=time.time() + 100)
    taken = claim(workspace, SPEC, new_id())
    assert taken is not None
    assert taken.id == host.id


@pytest.mark.parametrize(
    ("of", "said"),
    [
        ({"owner": "somebody-else"}, {}),
        ({"backend": "s3://elsewhere"}, {}),
        ({}, {"until": 1.0}),
    ],
    ids=["owner", "backend", "over"],
)
def test_another_owner_s_and_another_backend_s_and_one_whose_time_is_over_are_left(
    workspace: Workspace, keeps: Keeps, of: dict[str, Any], said: dict[str, float]
) -> None:
    """As they are, without a word in their journals."""
    host = keeps(of=dataclasses.replace(workspace, **of), **said)
    assert claim(workspace, SPEC, new_id()) is None
    assert len(journal.read(host.directory).events) == len(host.events)


def test_one_of_another_computer_is_left_to_that(workspace: Workspace, keeps: Keeps) -> None:
    """A home on a shared disk: who minds it is there."""
    host = keeps()
    there = journal.myself() | {"host": "node7", "place": "x", "computer": {"id": "y", "macs": []}}
    journal.append(host.directory, "intent", **host.intent | {"client": there})
    assert claim(workspace, SPEC, new_id()) is None


def test_one_that_somebody_is_at_is_left_to_them(workspace: Workspace, keeps: Keeps) -> None:
    """A teardown holds the same lock; nobody waits for it, since another machine can be made."""
    host = keeps()
    with locked(host.directory):
        assert claim(workspace, SPEC, new_id()) is None
    assert claim(workspace, SPEC, new_id()) is not None


def test_one_half_of_whose_time_is_over_is_ended_instead(
    workspace: Workspace, keeps: Keeps
) -> None:
    """The function might need more than is left of max_runtime, which counts from the machine's launch."""
    spec = Spec(keep="always", max_runtime="1h")
    host = keeps(spec, until=time.time() + 3000)
    assert host.deadline == pytest.approx(time.time() + 3600, abs=5)
    said: list[str] = []
    assert claim(workspace, spec, new_id(), said.append, lambda: time.time() + 1900) is None
    assert "less than half of its max_runtime left" in said[0]
    history = journal.read(host.directory)
    assert standing(history, time.time())[0] == "ORPHAN"
