"""Each rank is told what torchrun would tell it, and its lines carry its number."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dayfly.runtime import ending, ranks
from dayfly.runtime.display import Display
from dayfly.runtime.log_tail import LogTail
from dayfly.runtime.ranks import RankDisplay
from dayfly.runtime.records import JobEnd


def session(node: int, platform: str = "linux-x86_64") -> Any:
    """What of a session the variables come from."""
    return SimpleNamespace(
        machine=SimpleNamespace(node=node),
        keys=SimpleNamespace(run_id="ab" * 16),
        facts=SimpleNamespace(platform=platform),
    )


def test_the_variables_are_torchruns() -> None:
    """Under which torch.distributed finds its place by itself."""
    told = ranks.variables(session(1), 3, ("10.0.0.4", 23456))
    wanted = {"RANK": "1", "WORLD_SIZE": "3", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    wanted |= {"MASTER_ADDR": "10.0.0.4", "MASTER_PORT": "23456", "GROUP_RANK": "1"}
    wanted |= {"TORCHELASTIC_RUN_ID": "ab" * 16, "PET_NODE_RANK": "1", "PET_NNODES": "3"}
    assert wanted.items() <= told.items()
    assert told["PET_RDZV_ENDPOINT"] == "10.0.0.4:23456"
    assert "GLOO_SOCKET_IFNAME" not in told


@pytest.mark.parametrize(
    ("platform", "interface"), [("linux-x86_64", "lo"), ("darwin-arm64", "lo0")]
)
def test_on_one_computer_the_ranks_stay_on_its_loopback(platform: str, interface: str) -> None:
    """The interface of the host's name is one that others reach."""
    told = ranks.variables(session(0, platform), 2, ("127.0.0.1", 23456))
    assert told["GLOO_SOCKET_IFNAME"] == told["NCCL_SOCKET_IFNAME"] == interface


def test_a_rank_s_lines_are_shown_whole_with_its_number(capfd: pytest.CaptureFixture[str]) -> None:
    """However they come; a progress bar's return does not eat it."""
    shown = RankDisplay(Display.standard(), 2)
    for part in (b"one", b" line\n50%\r", b"100%\nwithout an end"):
        shown.output("stdout", part)
    assert capfd.readouterr().out == "[2] one line\n[2] 50%\r[2] 100%\n"
    shown.end()
    shown.end()
    assert capfd.readouterr().out == "[2] without an end\n"
    shown.warning("no room")
    assert "[2] no room" in capfd.readouterr().err


def test_the_log_of_a_run_with_ranks_is_all_of_theirs(tmp_path: Path) -> None:
    """Read on from where it was left, each line with its rank."""
    (tmp_path / "stdout.log").write_text("first\nand")
    tail = LogTail(lambda: tmp_path)
    other = ranks.folder(tmp_path, 1)
    other.mkdir(parents=True)
    (other / "stderr.log").write_text("second\n")
    assert list(tail.lines()) == ["[0] first", "[1] second"]
    with (tmp_path / "stdout.log").open("a") as log:
        log.write(" more")
    assert list(tail.lines()) == []
    assert list(tail.rest()) == ["[0] and more"]


def test_a_run_of_one_machine_has_no_ranks(tmp_path: Path) -> None:
    """Its lines are as they are."""
    (tmp_path / "stdout.log").write_text("alone\n")
    assert list(LogTail(lambda: tmp_path).lines()) == ["alone"]


def test_the_error_of_a_rank_names_it_with_its_own_last_words(tmp_path: Path) -> None:
    """Not with those of the first."""
    for rank, words in ((0, "fine"), (1, "out of luck")):
        folder = ranks.log_folder(tmp_path, rank)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "stderr.log").write_text(words)
    end = JobEnd("killed", 0, 9, False, 1.0, 2.0)
    said = str(ending.failure(tmp_path, end, 1))
    assert f"run {tmp_path.name}, rank 1: " in said
    assert said.endswith("out of luck")
    assert str(ending.failure(tmp_path, end)).endswith("fine")
