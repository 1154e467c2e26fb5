"""Whatever shows anywhere is found, with whose it is; a listing that fails concludes nothing."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest

from dayfly.errors import DayflyError, UnknownRun
from dayfly.infra import lambda_key, providers
from dayfly.infra.found import Found, State
from dayfly.infra.providers.base import Provider
from dayfly.infra.providers.local import Local
from dayfly.stacks import gc, journal
from dayfly.stacks.census import census, owned_by, survey
from dayfly.stacks.workspace import Workspace
from tests import runs
from tests.test_cli import dayfly
from tests.test_gc import tagged

_RUN = "b" * 32


def test_a_census_knows_what_is_another_owner_s_and_leaves_it(workspace: Workspace) -> None:
    """It is listed, with its owner; only a request in so many words dooms it."""
    with tagged("someone-else", _RUN) as theirs:
        assert theirs.stdout is not None
        theirs.stdout.readline()
        try:
            found = census(workspace, None)
            (finding,) = [f for f in found.findings if f.run == _RUN]
            assert (finding.status, finding.owner) == ("FOREIGN", "someone-else")
            assert finding not in gc.doomed(found.findings, held=True)
            assert finding in gc.doomed(found.findings, foreign=True)
            assert owned_by(found, "someone-else").findings == (finding,)
            assert theirs.poll() is None
            lost = dataclasses.replace(workspace, owner="someone-else")
            (as_theirs,) = owned_by(census(lost, None), "someone-else").findings
            assert as_theirs.status == "ORPHAN"
            gc.destroy(lost, None, as_theirs, lambda _: None)
            assert theirs.wait(10) != 0
        finally:
            theirs.kill()


class _Broken(Local):
    """The API is down."""

    def inventory(self, owner: str | None) -> Sequence[Found]:
        raise ConnectionError("the API is down")


class _Crowded(Local):
    """An account with machines that are not ours."""

    def inventory(self, owner: str | None) -> Sequence[Found]:
        return [Found("instance", "i-1"), Found("instance", "i-2")]


@pytest.fixture
def local_replaced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Provider], None]]:
    """Another provider under the name of the local one; the real one is back afterwards."""

    def replace(provider: Provider) -> None:
        module = sys.modules["dayfly.infra.providers.local"]
        monkeypatch.setattr(module, "PROVIDER", provider)
        providers.load.cache_clear()

    yield replace
    monkeypatch.undo()
    providers.load.cache_clear()


def test_a_listing_that_fails_is_told_and_concludes_nothing(
    workspace: Workspace, local_replaced: Callable[[Provider], None]
) -> None:
    """A held run whose machine is not listed, because nothing is, is held."""
    run_id = runs.opened(workspace, alive=False)
    runs.launched(workspace, run_id)
    local_replaced(_Broken())
    found = census(workspace, None)
    assert "API is down" in found.failed["local"]
    assert [(f.run, f.status) for f in found.findings] == [(run_id, "HELD")]
    with pytest.raises(DayflyError, match="API is down"):
        survey(workspace)


class _Elsewhere(Local):
    """An account like any other, which knows nothing of what another one has."""

    account = "work"

    def place(self) -> str:
        return self.account

    def inventory(self, owner: str | None) -> Sequence[Found]:
        return []

    def instance_state(self, id: str) -> State:
        return "unknown"


def test_a_held_run_of_another_account_is_held(
    workspace: Workspace, local_replaced: Callable[[Provider], None]
) -> None:
    """Neither its listing nor its answer says anything of that machine; why is said. With the right one it is known gone."""
    cloud = _Elsewhere()
    local_replaced(cloud)
    run_id = runs.opened(workspace, alive=False)
    runs.launched(workspace, run_id)
    cloud.account = "private"
    later = time.time() + 3600
    (held,) = survey(workspace, later)
    assert held.status == "HELD"
    assert "it is in account work, and these credentials are of private" in held.why
    cloud.account = "work"
    assert [finding.status for finding in survey(workspace, later)] == ["EXPIRED"]


def test_what_carries_no_tag_is_counted_and_nothing_more(
    workspace: Workspace, local_replaced: Callable[[Provider], None]
) -> None:
    """I8: nothing that is not tagged ours is ever touched."""
    local_replaced(_Crowded())
    found = census(workspace, None)
    assert (found.findings, dict(found.untagged)) == ((), {"local": 2})


class _Odd(Local):
    """An account in which anybody may write tags."""

    tags: Mapping[str, str]
    ended: list[str]

    def __init__(self, tags: Mapping[str, str]) -> None:
        self.tags, self.ended = tags, []

    def inventory(self, owner: str | None) -> Sequence[Found]:
        return [Found("instance", "i-1", self.tags)]

    def terminate(self, found: Found) -> None:
        self.ended.append(found.id)


@pytest.mark.parametrize("tag", ["../../victim", "B" * 32, "b" * 31, "b" * 33, "b" * 32 + "\n"])
def test_a_tag_that_is_no_run_id_is_nobody_s_and_never_a_path(
    workspace: Workspace, local_replaced: Callable[[Provider], None], tag: str
) -> None:
    """Anybody who may tag an instance could have a folder of this user's emptied."""
    victim = workspace.home.parent / "victim"
    (victim / "project").mkdir(parents=True, exist_ok=True)
    local = _Odd({"dayfly-run": tag, "dayfly-owner": workspace.owner})
    local_replaced(local)
    found = census(workspace, None)
    assert (found.findings, dict(found.untagged)) == ((), {"local": 1})
    assert dayfly("gc", "--yes", "--owner", workspace.owner).returncode == 0
    assert (victim / "project").is_dir()
    assert local.ended == []
    with pytest.raises(UnknownRun, match="not a run id"):
        workspace.directory(tag)


