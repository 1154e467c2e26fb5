"""What the families hold a trial to: every cell once, exit codes, seconds, and the reason for which it may fail."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path
from subprocess import PIPE

import pytest

from tests.faults import self_check
from tests.faults.canaries import Canaries, Watch
from tests.faults.canary_call import COUNT
from tests.faults.families import api, signals, state
from tests.faults.lambda_world import twins
from tests.faults.own_keys import OwnKeys
from tests.faults.switches import SWITCHES
from tests.faults.trial import Trial
from tests.sshd import write_key

_RUN = "a" * 32


# -- API faults


@pytest.mark.parametrize("first", [0, 7, 794_199_082])
def test_a_full_run_tries_every_cell_once_and_sixty_with_the_engine(first: int) -> None:
    """Whatever its first seed is: each endpoint with each fault at each position."""
    seeds = range(first, first + api.FAMILY.trials)
    cells = [api.Cell(seed % api.CELLS) for seed in seeds]
    tried = Counter((cell.op, str(cell.fault), cell.at) for cell in cells)
    assert len(tried) == len(cells) == 13 * 10 * 6 == api.FAMILY.cells
    engine = [cell for cell in cells if cell.with_engine]
    assert len(engine) == 60
    assert {cell.op for cell in engine} == set(api.OPERATIONS)
    assert len({(str(cell.fault), cell.at) for cell in engine}) == 60


def test_the_minute_is_held_with_and_without_the_engine() -> None:
    """By half of the launches that are carried out twice each."""
    double = [cell for cell in map(api.Cell, range(api.CELLS)) if cell.is_twin]
    assert Counter(cell.with_engine for cell in double) == {True: 3, False: 3}


def test_two_machines_of_a_run_are_counted_in_the_cloud_s_seconds() -> None:
    """From the second launch to the request for an end; those of other runs and of nobody are no twins."""

    def launched(at: float, instance: str, run: str) -> dict[str, object]:
        tags = {"dayfly-run": run} if run else {}
        return {"at": at, "event": "launch_accepted", "instance": instance, "tags": tags}

    events = [
        launched(0.0, "nobody's", ""),
        launched(0.0, "another", ""),
        launched(1.0, "one", "run"),
        launched(2.0, "its twin", "run"),
        launched(2.5, "of another", "other"),
        {"at": 3.0, "event": "terminate_accepted", "instance": "one"},
        launched(4.0, "too many", "other"),
        {"at": 4.5, "event": "fault"},
    ]
    assert twins(events, 10.0) == {"run": 10.0, "other": 5.0}


# -- signals


@pytest.mark.parametrize(
    ("code", "ended", "receipt", "wrong"),
    [
        (130, False, True, ""),
        (130, True, True, ""),
        (None, False, False, ""),
        (0, True, True, ""),
        (0, True, False, "without a receipt"),
        (0, False, True, "the signal was lost"),
        (1, False, True, "ended with 1, not 130"),
        (143, True, True, "ended with 143, not 130"),
    ],
)
def test_an_interrupt_is_not_a_good_end(
    code: int | None, ended: bool, receipt: bool, wrong: str
) -> None:
    """0 is right where the function had ended before the signal, and nowhere else."""
    found = signals.wrong_code(code, ended, receipt)
    assert wrong in found
    assert bool(found) == bool(wrong)


def test_whether_a_function_had_ended_is_in_the_journal() -> None:
    """What was written down after the signal was there too late."""
    journal = [{"event": "job_started", "t": 1.0}, {"event": "job_ended", "t": 5.0}]
    assert signals.had_ended(journal, 5.1)
    assert not signals.had_ended(journal, 4.9)
    assert not signals.had_ended(journal[:1], 4.9)


# -- state


def test_a_busy_computer_gets_twice_the_time_at_most() -> None:
    """Ten seconds where a core is free."""
    assert [state.allowed(load) for load in (0.1, 1.0, 1.5, 2.0, 30.0)] == [10, 10, 15, 20, 20]


# -- the self-check


@pytest.mark.parametrize(
    ("rule", "trial", "missed"),
    [
        ("isolation", Trial("signals", 1, ("Ctrl-C",), leaked=("loopback.py",)), True),
        ("isolation", Trial("signals", 1, ("Ctrl-C",), problems=("lock 1.json",)), True),
        (
            "isolation",
            Trial("signals", 1, ("Ctrl-C",), problems=("it ended with 1, not 130: lock",)),
            False,
        ),
        (
            "fsync",
            Trial("sequences", 1, ("SIGKILL and power cut",), problems=("A: instance i-1",)),
            True,
        ),
        ("fsync", Trial("sequences", 1, ("close",), problems=("A: instance i-1",)), False),
        ("proof", Trial("sequences", 1, problems=("E: x was called gone and is alive",)), True),
        ("fence", Trial("sequences", 1, problems=("TimeoutError: launch_instance",)), False),
        ("adoption", Trial("sequences", 1, problems=("E: lock x; ssh_key dayfly-1",)), True),
    ],
)
def test_a_rule_is_noticed_by_what_it_protects(rule: str, trial: Trial, missed: bool) -> None:
    """A trial that fails for any other reason has noticed nothing."""
    assert SWITCHES[rule].is_missed_in(trial) is missed


def test_a_trial_that_fails_with_the_rule_as_well_has_noticed_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control: the same seed has to hold with the rule in force."""
    failed = Trial("sequences", 7, problems=("E: instance i-1",))
    controls = iter([failed, Trial("sequences", 7, counted=False), Trial("sequences", 7)])
    monkeypatch.setattr(self_check._Batch, "tried", lambda _: [next(controls)])
    found = [self_check._other_reason("fence", failed) for _ in range(3)]
    assert [text.partition(" (")[0] for text in found] == [
        "the same seed does not hold with the rule in force either",
        "the same seed does not hold with the rule in force either",
        "",
    ]


