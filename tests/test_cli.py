"""The real command line in a process of its own: what it prints, where, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pytest
from click.testing import CliRunner

from dayfly.errors import (
    EngineMissing,
    JobExited,
    JobKilled,
    LeakRisk,
    PluginMissing,
    PolicyDenied,
    RunBusy,
    SpecError,
)
from dayfly.infra.providers.local import Local
from dayfly.infra.run import new_id
from dayfly.runtime.cli.app import dayfly as app
from dayfly.runtime.cli.gc import _confirm_foreign
from dayfly.runtime.cli.output import emit_json, exit_code
from dayfly.stacks import journal, plugins
from dayfly.stacks.census import Finding
from dayfly.stacks.workspace import Workspace
from tests import runs
from tests.test_display import in_terminal

pytestmark = pytest.mark.process
COMMAND = [sys.executable, "-m", "dayfly.runtime.cli"]


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def dayfly(*arguments: str, **variables: str) -> Done:
    """One command through the real parser, in this process: a new one would take a third of a second each time."""
    result = CliRunner().invoke(
        app, list(arguments), prog_name="dayfly", env=variables, catch_exceptions=False
    )
    return Done(result.exit_code, result.stdout, result.stderr)


def process(*arguments: str, cwd: Path | None = None) -> Done:
    """One command in a process of its own, as people start it."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def test_help_lists_the_verbs_and_the_exit_codes_and_loads_nothing_heavy() -> None:
    """It is what a new user types first."""
    script = (
        "import sys\n"
        "from dayfly.runtime.cli.app import dayfly as app\n"
        "try: app(['--help'], prog_name='dayfly')\n"
        "except SystemExit: pass\n"
        "print([m for m in ('rich', 'pulumi', 'paramiko', 'psutil', 'cloudpickle') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    verbs = [
        "run",
        "plan",
        "ps",
        "show",
        "logs",
        "attach",
        "result",
        "cancel",
        "ssh",
        "forward",
        "top",
        "refresh",
        "cost",
        "gc",
        "keeper",
        "doctor",
        "engine",
    ]
    assert [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")].count(
        "run"
    ) == 1
    assert all(f"\n  {verb} " in done.stdout for verb in verbs)
    assert "75  it is NOT proved" in done.stdout
    assert "completion" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_the_version_and_a_misspelt_verb_or_option() -> None:
    """The nearest name is named."""
    assert dayfly("--version").stdout.startswith("dayfly 0.")
    verb = dayfly("psx")
    assert verb.returncode == 2
    assert "did you mean 'ps'?" in verb.stderr
    option = dayfly("run", "--memry", "1GB", "x.py")
    assert option.returncode == 2
    assert "--memory" in option.stderr


def test_no_run_is_an_empty_list() -> None:
    """`ps --json` is [] when nothing is open."""
    done = process("ps", "--json")
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, [], "")
    assert dayfly("ps").stdout == ""


def test_open_and_closed_runs_are_listed(workspace: Workspace) -> None:
    """Open ones always, closed ones with --all, with minutes and dollars."""
    old, new = runs.opened(workspace), runs.opened(workspace, job_name="day")
    for run_id in (old, new):
        runs.launched(workspace, run_id)
    runs.closed(workspace, old)
    listed = json.loads(dayfly("ps", "--json").stdout)
    assert [(run["id"], run["status"]) for run in listed] == [(new, "RUNNING")]
    lines = dayfly("ps", "--all").stdout.splitlines()
    assert lines[0].split() == [
        "ID",
        "STATUS",
        "FUNCTION",
        "PROVIDER",
        "AGE",
        "UNTIL",
        "$/H",
        "$",
        "MINUTES",
    ]
    assert lines[1].split()[:4] == [old[:12], "CLOSED", "train:fit", "local"]
    assert lines[1].split()[-2:] == ["$0.60", "10.0"]
    assert lines[2].split()[2] == "day"


