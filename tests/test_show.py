"""The story of a run can be told from its journal alone, also when everything else is gone."""

from __future__ import annotations

import json

import pytest

from dayfly.infra.spec import Spec
from dayfly.runtime import ranks, samples, show
from dayfly.stacks import journal
from dayfly.stacks.workspace import Workspace
from tests import runs
from tests.test_agent_samples import sample
from tests.test_samples import lines


def test_the_story_of_a_closed_run_is_whole(workspace: Workspace) -> None:
    """Events with times, resources, provenance, code digest, environment, cost and receipt, all as JSON."""
    run_id = runs.opened(workspace)
    runs.launched(workspace, run_id)
    runs.closed(workspace, run_id)
    told = json.loads(json.dumps(show.story(journal.read(workspace.directory(run_id)))))
    assert told["status"] == "CLOSED"
    assert [event["event"] for event in told["events"]][:3] == ["intent", "resources", "launched"]
    assert all(event["time"] > 0 for event in told["events"])
    assert told["provenance"]["host"] == "node7"
    assert told["provenance"]["gpus"] == ["A100"]
    assert told["code_digest"] == "c0de" * 16
    assert told["usd"] == 0.6
    assert told["minutes"] == 10.0
    assert told["receipt"]["destroyed"] == 2


def test_people_read_the_same_story(workspace: Workspace) -> None:
    """A paragraph for each part; no key, no secret and no empty paragraph."""
    run_id = runs.opened(workspace)
    runs.launched(workspace, run_id)
    runs.closed(workspace, run_id)
    parts = show.paragraphs(show.story(journal.read(workspace.directory(run_id))))
    assert [title for title, _ in parts] == [
        f"run {run_id}",
        "resources",
        "provenance",
        "function",
        "timeline",
        "events",
        "money",
        "receipt",
    ]
    text = "\n".join(f"{label} {words}" for _, rows in parts for label, words in rows)
    assert "destroyed 2 of 2, local confirms 0 left" in text
    assert "live (3 packages)" in text
    assert "max_runtime=24 h" in text
    assert "a note" in text
    assert "gpu_utilization_window" not in text
    assert "grace" not in text
    assert "ssh-ed25519" not in text


def test_what_a_run_has_used_is_told_as_mean_and_peak(workspace: Workspace) -> None:
    """From the samples that came home; a GPU whose driver tells nothing is told as that."""
    run_id = runs.opened(workspace)
    runs.launched(workspace, run_id)
    told = (sample(n, gpus=[[n, 1000, 2000], [None, 0, 2000]]) for n in range(101))
    (workspace.directory(run_id) / samples.FILE).write_bytes(lines(*told))
    story = show.story(journal.read(workspace.directory(run_id)))
    parts = dict(show.paragraphs(json.loads(json.dumps(story))))
    use = dict(parts["use"])
    assert use["GPU 0"] == "50 % in the mean, 100 % at most"
    assert use["GPU 0 memory"] == "1.0 GB in the mean, 1.0 GB at most"
    assert use["GPU 1"] == "not told"
    assert use["machine's CPU"] == "50 % in the mean, 50 % at most"
    assert [label for label, _ in parts["timeline"]] == ["provision", "connect", "run"]
    assert parts["timeline"][-1][1].endswith(", goes on")


def test_what_each_of_several_machines_has_used_is_told(workspace: Workspace) -> None:
    """A paragraph each; a machine of which nothing is known has none."""
    run_id = runs.opened(workspace, spec=Spec(nodes=3))
    runs.launched(workspace, run_id)
    directory = workspace.directory(run_id)
    for node in (0, 2):
        folder = ranks.log_folder(directory, node)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / samples.FILE).write_bytes(lines(sample(0, gpus=[[10 * node, 1, 2]])))
    story = json.loads(json.dumps(show.story(journal.read(directory))))
    parts = dict(show.paragraphs(story))
    assert dict(parts["use of machine 0"])["GPU 0"] == "0 % in the mean, 0 % at most"
    assert dict(parts["use of machine 2"])["GPU 0"] == "20 % in the mean, 20 % at most"
    assert "use of machine 1" not in parts
    assert story["use"] == story["uses"][0]


def test_outputs_are_listed_as_far_as_a_screen_goes(workspace: Workspace) -> None:
    """And what was left out, with its reason."""
    directory = workspace.directory(runs.opened(workspace))
    file = {"path": "a/weights", "size": 5, "sha256": "ab" * 32}
    told = {"complete": False, "folder": "/x", "count": 2, "bytes": 1000, "expected": 9}
    told |= {"files": [file], "left_out": ["pipe: it is a pipe"], "left_out_count": 4}
    journal.append(directory, "outputs", **told)
    parts = dict(show.paragraphs(show.story(journal.read(directory))))
    assert parts["outputs"] == [
        ("home", "2 of 9 files, 1.0 KB, in /x"),
        ("ab" * 6, "a/weights  (5 B)"),
        ("", "and 1 more"),
        ("left out", "pipe: it is a pipe"),
        ("left out", "3 more"),
    ]


def test_a_run_without_a_readable_journal_has_a_story_too(workspace: Workspace) -> None:
    """`show` must not fail where it is needed most."""
    directory = workspace.directory("ab" * 16)
    directory.mkdir()
    (directory / journal.FILE).write_bytes(b"\x00garbage")
    told = show.story(journal.read(directory))
    assert told["status"] == "ORPHAN"
    assert show.paragraphs(told)[0][0] == f"run {directory.name}"


def test_an_open_run_costs_its_rate_times_the_time_since_its_launch(workspace: Workspace) -> None:
    """$3.60/h for 1,000 s."""
    run_id = runs.opened(workspace)
    runs.launched(workspace, run_id)
    history = journal.read(workspace.directory(run_id))
    launched = history.last("launched")
    assert launched is not None
    assert show.cost_so_far(history, launched.time + 1000) == pytest.approx(1.0)
