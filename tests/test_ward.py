"""When the keeper does something about a run, and how it goes on when that does not work: on a clock that the test owns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from dayfly.infra.spec import Spec
from dayfly.runtime.ward import Ward
from dayfly.stacks import journal, late_look
from dayfly.stacks.workspace import Workspace
from tests import runs

_HERE = {"host": journal.myself()["host"], "place": journal.myself()["place"]}
_DEAD = {"pid": 2**22 + 1, "started": 1.0, "ticks": 1, **_HERE}


class Act:
    """An act that ends when the test says so."""

    pid = 7

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.variables = dict(variables)
        self.code: int | None = None
        self.words = ""

    def end(self, code: int, words: str = "") -> None:
        self.code, self.words = code, words

    def poll(self) -> int | None:
        return self.code

    def said(self) -> str:
        return self.words


class Acts:
    """Every act that a ward has started."""

    def __init__(self) -> None:
        self.started: list[Act] = []
        self.trouble: OSError | None = None

    def __call__(self, directory: Path, variables: Mapping[str, str]) -> Act:
        if self.trouble is not None:
            raise self.trouble
        self.started.append(Act(variables))
        return self.started[-1]


@pytest.fixture
def acts() -> Acts:
    """What has been started."""
    return Acts()


def a_ward(workspace: Workspace, acts: Acts, **client: object) -> tuple[Ward, float]:
    """A ward of a run whose client is dead, and the time at which it was asked for."""
    run_id = runs.opened(workspace, alive=not client)
    directory = workspace.directory(run_id)
    if client:
        journal.append(directory, "attached", client=client)
    ward = Ward(directory, acts, jitter=lambda: 1.0)
    return ward, float(ward.history.intent["created"])


def test_a_living_client_is_left_alone_until_long_after_the_deadline(
    workspace: Workspace, acts: Acts
) -> None:
    """It enforces its own."""
    ward, now = a_ward(workspace, acts)
    ward.look(now)
    ward.look(ward.history.deadline + 299)
    assert acts.started == []
    ward.look(ward.history.deadline + 301)
    assert len(acts.started) == 1


def test_a_dead_client_s_run_is_acted_on_once_and_again_when_the_act_says(
    workspace: Workspace, acts: Acts
) -> None:
    """While one acts there is no other; its own word says when to come back."""
    ward, now = a_ward(workspace, acts, **_DEAD)
    ward.entrust({"KEY": "v"})
    ward.look(now)
    ward.look(now + 1)
    (act,) = acts.started
    assert act.variables == {"KEY": "v"}
    act.end(0, json.dumps({"next": now + 50}))
    ward.look(now + 2)
    ward.look(now + 49)
    assert len(acts.started) == 1
    ward.look(now + 50)
    assert len(acts.started) == 2


def test_a_run_that_is_held_no_longer_is_acted_on_at_once(workspace: Workspace, acts: Acts) -> None:
    """What was put off was put off for what it was then."""
    ward, now = a_ward(workspace, acts, **_DEAD)
    journal.append(ward.directory, "job_started")
    ward.look(now)
    acts.started[0].end(0, json.dumps({"next": now + 3000}))
    ward.look(now + 1)
    journal.append(ward.directory, "cancelled", by=_DEAD)
    ward.look(now + 2)
    assert len(acts.started) == 2


def test_a_machine_that_is_kept_is_acted_on_when_its_time_is_over(
    workspace: Workspace, acts: Acts
) -> None:
    """Whether or not its client lives; not while another run is on it, and then when that is closed."""
    ward, now = a_ward(workspace, acts)
    journal.append(ward.directory, "kept", until=now + 60)
    ward.look(now + 59)
    assert acts.started == []
    other = runs.opened(workspace)
    journal.append(ward.directory, "claimed", run=other, by=journal.myself())
    ward.look(now + 61)
    assert acts.started == []
    journal.append(ward.directory, "kept", until=now + 100)
    ward.look(now + 99)
    assert acts.started == []
    ward.look(now + 100)
    assert len(acts.started) == 1


def test_a_closed_run_is_acted_on_when_its_late_look_is_due(
    workspace: Workspace, acts: Acts
) -> None:
    """Not before, and never where none was asked for."""
    ward, now = a_ward(workspace, acts)
    runs.closed(workspace, ward.id)
    ward.look(now)
    late_look.put(ward.directory, now + 60)
    ward.look(now + 59)
    assert acts.started == []
    ward.look(now + 60)
    acts.started[0].end(0, '{"next": null}')
    late_look.done(ward.directory)
    ward.look(now + 120)
    assert len(acts.started) == 1


def test_failures_are_journaled_and_come_later_and_later_and_never_end_silently(
    workspace: Workspace, acts: Acts
) -> None:
    """Doubling up to five minutes, for a day; then the journal says that the keeper has given up."""
    ward, start = a_ward(workspace, acts, **_DEAD)
    now, waits = start, []
    while not ward.given_up:
        ward.look(now)
        acts.started[-1].end(75, "the API is down")
        ward.look(now)
        waits.append(ward.next - now)
        now = ward.next
    assert waits[:9] == [2, 4, 8, 16, 32, 64, 128, 256, 300]
    assert set(waits[8:]) == {300}
    assert 86400 <= now - start < 86400 + 700
    history = journal.read(ward.directory)
    failed = [event for event in history.events if event.name == "keeper_failed"]
    assert [event.fields["attempt"] for event in failed] == list(range(1, len(waits)))
    gave_up = history.last("keeper_gave_up")
    assert gave_up is not None
    assert gave_up.fields["message"] == "the API is down"
    assert not ward.needs_keeper(now)
    assert not ward.is_due(now + 1e6)
    ward.entrust({})
    assert ward.is_due(now)


def test_a_computer_that_slept_for_days_has_not_given_up(workspace: Workspace, acts: Acts) -> None:
    """Two failures, one before it slept and one when it woke, are two failures."""
    ward, now = a_ward(workspace, acts, **_DEAD)
    for _ in range(3):
        ward.look(now)
        acts.started[-1].end(75, "the API is down")
        ward.look(now)
        now += 3 * 86400
    assert not ward.given_up
    assert ward.is_due(now)


def test_a_result_that_was_given_up_is_destroyed_at_its_deadline_all_the_same(
    workspace: Workspace, acts: Acts
) -> None:
    """A machine that nobody could reach for a day, of a function that may run for three: the keeper stays, and ends it."""
    run_id = runs.opened(workspace, alive=False, spec=Spec(max_runtime="72h"))
    directory = workspace.directory(run_id)
    journal.append(directory, "attached", client=_DEAD)
    journal.append(directory, "job_started")
    ward = Ward(directory, acts, jitter=lambda: 1.0)
    now = float(ward.history.intent["created"])
    while not ward.given_up:
        ward.look(now)
        acts.started[-1].end(75, "no route to host")
        ward.look(now)
        now = ward.next
    assert ward.needs_keeper(now)
    tried = len(acts.started)
    ward.look(ward.history.deadline - 1)
    assert len(acts.started) == tried
    ward.look(ward.history.deadline + 1)
    assert len(acts.started) == tried + 1
    acts.started[-1].end(75, "the API is down")
    ward.look(ward.history.deadline + 2)
    assert (ward.given_up, ward.failures) == (False, 1)


def test_an_act_that_goes_well_forgets_the_failures(workspace: Workspace, acts: Acts) -> None:
    """The next outage begins at two seconds again."""
    ward, now = a_ward(workspace, acts, **_DEAD)
    for code, words in ((1, "no"), (1, "no"), (0, '{"next": null}'), (1, "no")):
        ward.look(now)
        acts.started[-1].end(code, words)
        ward.look(now)
        now = ward.next
    assert ward.failures == 1


def test_another_process_at_the_run_is_no_failure(workspace: Workspace, acts: Acts) -> None:
    """The act ends with the code for that, and is started again soon."""
    ward, now = a_ward(workspace, acts, **_DEAD)
    ward.look(now)
    acts.started[0].end(73)
    ward.look(now)
    assert (ward.failures, ward.next) == (0, now + 5)


def test_a_keeper_that_can_start_nothing_says_so_in_the_journal(
    workspace: Workspace, acts: Acts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its virtual environment was deleted: the next command reads why nothing happens."""
    ward, now = a_ward(workspace, acts, **_DEAD)
    acts.trouble = FileNotFoundError(2, "No such file or directory", "/gone/python")
    monkeypatch.setattr("sys.executable", "/gone/python")
    ward.look(now)
    assert "the interpreter of the keeper is gone" in ward.last_failure
    assert journal.read(ward.directory).field("keeper_failed", "message") == ward.last_failure