def test_a_run_is_shown_by_the_beginning_of_its_id(workspace: Workspace) -> None:
    """For people and as JSON."""
    run_id = runs.opened(workspace)
    runs.launched(workspace, run_id)
    runs.closed(workspace, run_id)
    assert json.loads(dayfly("show", run_id[:8], "--json").stdout)["id"] == run_id
    told = dayfly("show", run_id[:8]).stdout
    assert told.startswith(f"run {run_id}\n")
    assert "\nreceipt\n" in told


def test_an_unknown_run_is_an_error_without_a_traceback() -> None:
    """With the command that lists the known ones."""
    for verb in ("show", "logs", "result", "cancel", "ssh", "attach"):
        done = dayfly(verb, "abc")
        assert done.returncode == 2, verb
        plain = "dayfly: no run begins with 'abc'; `dayfly ps --all` lists them"
        assert done.stderr.startswith(plain)
        # With its state in a folder of this computer, attaching from elsewhere is not to be had.
        assert ("on the computer that started it" in done.stderr) == (verb == "attach")


def test_logs_come_back_byte_for_byte_each_stream_on_its_own(workspace: Workspace) -> None:
    """Carriage returns are kept."""
    run_id = runs.opened(workspace, alive=False)
    runs.launched(workspace, run_id)

    def logs(*options: str) -> tuple[bytes, bytes]:
        done = subprocess.run([*COMMAND, "logs", run_id, *options], capture_output=True, check=True)
        return done.stdout, done.stderr

    assert logs() == (b"out 1\n\r50%\r100%\n", b"err 1\n")
    assert logs("--stdout") == (b"out 1\n\r50%\r100%\n", b"")
    assert logs("--stderr") == (b"", b"err 1\n")
    assert b"dayfly attach" in logs("-f")[1]


def test_logs_are_followed_until_the_function_ends(workspace: Workspace) -> None:
    """What is written meanwhile comes too."""
    run_id = runs.opened(workspace)
    runs.launched(workspace, run_id)
    directory = workspace.directory(run_id)
    with subprocess.Popen(
        [*COMMAND, "logs", "-f", "--stdout", run_id], stdout=subprocess.PIPE, text=True
    ) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "out 1\n"
        with (directory / "stdout.log").open("a") as log:
            log.write("late\n")
        journal.append(directory, "job_ended", how="finished")
        assert follower.stdout.read().endswith("late\n")
    assert follower.returncode == 0


def test_a_terminal_gets_drawn_tables(workspace: Workspace) -> None:
    """With the same content."""
    run_id = runs.opened(workspace, job_name="a [b] c")
    runs.launched(workspace, run_id)
    command = "from dayfly.runtime.cli import main\nimport sys\nsys.argv = ['dayfly', *%r]\nmain()"
    listed = in_terminal(command % (["ps"],))
    assert run_id[:12] in listed
    assert "a [b] c" in listed
    assert "\x1b[" in listed
    assert "node7" in in_terminal(command % (["show", run_id],))


def test_cancel_asks_first_and_does_nothing_where_no_one_can_answer(workspace: Workspace) -> None:
    """A result that has not come back would be lost."""
    run_id = runs.opened(workspace)
    done = dayfly("cancel", run_id)
    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert not journal.read(workspace.directory(run_id)).closed


