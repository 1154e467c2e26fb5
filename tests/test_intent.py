"""The written intent of a run: whole or not there, private, and one for each id."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dayfly.errors import RunBusy
from dayfly.infra.run import Run, new_id
from dayfly.infra.spec import Spec
from dayfly.stacks import intent, journal
from dayfly.stacks.workspace import Workspace
from tests.runs import OFFER


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.process
def test_of_many_clients_with_one_id_exactly_one_wins(workspace: Workspace) -> None:
    """The others hear what to do; the winner's keys and journal are whole, and nothing lies about."""
    run_id = new_id()

    def write(number: int) -> Run | RunBusy:
        try:
            return intent.write(workspace, run_id, Spec(job_name=f"client {number}"), OFFER)
        except RunBusy as busy:
            return busy

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(write, range(8)))
    (won,) = [outcome for outcome in outcomes if isinstance(outcome, Run)]
    lost = [outcome for outcome in outcomes if isinstance(outcome, RunBusy)]
    assert len(lost) == 7
    for busy in lost:
        assert run_id in str(busy)
        assert "takes a new one" in str(busy)
    history = journal.read(won.directory)
    assert [event.name for event in history.events] == ["intent"]
    assert history.intent["public_key"] == won.public_key
    assert set(_files(won.directory)) == {"hmac_key", "host_key", "user_key", journal.FILE}
    assert list((workspace.home / "making").iterdir()) == []


def test_a_later_client_with_a_used_id_changes_nothing(workspace: Workspace) -> None:
    """Not a byte of the run that has it."""
    run = intent.write(workspace, new_id(), Spec(), OFFER)
    before = _files(run.directory)
    with pytest.raises(RunBusy, match=f"dayfly show {run.id[:12]}"):
        intent.write(workspace, run.id, Spec(cores=1), OFFER)
    assert _files(run.directory) == before


def test_what_fails_half_way_leaves_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a directory nor a key."""
    monkeypatch.setattr(journal, "append", _fail)
    with pytest.raises(RuntimeError):
        intent.write(workspace, new_id(), Spec(), OFFER)
    assert list(workspace.runs.iterdir()) == list((workspace.home / "making").iterdir()) == []


def _fail(*_: object, **__: object) -> None:
    raise RuntimeError("full")


def test_a_password_in_a_requirement_is_in_no_file_of_the_run(workspace: Workspace) -> None:
    """The journal is kept for good, and `dayfly show --json` prints it."""
    spec = Spec(environment=["x @ https://user:hunter2@host/x.whl"])
    run = intent.write(workspace, new_id(), spec, OFFER)
    assert not any(b"hunter2" in content for content in _files(run.directory).values())
    kept = json.loads((run.directory / journal.FILE).read_text())["spec"]["environment"]
    assert kept == ["x @ https://[secret]@host/x.whl"]
