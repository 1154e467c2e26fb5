"""The journal is on the disk before the next step, and is readable whatever happened to its end."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
from pathlib import Path

import pytest

from dayfly.errors import UnknownRun
from dayfly.stacks import journal
from dayfly.stacks.workspace import Workspace


def test_events_come_back_in_order_with_their_fields(tmp_path: Path) -> None:
    """What was appended is what is read."""
    journal.append(tmp_path, "intent", provider="local", deadline=5.0)
    journal.append(tmp_path, "launched", id="i-1", usd_per_hour=1.5)
    history = journal.read(tmp_path)
    assert [event.name for event in history.events] == ["intent", "launched"]
    assert history.field("launched", "usd_per_hour") == 1.5
    assert history.provider == "local"
    assert history.deadline == 5.0
    assert (tmp_path / journal.FILE).stat().st_mode & 0o777 == 0o600


def test_a_line_that_a_crash_cut_short_does_not_swallow_the_next(tmp_path: Path) -> None:
    """The cut line is lost, every other one is read."""
    journal.append(tmp_path, "intent", provider="local")
    with (tmp_path / journal.FILE).open("ab") as file:
        file.write(b'{"event": "machi')
    journal.append(tmp_path, "closing", by={})
    assert [event.name for event in journal.read(tmp_path).events] == ["intent", "closing"]


def test_an_unreadable_journal_is_an_empty_history(tmp_path: Path) -> None:
    """Teardown must go on without it."""
    (tmp_path / journal.FILE).write_bytes(os.urandom(200))
    assert journal.read(tmp_path).events == ()
    assert journal.read(tmp_path / "missing").intent == {}


def _append_many(directory: Path, name: str) -> None:
    for number in range(50):
        journal.append(directory, name, number=number)


@pytest.mark.process
def test_two_processes_write_whole_lines(tmp_path: Path) -> None:
    """A client and its program journal at the same time."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append_many, args=(tmp_path, name)) for name in ("a", "b")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    events = journal.read(tmp_path).events
    for name in ("a", "b"):
        assert [event.fields["number"] for event in events if event.name == name] == list(range(50))


def test_a_full_disk_gives_up_the_reserve_for_the_next_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reserve is there for exactly this: a teardown's records."""
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    (tmp_path / "reserve").write_bytes(b"x")
    real, calls = os.write, []

    def full_once(descriptor: int, data: bytes) -> int:
        calls.append(data)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", full_once)
    journal.append(run, "closing")
    assert not (tmp_path / "reserve").exists()
    assert [event.name for event in journal.read(run).events] == ["closing"]


def test_a_run_is_found_by_the_beginning_of_its_id(workspace: Workspace) -> None:
    """And by nothing that fits two, or none."""
    for run in ("aa11", "aa22", "bb33"):
        (workspace.runs / run).mkdir()
    assert journal.find(workspace.runs, "bb").id == "bb33"
    for prefix in ("aa", "cc", "../x", ""):
        with pytest.raises(UnknownRun, match="dayfly ps --all"):
            journal.find(workspace.runs, prefix)


def test_a_closed_run_leaves_the_list_of_open_ones_and_stays_in_the_history(
    workspace: Workspace,
) -> None:
    """Every run can be audited after it is gone."""
    directory = workspace.directory("ab" * 16)
    directory.mkdir()
    journal.append(directory, "intent", provider="local")
    assert [history.id for history in journal.histories(workspace.runs)] == [directory.name]
    journal.write_receipt(directory, {"run": directory.name})
    assert journal.histories(workspace.runs) == []
    assert journal.histories(workspace.runs, closed=True)[0].closed
    assert json.loads((directory / journal.RECEIPT).read_text()) == {"run": directory.name}


def test_this_process_is_alive_and_a_reused_pid_is_not() -> None:
    """A pid alone would be fooled by its next holder; another computer's cannot be judged."""
    me = journal.myself()
    assert journal.is_alive(me)
    assert not journal.is_alive(
        {**me, "started": me["started"] - 60, "ticks": me["ticks"] and me["ticks"] - 6000}
    )
    assert not journal.is_alive({**me, "host": "elsewhere", "place": "another boot"})
    assert not journal.is_alive({})