# -- secrets


def test_there_are_thirty_canaries() -> None:
    """In every run."""
    assert COUNT == 30


def test_the_engine_alone_may_have_its_provider_s_key(tmp_path: Path) -> None:
    """A machine may not, and nothing that is foreign to both may be with either."""
    canaries = Canaries("zq0123456789abcdef")
    key, other = canaries.value("key"), canaries.value("other")
    environments: list[dict[str, str]] = [
        {"DAYFLY_STACK": _RUN, "KEY": key},
        {"A": "", "DAYFLY_RUN": _RUN, "KEY": key},
        {"DAYFLY_STACK": _RUN, "KEY": other},
    ]
    watch = Watch(canaries, [other], [tmp_path], [key])
    for environment in environments:
        with subprocess.Popen("cat", bufsize=0, stdin=PIPE, stdout=PIPE, env=environment) as cat:
            assert cat.stdin is not None and cat.stdout is not None
            # Popen returns a moment before the kernel shows the new program's environment.
            cat.stdin.write(b"there")
            assert cat.stdout.read(5) == b"there"
            found = len(watch.found)
            watch._look_at(Path(f"/proc/{cat.pid}"))
            cat.stdin.close()
        assert (len(watch.found) > found) == (environment is not environments[0])


def test_keys_of_a_run_are_found_in_any_other_file(tmp_path: Path) -> None:
    """By what is private of them: two keys of one kind begin with the same words."""
    run = tmp_path / "runs" / _RUN
    run.mkdir(parents=True)
    (tmp_path / "passphrase").write_text("open sesame")
    for name in ("user_key", "host_key"):
        write_key(run / name)
    (run / "hmac_key").write_bytes(b"0123456789abcdef")
    keys = OwnKeys(tmp_path)
    keys.held.update({file.name: file.read_bytes().strip() for file in run.glob("*_key")})
    keys._look_for_them(_RUN)
    assert keys.found == set()
    (tmp_path / "state").mkdir()
    leaked = (run / "user_key").read_text() + "open sesame" + b"0123456789abcdef".hex()
    (tmp_path / "state" / "stack.json").write_text(leaked)
    keys._look_for_them(_RUN)
    assert {text.split()[0] for text in keys.found} == {"user_key", "hmac_key", "passphrase"}