@pytest.mark.parametrize("odd", ["yesterday", "nan", "inf", "1e999"])
def test_an_odd_tag_disables_nothing(
    workspace: Workspace, local_replaced: Callable[[Provider], None], odd: str
) -> None:
    """A time that is none is as good as none: it has no age, and no deadline that is to come."""
    tags = {"dayfly-run": _RUN, "dayfly-owner": workspace.owner}
    local_replaced(_Odd({**tags, "dayfly-created": odd, "dayfly-deadline": odd}))
    (finding,) = census(workspace, None).findings
    assert (finding.status, finding.created) == ("ORPHAN", None)
    shown = dayfly("gc")
    assert (shown.returncode, "ORPHAN" in shown.stdout) == (0, True)


def test_one_that_cannot_be_judged_does_not_hide_the_others(
    workspace: Workspace,
    local_replaced: Callable[[Provider], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is shown with the reason, and not destroyed."""
    run_id = runs.opened(workspace, alive=False)
    local_replaced(_Odd({"dayfly-run": _RUN, "dayfly-owner": workspace.owner}))
    monkeypatch.setattr("dayfly.stacks.census._of_nobody", lambda *_: 1 / 0)
    found = {f.run: f for f in census(workspace, None).findings}
    assert (found[_RUN].status, found[run_id].status) == ("UNREADABLE", "ORPHAN")
    assert "ZeroDivisionError" in found[_RUN].why
    assert [f.run for f in gc.doomed(list(found.values()))] == [run_id]


def test_a_folder_among_the_runs_that_is_none_is_not_taken_for_one(workspace: Workspace) -> None:
    """Somebody's copy of a run, say."""
    (workspace.runs / f"{_RUN}.bak").mkdir()
    assert survey(workspace) == []


class _Lagging(Local):
    """A listing that shows nothing, and what the provider says of an id itself."""

    state: State

    def __init__(self, state: State, lag_s: float = 0.0) -> None:
        self.state = state
        self.limits = Local.limits._replace(listing_lag_s=lag_s)

    def inventory(self, owner: str | None) -> Sequence[Found]:
        return []

    def instance_state(self, id: str) -> State:
        if self.state == "pending":
            raise ConnectionError("the API is down")
        return self.state


@pytest.mark.parametrize(
    ("state", "lag_s", "status"),
    [
        ("running", 0.0, "HELD"),
        ("unhealthy", 0.0, "HELD"),
        ("pending", 0.0, "HELD"),
        ("unknown", 600.0, "HELD"),
        ("unknown", 0.0, "EXPIRED"),
        ("terminated", 600.0, "EXPIRED"),
        ("preempted", 600.0, "EXPIRED"),
    ],
)
def test_a_held_run_that_a_listing_misses_is_held_until_its_end_is_certain(
    workspace: Workspace,
    local_replaced: Callable[[Provider], None],
    state: State,
    lag_s: float,
    status: str,
) -> None:
    """Its result would be destroyed with it, for a listing that lags."""
    run_id = runs.opened(workspace, alive=False)
    runs.launched(workspace, run_id)
    local_replaced(_Lagging(state, lag_s))
    (finding,) = census(workspace, None).findings
    assert finding.status == status


def test_one_that_is_there_after_all_is_left_alone_when_it_comes_to_it(
    workspace: Workspace, local_replaced: Callable[[Provider], None]
) -> None:
    """It was found gone, and is asked for once more under the lock; only who asks for held ones destroys it."""
    run_id = runs.opened(workspace, alive=False)
    runs.launched(workspace, run_id)
    local_replaced(_Lagging("terminated"))
    (finding,) = census(workspace, None).findings
    local_replaced(_Lagging("running"))
    said: list[str] = []
    assert gc.destroy(workspace, None, finding, said.append) is None
    assert "left alone" in said[0]
    assert journal.read(workspace.directory(run_id)).last("closing") is None


@pytest.mark.parametrize(("state", "status"), [("running", "RUNNING"), ("terminated", "EXPIRED")])
def test_a_plain_run_that_a_listing_misses_is_asked_for_by_its_id(
    workspace: Workspace, local_replaced: Callable[[Provider], None], state: State, status: str
) -> None:
    """`dayfly ps` closes what `pulumi destroy` has ended, and nothing that is merely not listed."""
    run_id = runs.opened(workspace, alive=False, plain=True, stack="dev")
    runs.launched(workspace, run_id)
    local_replaced(_Lagging(state))
    (finding,) = survey(workspace)
    assert finding.status == status


@pytest.mark.parametrize("broken", ["variable", "file", "none"])
def test_a_key_that_cannot_be_used_is_a_failure_and_none_at_all_is_not(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """A timer must not look healthy while it asks nobody."""
    if broken == "variable":
        monkeypatch.setenv(lambda_key.VARIABLE, "two\nlines")
    if broken == "file":
        file = lambda_key.key_file()
        file.parent.mkdir(parents=True)
        file.write_text("a-key")
        file.chmod(0o644)
    for option in ("--yes", "--json"):
        done = dayfly("gc", option)
        assert done.returncode == (0 if broken == "none" else 75)
        said = "was not asked" if broken == "none" else "cannot be used"
        assert (
            f"lambda {said}" in done.stderr
            or f"lambda: what is set up for it {said}" in done.stderr
        )
        assert "a-key" not in done.stderr + done.stdout