def test_cancel_closes_a_run(workspace: Workspace) -> None:
    """Nothing was launched, so there is nothing to destroy, and that is proved."""
    run_id = runs.opened(workspace)
    done = dayfly("cancel", run_id, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["left"] == 0
    assert journal.read(workspace.directory(run_id)).closed
    assert "0 left" in dayfly("cancel", run_id).stdout


def test_gc_shows_before_it_destroys(workspace: Workspace) -> None:
    """A dry run by default; a run whose client lives is left alone either way."""
    orphan, living = runs.opened(workspace, alive=False), runs.opened(workspace)
    lines = [line.split()[:2] for line in dayfly("gc").stdout.splitlines()[1:]]
    # On a computer that others work on, their machines show, too.
    assert {tuple(line) for line in lines if line[1] != "FOREIGN"} == {
        (orphan[:12], "ORPHAN"),
        (living[:12], "RUNNING"),
    }
    listed = json.loads(dayfly("gc", "--json").stdout)
    found = {run["id"]: run["destroy"] for run in listed if run["status"] != "FOREIGN"}
    assert found == {orphan: True, living: False}
    assert all(run["age_s"] >= 0 for run in listed if run["id"] in found)
    assert not journal.read(workspace.directory(orphan)).closed
    done = dayfly("gc", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert [receipt["run"] for receipt in json.loads(done.stdout)] == [orphan]
    assert journal.read(workspace.directory(orphan)).closed
    assert not journal.read(workspace.directory(living)).closed
    assert "closed: nothing" in dayfly("gc", "--run", orphan, "--yes").stderr


def test_gc_freezes_where_too_much_would_go_or_a_listing_is_not_complete(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 75, nothing destroyed, and the command that goes on all the same."""
    orphans = [runs.opened(workspace, alive=False) for _ in range(21)]
    many = dayfly("gc", "--yes")
    assert (many.returncode, "21 would go" in many.stderr) == (75, True), many.stderr
    monkeypatch.setattr(Local, "inventory", _refused)
    shown = dayfly("gc", "--json")
    assert shown.returncode == 75
    assert len(json.loads(shown.stdout)) == 21
    broken = dayfly("gc", "--yes")
    assert (broken.returncode, "local is not complete" in broken.stderr) == (75, True)
    assert not any(journal.read(workspace.directory(run)).closed for run in orphans)
    monkeypatch.undo()
    monkeypatch.setenv("DAYFLY_HOME", str(workspace.home))
    assert dayfly("gc", "--yes", "--force").returncode == 0
    assert all(journal.read(workspace.directory(run)).closed for run in orphans)


def _refused(*_: object) -> list[object]:
    raise ConnectionError("the API is down")


def test_gc_of_other_owners_needs_a_terminal_and_of_one_needs_its_name(
    workspace: Workspace,
) -> None:
    """Nothing of theirs is touched without."""
    run_id, owner = new_id(), f"lost-{runs.TESTER}"
    tags = {"DAYFLY_RUN": run_id, "DAYFLY_OWNER": owner}
    with subprocess.Popen(["sleep", "600"], env={**os.environ, **tags}) as theirs:
        try:
            listed = json.loads(dayfly("gc", "--json").stdout)
            (found,) = [run for run in listed if run["id"] == run_id]
            assert (found["status"], found["owner"], found["destroy"]) == (
                "FOREIGN",
                owner,
                False,
            )
            refused = dayfly("gc", "--all-owners", "--yes")
            assert (refused.returncode, owner in refused.stderr) == (2, True)
            assert dayfly("gc", "--owner", "Lost Laptop").returncode == 2
            assert dayfly("gc", "--owner", "x", "--run", run_id).returncode == 2
            assert dayfly("gc", "--force").returncode == 2
            assert theirs.poll() is None
            done = dayfly("gc", "--owner", owner, "--yes")
            assert done.returncode == 0, done.stderr
            assert theirs.wait(30) != 0
        finally:
            theirs.kill()


@pytest.mark.parametrize(("typed", "taken"), [("all owners", True), ("yes", False)])
def test_what_is_others_is_confirmed_by_typing_it(
    monkeypatch: pytest.MonkeyPatch, typed: str, taken: bool
) -> None:
    """A mere "yes" is too easily said."""
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda _: True})())
    monkeypatch.setattr("click.prompt", lambda *_, **__: typed)
    foreign = Finding("f" * 32, "FOREIGN", "", "local", owner="lost-laptop")
    with contextlib.nullcontext() if taken else pytest.raises(SpecError, match="'yes' is not"):
        _confirm_foreign([foreign])
    _confirm_foreign([Finding("f" * 32, "ORPHAN", "", "local")])


def test_a_run_that_no_timer_could_end_is_shown_as_such(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its key came from its client's environment, and is in the keeper's memory only."""
    monkeypatch.setattr(Local, "credentials", ("TEST_API_KEY",))
    monkeypatch.setenv("TEST_API_KEY", "x")
    run_id = runs.opened(workspace)
    for verb in ("ps", "gc"):
        said = dayfly(verb).stderr
        assert f"run {run_id[:12]} is not covered by `gc --install`: TEST_API_KEY" in said
        (told,) = [run for run in json.loads(dayfly(verb, "--json").stdout) if run["id"] == run_id]
        assert told["covered_by_install"] is False


def test_gc_ends_what_only_a_tag_still_tells_of(workspace: Workspace) -> None:
    """All state is lost, a process of a run is left."""
    run_id = new_id()
    tags = {"DAYFLY_RUN": run_id, "DAYFLY_OWNER": workspace.owner}
    with subprocess.Popen(["sleep", "600"], env={**os.environ, **tags}) as left:
        assert "leave" not in dayfly("gc", "--run", run_id).stdout
        done = dayfly("gc", "--run", run_id, "--yes")
        assert done.returncode == 0, done.stderr
        assert f"{run_id[:12]}  destroyed " in done.stdout
        assert left.wait(30) != 0
    assert "is closed: nothing of it is left" in dayfly("gc", "--run", run_id).stderr


@pytest.mark.parametrize("run", ["", "../x", " "])
def test_gc_takes_no_empty_or_strange_run_for_all_of_them(workspace: Workspace, run: str) -> None:
    """`dayfly gc --run "$RUN" --yes --held` with RUN unset must not destroy everything."""
    run_id = runs.opened(workspace, alive=False)
    runs.launched(workspace, run_id)
    done = dayfly("gc", "--run", run, "--yes", "--held")
    assert done.returncode == 2
    assert "is not a run id" in done.stderr
    assert not journal.read(workspace.directory(run_id)).closed


def test_gc_refuses_a_beginning_that_several_runs_have(workspace: Workspace) -> None:
    """They are named by more of their ids."""
    # As long as no run that is made here has it by chance.
    beginning = "a" * 12
    for run_id in (f"{beginning}1{'0' * 19}", f"{beginning}2{'0' * 19}"):
        made = runs.opened(workspace, alive=False)
        workspace.directory(made).rename(workspace.directory(run_id))
    done = dayfly("gc", "--run", beginning, "--yes")
    assert done.returncode == 2
    assert f"2 runs begin with '{beginning}'" in done.stderr


def test_gc_says_so_where_it_leaves_the_one_run_up(workspace: Workspace) -> None:
    """Exit code 0 would mean that nothing of it is left."""
    run_id = runs.opened(workspace)
    done = dayfly("gc", "--run", run_id, "--yes")
    assert done.returncode == 73
    assert f"run {run_id[:12]} is RUNNING and was left up: its client is alive" in done.stderr


def test_a_kept_machine_is_shown_as_that_and_goes_when_it_is_named(workspace: Workspace) -> None:
    """Neither an orphan nor held: it is left by `gc --yes`, and destroyed with --run or --kept."""
    run_id, other = (runs.opened(workspace) for _ in range(2))
    until = time.time() + 600
    for each in (run_id, other):
        journal.append(workspace.directory(each), "kept", until=until, usd_per_hour=1.29)
    listed = {run["id"]: run for run in json.loads(dayfly("ps", "--json").stdout)}
    assert (listed[run_id]["status"], listed[run_id]["kept_until"]) == ("KEPT", until)
    assert "$1.29/h; `dayfly gc --run" in dayfly("show", run_id).stdout
    assert "--kept destroys them now" in dayfly("gc").stderr
    assert "nothing to destroy" in dayfly("gc", "--yes").stderr
    assert dayfly("gc", "--run", run_id, "--yes").returncode == 0
    assert journal.read(workspace.directory(run_id)).closed
    assert dayfly("gc", "--kept", "--yes").returncode == 0
    assert journal.read(workspace.directory(other)).closed


def test_one_damaged_run_does_not_hide_the_others(workspace: Workspace) -> None:
    """A journal that cannot be read, a receipt that is cut, an event that lacks its fields."""
    good, unreadable, cut, odd = (runs.opened(workspace, alive=False) for _ in range(4))
    journal_file = workspace.directory(unreadable) / journal.FILE
    journal_file.unlink()
    journal_file.mkdir()
    runs.closed(workspace, cut)
    (workspace.directory(cut) / journal.RECEIPT).write_text('{"run": "')
    journal.append(workspace.directory(odd), "closing")
    listed = {
        run["id"]: run["status"] for run in json.loads(dayfly("ps", "--all", "--json").stdout)
    }
    assert listed == {good: "ORPHAN", unreadable: "UNREADABLE", cut: "CLOSED", odd: "ORPHAN"}
    assert "destroyed 2 of 2" in dayfly("show", cut).stdout
    done = dayfly("gc", "--yes")
    assert done.returncode == 0, done.stderr
    assert journal.read(workspace.directory(good)).closed
    assert journal.read(workspace.directory(odd)).closed
    assert dayfly("show", unreadable).returncode == 74


def test_a_result_that_is_not_here_says_what_to_do(workspace: Workspace) -> None:
    """An open run: attach to it; a closed one: read its story."""
    run_id = runs.opened(workspace)
    assert "dayfly attach" in dayfly("result", run_id).stderr
    runs.closed(workspace, run_id)
    done = dayfly("result", run_id)
    assert done.returncode == 1
    assert "dayfly show" in done.stderr


@pytest.mark.parametrize("command", ["result", "attach"])
def test_the_functions_own_exception_is_shown_without_declared_secrets(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """The values of the Spec's secrets are masked; other words of the program stay as they are."""
    door = f"zebra-crossing-{command}"
    monkeypatch.setenv("DOOR", door)
    run_id = runs.opened(workspace)
    journal.append(
        workspace.directory(run_id),
        "intent",
        **{**journal.read(workspace.directory(run_id)).intent, "spec": {"secrets": ["DOOR"]}},
    )
    runs.closed(workspace, run_id)
    (workspace.directory(run_id) / "result.sealed").touch()

    def raised(*_: object) -> None:
        raise ValueError(f"no entry with {door}, token = get_token()")

    monkeypatch.setattr("dayfly.runtime.attach.stored_result", raised)
    done = dayfly(command, run_id)
    assert done.returncode == 1
    assert "ValueError: no entry with [secret], token = get_token()" in done.stderr


def test_bad_input_is_refused_before_anything_exists(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with its value and what to write instead."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "jobs.py").write_text("import time\ndef train(x): return x\nVALUE = 3\n")
    refused = {
        ("run", "--cores", "0", "jobs:train", "1"): "cores=0",
        ("run", "--memory", "lots", "jobs:train", "1"): "memory='lots'",
        ("run", "--max-cost", "0", "jobs:train", "1"): "max_cost=0",
        ("run", "--provider", "locl", "jobs:train"): "did you mean 'local'",
        ("run", "jobs:trian", "1"): "did you mean 'train'",
        ("run", "jbos:train"): "no module 'jbos'",
        ("run", ":train"): "':train' is not MODULE:FUNCTION",
        ("run", "..jobs:train"): "'..jobs:train' is not MODULE:FUNCTION",
        ("run", "jobs:"): "'jobs:' is not MODULE:FUNCTION",
        ("run", "jobs:VALUE"): "is a int",
        ("run", "jobs:train", "1", "--cores=2"): "go before MODULE:FUNCTION",
        ("run", "missing.py"): "no script 'missing.py'",
    }
    for arguments, words in refused.items():
        done = dayfly(*arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert words in done.stderr, (arguments, done.stderr)
        assert "Traceback" not in done.stderr
    assert journal.histories(workspace.runs, closed=True) == []


def test_a_script_that_uses_cluster_itself_runs_here(tmp_path: Path) -> None:
    """As `python script.py` would, with the options as the defaults of its functions."""
    (tmp_path / "job.py").write_text(
        "import os, sys\nfrom dayfly import cluster\n"
        "@cluster(memory='1MB')\ndef f(): ...\n"
        "print(__name__, sys.argv, f.spec.cores, f.spec.memory, f.spec.secrets)\nsys.exit(9)\n"
    )
    options = ["--cores", "1", "--secret", "A_B", "--memory", "2MB"]
    done = process("run", *options, "job.py", "x", cwd=tmp_path)
    assert done.returncode == 9
    assert done.stdout == "__main__ ['job.py', 'x'] 1 1000000 ('A_B',)\n"
    assert "job.py uses @cluster itself" in done.stderr
    refused = process("run", "--detach", "job.py", cwd=tmp_path)
    assert refused.returncode == 2
    assert "f.submit(...).detach()" in refused.stderr


def test_the_doctor_ends_with_1_where_something_needed_is_broken(clean_environment: Path) -> None:
    """And is readable by programs."""
    (clean_environment / "passphrase").write_text("")
    done = dayfly("doctor", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["ok"] is False
    assert "put the old one back" in dayfly("doctor").stdout


def test_engine_status_tells_path_version_and_origin(tmp_path: Path) -> None:
    """Null in each where there is none, with exit code 69 and what was looked at; and of each vendor's plugin the same."""
    none = dayfly("engine", "status", "--json", PATH="/nowhere", DAYFLY_ENGINE_HOME=str(tmp_path))
    assert none.returncode == EngineMissing.exit_code
    told = json.loads(none.stdout)
    assert [each["where"] for each in told.pop("plugins")] == [None] * len(plugins.vendors())
    assert told == {"path": None, "version": None, "origin": None}
    assert "dayfly engine install" in none.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (JobExited("x", 3), 3),
        (JobKilled("x", 9), 137),
        (LeakRisk("x", run="r"), 75),
        (RunBusy("x"), 73),
        (PolicyDenied("x"), 77),
        (PluginMissing("x"), 69),
        (SpecError("x"), 2),
        (KeyboardInterrupt(), 130),
        (ValueError("x"), 1),
    ],
)
def test_every_end_has_its_documented_code(error: BaseException, code: int) -> None:
    """A script's own code is passed on."""
    assert exit_code(error) == code


def test_json_never_loses_a_value_over_its_type(capsys: pytest.CaptureFixture[str]) -> None:
    """What JSON has no word for comes as its repr."""
    emit_json({"a": {2, 1}, "b": date(2026, 1, 2), "c": 1j})
    assert json.loads(capsys.readouterr().out) == {"a": [1, 2], "b": "2026-01-02", "c": "1j"}


@pytest.mark.parametrize("arguments", [("plan", "jobs:train"), ("plan", "jobs.py"), ("ps",)])
def test_a_working_folder_that_was_deleted_is_named(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """Another shell has removed it; there is a next step, and no traceback."""
    gone = tmp_path / "gone"
    gone.mkdir()
    script = 'cd "$1" && rmdir "$1" && shift && exec "$@"'
    done = subprocess.run(
        ["sh", "-c", script, "sh", str(gone), *COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{gone} was deleted" in done.stderr
    assert "cd to a folder that exists" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_there_for_every_shell(shell: str) -> None:
    """As the README says; the script asks the command itself, in that shell's way."""
    done = subprocess.run(
        [*COMMAND, "completion", shell], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"_DAYFLY_COMPLETE={shell}_complete" in done.stdout
    words = {
        "_DAYFLY_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": "dayfly pl",
        "COMP_CWORD": "pl" if shell == "fish" else "1",
    }
    asked = subprocess.run(
        COMMAND,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | words,
    )
    assert "plan" in asked.stdout
