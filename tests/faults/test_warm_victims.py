"""What a session, a kept machine and two ranks are promised is held against what commands print, and nothing less passes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.faults.kill_bench import VICTIMS
from tests.faults.victim import Cli, Victim
from tests.faults.warm_victims import KeptVictim, RanksVictim, SessionVictim

_RUN, _SEED = "a" * 32, 7
_SMALL = 2, 0.0, 10


def printing(stdout: str, code: int = 0, stderr: str = "") -> Cli:
    """A command line that prints that."""
    return lambda *arguments: subprocess.CompletedProcess(arguments, code, stdout, stderr)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """That of the run."""
    made = tmp_path / "runs" / _RUN
    (made / "ranks" / "1").mkdir(parents=True)
    return made


@pytest.mark.parametrize("victim", VICTIMS.values(), ids=[str(which) for which in VICTIMS])
def test_each_client_is_a_program(victim: Victim) -> None:
    """It compiles as it is written to its file."""
    compile(victim.code, "victim.py", "exec")


def test_a_session_has_lost_what_neither_the_client_has_had_nor_its_result_holds(
    tmp_path: Path, directory: Path
) -> None:
    """By the ledger that the client has kept, whose last line may be cut short."""
    victim = SessionVictim.of(*_SMALL)
    right = victim.digest(_SEED)
    ledger = directory / "calls.jsonl"

    def why(stdout: str, finished: int) -> str:
        return victim.kept(printing(stdout), tmp_path, _RUN, _SEED, finished)

    assert why(f"{{1: {right}, 2: {right}}}\n", 2) == ""
    assert why(f"{{1: {right}}}\n", 1) == ""
    assert why(f"{{1: {right}}}\n", 2).startswith("2 calls have finished, the client has had []")
    assert why(f"{{1: sha256:{'0' * 64}}}\n", 1)
    assert why("", 1)
    entry = json.dumps({"call": 2, "outcome": "value"})
    ledger.write_text(f'{entry}\n{{"call": 1, "outc')
    assert why(f"{{1: {right}}}\n", 2) == ""
    assert why("{}\n", 2)
    ledger.write_text(json.dumps({"call": 1, "outcome": "died"}) + "\n")
    assert why("{}\n", 1)


def test_the_log_of_a_session_is_whole_for_each_call(tmp_path: Path, directory: Path) -> None:
    """In whatever order the lines of two of them came; a call that was never sent has none."""
    victim = SessionVictim.of(*_SMALL)
    lines = victim.log(_SEED).splitlines()
    one, two = ([f"[{number}] {line}" for line in lines] for number in (1, 2))

    def attached(*log: str, value: str = "{}") -> tuple[str, str]:
        (directory / "stdout.log").write_text("".join(f"{line}\n" for line in log))
        shown = "".join(f"{line}\n" for line in log)
        return victim.attached(printing(f"{shown}{value}\n"), tmp_path, _RUN, _SEED, lambda: 2)

    whole = ("value", "")
    assert attached() == whole
    assert attached(*one) == whole
    assert attached(one[0], two[0], two[1], one[1]) == whole
    assert attached(*one, value=f"{{1: {victim.digest(_SEED)}}}") == whole
    assert attached(*one, value="None")[1]
    assert attached(*one, value=f"{{1: sha256:{'0' * 64}}}")[1]
    for wrong in ([one[0]], [*one, one[1]], [*one, "stray"], [one[1], one[0]]):
        assert attached(*wrong)[1].startswith("the log has")


def test_a_session_that_was_never_called_has_lost_nothing(tmp_path: Path, directory: Path) -> None:
    """One whose function has started has."""
    victim = SessionVictim.of(*_SMALL)
    refused = printing("", 1, "the function was never started there")
    assert victim.attached(refused, tmp_path, _RUN, _SEED, lambda: 0) == ("never started", "")
    assert victim.attached(refused, tmp_path, _RUN, _SEED, lambda: 1)[1]


def test_both_ranks_have_their_whole_log_and_the_first_its_value(
    tmp_path: Path, directory: Path
) -> None:
    """In a file of each, and with their numbers where they are shown."""
    victim = RanksVictim.of(*_SMALL)
    log, value = victim.log(_SEED), victim.digest(_SEED)
    zero, one = ([f"[{rank}] {line}\n" for line in log.splitlines()] for rank in (0, 1))

    def attached(shown: list[str], second: str) -> str:
        (directory / "stdout.log").write_text(log)
        (directory / "ranks" / "1" / "stdout.log").write_text(second)
        printed = printing("".join(shown) + value + "\n")
        return victim.attached(printed, tmp_path, _RUN, _SEED, lambda: 1)[1]

    assert attached([zero[0], one[0], one[1], zero[1]], log) == ""
    assert attached([], log) == ""
    assert attached([*zero, *one], log[:-5]).startswith("the log of rank 1 has")
    assert attached([*zero, one[0]], log).startswith("the log that attach showed")
    assert attached([*zero, *one, one[1]], log).startswith("the log that attach showed")


def test_a_kept_machine_serves_plain_calls(tmp_path: Path, directory: Path) -> None:
    """Each of its runs has the result of any run."""
    victim = KeptVictim.of(*_SMALL)
    assert victim.kept(printing(victim.digest(_SEED) + "\n"), tmp_path, _RUN, _SEED) == ""
    assert victim.kept(printing(""), tmp_path, _RUN, _SEED)
    assert victim.calls == 1