def test_a_client_of_another_computer_is_not_judged_here(workspace: Workspace, acts: Acts) -> None:
    """The folder is shared, its process cannot be seen: only the deadline counts, and that for a cloud's machine alone."""
    ward, now = a_ward(workspace, acts, pid=1, started=0.0, host="elsewhere")
    ward.look(now)
    ward.look(ward.history.deadline + 1)
    assert acts.started == []
    assert not ward.needs_keeper(now)
    cloud = {"same_computer": False, "client": {"pid": 1, "started": 0.0, "host": "elsewhere"}}
    journal.append(ward.directory, "intent", **ward.history.intent | cloud)
    ward.look(now)
    assert acts.started == []
    assert not ward.needs_keeper(now)
    ward.look(ward.history.deadline + 1)
    assert len(acts.started) == 1


def test_a_journal_that_cannot_be_understood_is_acted_on_and_harms_nothing_else(
    workspace: Workspace, acts: Acts
) -> None:
    """It was edited; what the act makes of it is journaled like any failure."""
    ward, now = a_ward(workspace, acts)
    journal.append(ward.directory, "intent", client="nobody", deadline="soon")
    assert "cannot be understood" in ward.as_dict(now)["why"]
    ward.look(now)
    assert len(acts.started) == 1
    assert ward.needs_keeper(now)


def test_another_client_s_credentials_fill_in_and_replace_only_what_does_not_work(
    workspace: Workspace, acts: Acts
) -> None:
    """It may have another account; but a key that was revoked has to be replaceable by the new one."""
    ward, now = a_ward(workspace, acts, **_DEAD)
    ward.entrust({"KEY": "own"})
    ward.entrust({"KEY": "another", "URL": "u"}, own=False)
    assert ward.variables == {"KEY": "own", "URL": "u"}
    ward.look(now)
    acts.started[0].end(1, "401")
    ward.look(now)
    ward.entrust({"KEY": "new"}, own=False)
    assert ward.variables == {"KEY": "new", "URL": "u"}


def test_its_status_names_variables_and_never_shows_them(workspace: Workspace, acts: Acts) -> None:
    """`dayfly keeper status` is for anybody's eyes."""
    ward, now = a_ward(workspace, acts, **_DEAD)
    ward.entrust({"TEST_KEY": "correct-horse"})
    told = ward.as_dict(now)
    assert told["variables"] == ["TEST_KEY"]
    assert "correct-horse" not in json.dumps(told)
