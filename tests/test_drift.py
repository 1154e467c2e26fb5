"""What the provider says of a machine now is told apart, and mapped to what follows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest

from dayfly.errors import ConfigurationError, RunFailed
from dayfly.infra.found import Found, State
from dayfly.infra.providers.base import Limits, Provider
from dayfly.infra.providers.local import Local
from dayfly.runtime.drift import Action, Kind, refresh, state_now
from dayfly.stacks import journal
from dayfly.stacks.journal import Event, History
from dayfly.stacks.traces import seen_gone
from dayfly.stacks.workspace import Workspace
from tests import runs
from tests.test_census import local_replaced
from tests.test_cli import dayfly

__all__ = ["local_replaced"]


class _Telling(Local):
    """A provider that says what the test wants to hear."""

    def __init__(self, state: State, run: str = "", port: int = 9) -> None:
        self.state, self.run, self.port = state, run, port

    def inventory(self, owner: str | None) -> Sequence[Found]:
        return [Found("instance", "local-1", {"dayfly-run": self.run})] if self.run else []

    def instance_state(self, id: str) -> State:
        return self.state

    def address(self, id: str) -> tuple[str, int] | None:
        return "127.0.0.1", self.port


def _launched(workspace: Workspace) -> journal.History:
    run_id = runs.opened(workspace)
    runs.launched(workspace, run_id)
    return journal.read(workspace.directory(run_id))


@pytest.mark.parametrize(
    ("state", "listed", "told"),
    [
        ("running", True, ("none", "keep")),
        ("running", False, ("none", "keep")),
        ("booting", True, ("not ready", "wait")),
        ("terminated", False, ("deleted", "fail")),
        ("stopping", True, ("deleted", "fail")),
        ("unknown", False, ("deleted", "fail")),
        ("unknown", True, ("none", "keep")),
        ("preempted", True, ("preempted", "retry")),
        ("unhealthy", True, ("unhealthy", "replace")),
    ],
)
def test_each_state_has_its_own_kind_and_action(
    workspace: Workspace,
    local_replaced: Callable[[Provider], None],
    state: State,
    listed: bool,
    told: tuple[Kind, Action],
) -> None:
    """A listing that lags makes no machine deleted, nor does one answer of not knowing."""
    history = _launched(workspace)
    local_replaced(_Telling(state, history.id * listed))
    drift = refresh(history)
    assert (drift.kind, drift.action) == told
    noted = journal.read(history.directory).last("drift")
    assert (noted is not None) == (drift.kind != "none")


def _as_of(history: History, ago: float) -> History:
    events = tuple(Event(e.name, e.time - ago, e.fields) for e in history.events)
    return History(history.id, history.directory, events)


def test_a_machine_that_its_provider_no_longer_knows_is_gone_once_a_listing_cannot_miss_it(
    workspace: Workspace, local_replaced: Callable[[Provider], None]
) -> None:
    """One sees it gone, and it is journaled once; from then on a provider that does not know, or does not answer, proves no
    life; one that has the machine does."""
    history, telling = _launched(workspace), _Telling("unknown")
    telling.limits = Limits(60.0, 600.0, 60.0, "it goes on", "a console")
    local_replaced(telling)
    assert state_now(history) == "unknown"
    assert refresh(history).kind == "none"
    assert journal.read(history.directory).last("drift") is None
    assert state_now(_as_of(history, 61.0)) == "terminated"
    history = journal.read(history.directory)
    noted = history.last("drift")
    assert noted is not None
    assert (noted.fields["kind"], noted.fields["instance"]) == ("deleted", "local-1")
    assert seen_gone(history, "local-1") == noted.time
    assert state_now(history) == "terminated"

    def unreachable(id: str) -> State:
        raise ConfigurationError("no route")

    telling.instance_state = unreachable  # type: ignore[method-assign]  # the point
    assert state_now(history) == "terminated"
    telling.instance_state = lambda id: "running"  # type: ignore[method-assign]
    assert state_now(history) == "running"
    assert [e.name for e in journal.read(history.directory).events].count("drift") == 1


def test_a_changed_address_is_journaled_for_the_next_attach(
    workspace: Workspace, local_replaced: Callable[[Provider], None]
) -> None:
    """With the pinned key as it was."""
    history = _launched(workspace)
    local_replaced(_Telling("running", history.id, port=2222))
    drift = refresh(history)
    assert (drift.kind, drift.action) == ("address changed", "reconnect")
    assert drift.address == "127.0.0.1:2222"
    before, after = history.machine, journal.read(history.directory).machine
    assert before is not None
    assert after is not None
    assert (after.port, after.host_key) == (2222, before.host_key)


def test_a_run_without_a_machine_has_none_to_ask_for(workspace: Workspace) -> None:
    """Not yet, or no more."""
    run_id = runs.opened(workspace)
    with pytest.raises(RunFailed, match="no machine yet"):
        refresh(journal.read(workspace.directory(run_id)))
    runs.launched(workspace, run_id)
    runs.closed(workspace, run_id)
    with pytest.raises(RunFailed, match="is closed"):
        refresh(journal.read(workspace.directory(run_id)))


@pytest.mark.process
def test_the_command_line_tells_it(
    workspace: Workspace, local_replaced: Callable[[Provider], None]
) -> None:
    """In words and as JSON."""
    history = _launched(workspace)
    local_replaced(_Telling("preempted", history.id))
    told = json.loads(dayfly("refresh", history.id[:10], "--json").stdout)
    assert (told["kind"], told["action"], told["instance"]) == ("preempted", "retry", "local-1")
    assert "retry: the provider has taken it back" in dayfly("refresh", history.id).stdout
