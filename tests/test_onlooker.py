"""Looking at a run: from its directory where a client follows it, from its machine where none does."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dayfly.errors import GpuIdle, SpecError
from dayfly.infra.machine import Machine
from dayfly.infra.spec import Spec
from dayfly.runtime import admission, ending, ranks, samples
from dayfly.runtime.attend import Attendance
from dayfly.runtime.cli import forward
from dayfly.runtime.display import Display
from dayfly.runtime.onlooker import Onlooker
from dayfly.runtime.session import Session
from dayfly.runtime.usage import TAIL_BYTES, Usage
from dayfly.stacks import intent, journal
from dayfly.stacks.workspace import Workspace
from tests import runs as journals
from tests.emulators.gpu import furnish
from tests.machines import machines
from tests.sshd import sshd
from tests.test_agent_samples import H100, sample
from tests.test_cli import dayfly
from tests.test_display import in_terminal
from tests.test_samples import lines
from tests.test_session import Runs, await_text, pickler

__all__ = ["pickler"]
pytestmark = pytest.mark.sshd


def followed(workspace: Workspace) -> str:
    """A run that a living client follows, of whose machine it has stored samples."""
    run_id = journals.opened(workspace)
    journals.launched(workspace, run_id)
    file = workspace.directory(run_id) / samples.FILE
    file.write_bytes(lines(*(sample(n, gpus=[[90 + n, 5, 80]]) for n in range(5))))
    return run_id


@pytest.fixture
def left(workspace: Workspace, pickler: Path, tmp_path: Path) -> Iterator[Runs]:
    """A run whose client is gone, on a machine that lives and has GPUs; its job is still to be started."""
    run_id = journals.opened(workspace, alive=False)
    directory = workspace.directory(run_id)
    furnish(tmp_path / "gpu", H100)
    with sshd(
        tmp_path / "machine",
        path=f"{tmp_path}/gpu/bin:/usr/bin:/bin",
        run_id=run_id,
        is_new=False,
    ) as server:
        (directory / "user_key").write_bytes(server.keys.user_key.read_bytes())
        (directory / "hmac_key").write_bytes(server.keys.hmac_key)
        journal.append(directory, "machine", **dataclasses.asdict(server.machine))
        journal.append(directory, "job_started")
        yield Runs(server, pickler, tmp_path)


# A floor that no GPU here is below has them looked at every fifth of a second, where it would be every five seconds.
OFTEN: dict[str, Any] = {"gpu_floor_percent": 1.0, "gpu_window_s": 0.8}


def look_until_sampled(onlooker: Onlooker) -> Usage:
    while (usage := onlooker.look()).latest is None or not usage.latest.gpus:
        assert not usage.trouble
        time.sleep(0.05)
    return usage


def directory_of(workspace: Workspace, runs: Runs) -> Path:
    return workspace.directory(runs.server.keys.run_id)


def speaking() -> Callable[[], None]:
    """A function that travels by value: the machine has no tests."""
    length = 2 * TAIL_BYTES

    def speaks() -> None:
        print("x" * length)
        print("step 1\rstep 2 with s3cret-value", flush=True)
        time.sleep(120)

    return speaks


def test_a_run_that_is_followed_is_read_from_its_directory(workspace: Workspace) -> None:
    """The machine, which nobody could reach here, is not asked."""
    with Onlooker(workspace, followed(workspace)) as onlooker:
        usage = onlooker.look()
    assert (usage.trouble, usage.status, usage.phase) == ("", "RUNNING", "run")
    assert [phase.name for phase in usage.phases] == ["provision", "connect", "run"]
    assert usage.latest is not None
    assert usage.latest.gpus[0].percent == 94.0
    assert usage.use is not None
    assert usage.use.gpus[0].percent.mean == 92.0
    assert usage.log == ("out 1", "100%", "err 1")
    assert usage.usd_per_hour == 3.6
    assert json.loads(json.dumps(usage.as_dict()))["now"]["gpus"][0]["percent"] == 94.0


def test_a_run_that_nobody_follows_is_asked_of_its_machine_and_left_as_it_is(
    left: Runs, workspace: Workspace
) -> None:
    """Log, CPU and GPUs of now; the run's directory and its hold do not change."""
    before = sorted(directory_of(workspace, left).iterdir())
    events = journal.read(directory_of(workspace, left)).events
    with left.session() as session:
        session.start(left.task(speaking(), **OFTEN))
    await_text(left.job / "stdout.log", "step 2")
    with Onlooker(workspace, left.server.keys.run_id) as onlooker:
        usage = look_until_sampled(onlooker)
        assert usage.latest is not None
        assert [gpu.percent for gpu in usage.latest.gpus] == [93.0, 4.0]
        assert usage.latest.processes == 1
        assert usage.log[-1] == "step 2 with s3cret-value"
        numbers = [each.number for each in onlooker.look().samples]
    assert numbers == list(range(len(numbers)))
    assert usage.status == "HELD"
    assert sorted(directory_of(workspace, left).iterdir()) == before
    assert journal.read(directory_of(workspace, left)).events == events


def test_several_machines_that_nobody_follows_are_all_asked(
    workspace: Workspace, pickler: Path, tmp_path: Path
) -> None:
    """Each for what it uses."""
    with machines(tmp_path, 2) as servers:
        keys = servers[0].keys
        directory = workspace.directory(keys.run_id)
        intent.write(workspace, keys.run_id, Spec(nodes=2), journals.OFFER, client=journals.GONE)
        (directory / "user_key").write_bytes(keys.user_key.read_bytes())
        (directory / "hmac_key").write_bytes(keys.hmac_key)
        task = Runs(servers[0], pickler, tmp_path).task(lambda: time.sleep(120))
        for server in servers:
            journal.append(directory, "machine", **dataclasses.asdict(server.machine))
            with Session(server.machine, keys) as session:
                session.start(task)
        journal.append(directory, "job_started")
        with Onlooker(workspace, keys.run_id) as onlooker:
            while not all((usage := onlooker.look()).machines):
                assert not usage.trouble
                time.sleep(0.05)
    assert len(usage.machines) == 2
    told = json.loads(json.dumps(usage.as_dict()))["machines"]
    assert [each["now"]["processes"] for each in told] == [1, 1]


@pytest.mark.parametrize("known", [True, False])
def test_a_log_that_may_hold_a_secret_is_shown_masked_or_not_at_all(
    left: Runs, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """As in `dayfly attach`; what the machine uses is no secret."""
    history = journal.read(directory_of(workspace, left))
    spec = {**history.intent["spec"], "secrets": ["TOKEN"]}
    journal.append(
        history.directory, "intent", **{**history.intent, "spec": spec, "client": journals.GONE}
    )
    if known:
        monkeypatch.setenv("TOKEN", "s3cret-value")
    with left.session() as session:
        session.start(left.task(speaking(), **OFTEN))
    await_text(left.job / "stdout.log", "step 2")
    with Onlooker(workspace, history.id) as onlooker:
        usage = look_until_sampled(onlooker)
    assert usage.log[-1:] == (("step 2 with ************",) if known else ())
    assert "s3cret" not in str(usage.as_dict())


def test_a_machine_that_does_not_answer_is_trouble_and_no_failure(
    left: Runs, workspace: Workspace
) -> None:
    """What is known here is shown, with the reason why it is not of now."""
    journals_machine = {**dataclasses.asdict(left.server.machine), "port": 1}
    journal.append(directory_of(workspace, left), "machine", **journals_machine)
    onlooker = Onlooker(workspace, left.server.keys.run_id)
    onlooker.patience_s = 0.2
    usage = onlooker.look()
    assert "could not be reached" in usage.trouble
    assert usage.phase == "run"


def test_a_firewall_is_told_once_where_this_computer_is_now(
    left: Runs, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `dayfly ssh` has it told: where the machine is asked, which does not answer; a run that is followed is not."""
    asked: list[str] = []
    monkeypatch.setattr(admission, "admit", lambda history, _note: asked.append(history.id))
    run_id = left.server.keys.run_id
    with Onlooker(workspace, followed(workspace)) as onlooker:
        onlooker.look()
    with Onlooker(workspace, run_id) as onlooker:
        onlooker.look()
    assert asked == []
    machine = {**dataclasses.asdict(left.server.machine), "port": 1}
    journal.append(directory_of(workspace, left), "machine", **machine)
    with Onlooker(workspace, run_id) as onlooker:
        onlooker.patience_s = 0.1
        assert [bool(onlooker.look().trouble) for _ in range(2)] == [True, True]
    assert asked == [run_id]


def test_a_run_that_idled_with_nobody_there_ends_in_its_own_error_and_its_samples_come_home(
    left: Runs, workspace: Workspace
) -> None:
    """The keeper brings them, also where the log has to stay; what had come before is not there twice."""
    with left.session() as session:
        session.start(left.task(lambda: time.sleep(120), gpu_floor_percent=10.0, gpu_window_s=0.8))
        early = session.look()
    while not (left.job / "end.json").exists():
        time.sleep(0.05)
    directory = directory_of(workspace, left)
    attendance = Attendance(Display.silent())
    attendance.run_stack = _Stack(workspace, directory)  # type: ignore[assignment]
    (directory / samples.FILE).write_bytes(early.samples)
    with left.session() as session:
        end = attendance.hold(session, with_log=False)
    assert end is not None
    error = ending.failure(directory, end)
    assert isinstance(error, GpuIdle)
    assert "GPU 1 of 2 did not reach 10 %" in str(error)
    assert ending.known(journal.read(directory)) == end
    found = samples.read(directory)
    assert [each.number for each in found] == list(range(len(found)))
    assert found[-1].gpus[1].percent == 4.0


@dataclasses.dataclass
class _Stack:
    """As much of a run's stack as an attendance wants that holds."""

    workspace: Workspace
    directory: Path

    def record(self, event: str, **fields: Any) -> None:
        journal.append(self.directory, event, **fields)


# -- the command


def test_top_prints_one_reading_as_json_or_as_text(workspace: Workspace) -> None:
    """From a process that has nothing to do with the run."""
    run_id = followed(workspace)
    told = json.loads(dayfly("top", run_id[:10], "--json").stdout)
    assert (told["run"], told["phase"], told["now"]["cpu_cores"]) == (run_id, "run", 2.0)
    assert told["phases"][0]["seconds"] >= 0
    shown = dayfly("top", run_id[:10], "--once").stdout
    assert f"run {run_id[:12]}  train:fit  run" in shown
    for words in (
        "provision",
        "2.0 of 8 cores",
        "94 %",
        "5.2 MB of 83.9 MB",
        "▁",
        "█",
        "err 1",
        "100%",
    ):
        assert words in shown
    assert "50%" not in shown, "a progress bar is shown as it stands"


def test_top_of_several_machines_shows_each_and_lists_their_sum(workspace: Workspace) -> None:
    """The mean of all GPUs."""
    run_id = journals.opened(workspace, spec=Spec(nodes=2))
    journals.launched(workspace, run_id)
    directory = workspace.directory(run_id)
    for node, percent in enumerate((90, 10)):
        folder = ranks.log_folder(directory, node)
        folder.mkdir(parents=True, exist_ok=True)
        told = sample(0, cpu=2.5, gpus=[[percent, 5, 80]])
        (folder / samples.FILE).write_bytes(lines(told))
    usage = Usage.of(journal.read(directory))
    assert [each[0].gpus[0].percent for each in usage.machines] == [90.0, 10.0]
    shown = dayfly("top", run_id, "--once").stdout
    assert shown.index("machine 0") < shown.index("90 %") < shown.index("machine 1")
    assert "10 %" in shown
    row = dayfly("top").stdout.splitlines()[1]
    assert "5.0" in row.split()
    assert "50 %" in row


def test_top_without_a_run_lists_the_open_ones(workspace: Workspace) -> None:
    """A row each; a closed one is not among them."""
    assert "no run is open" in dayfly("top").stdout
    run_id, closed = followed(workspace), followed(workspace)
    journals.closed(workspace, closed)
    assert [told["run"] for told in json.loads(dayfly("top", "--json").stdout)] == [run_id]
    rows = dayfly("top").stdout.splitlines()
    assert rows[0].split() == [
        "ID",
        "STATUS",
        "PHASE",
        "FUNCTION",
        "FOR",
        "CPU",
        "MEMORY",
        "GPU",
        "$/H",
        "$",
    ]
    assert [run_id[:12] in row for row in rows] == [False, True]
    assert "94 %" in rows[1]


def test_top_shows_a_run_that_cannot_be_read_and_the_others(workspace: Workspace) -> None:
    """As `dayfly ps` does: with the reason, in its row or in its reading."""
    run_id, unreadable, odd = followed(workspace), journals.opened(workspace), followed(workspace)
    file = workspace.directory(unreadable) / journal.FILE
    file.unlink()
    file.mkdir()
    journal.append(workspace.directory(odd), "closing")
    told = {each["run"]: each for each in json.loads(dayfly("top", "--json").stdout)}
    assert set(told) == {run_id, unreadable, odd}
    assert told[unreadable]["status"] == "UNREADABLE"
    assert "Is a directory" in told[unreadable]["trouble"]
    assert told[run_id]["trouble"] == ""
    (row,) = [row for row in dayfly("top").stdout.splitlines() if unreadable[:12] in row]
    assert "UNREADABLE" in row


def several(workspace: Workspace, count: int) -> str:
    """An open run of so many machines, none of which anybody answers at."""
    run_id = journals.opened(workspace, spec=Spec(nodes=count))
    directory = workspace.directory(run_id)
    for node in range(count):
        told = Machine(
            id=f"i-{node}",
            host="127.0.0.1",
            port=9 + node,
            user="me",
            host_key=f"ssh-ed25519 AAAA{node}",
            provider="local",
            region="loopback",
            instance_type="this-computer",
            node=node,
        )
        journal.append(directory, "machine", **dataclasses.asdict(told))
    return run_id


class _Reached(Exception):
    """As far as a test lets a command come."""


def test_ssh_and_forward_reach_the_machine_that_is_named(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its own host key; its firewall is told first where this computer is now."""
    run_id, knocked, reached = several(workspace, 3), list[int](), list[str]()

    def knock(history: journal.History, _note: object, node: int = 0) -> None:
        assert history.id == run_id
        knocked.append(node)

    def session(machine: Machine, _keys: object) -> None:
        reached.append(machine.id)
        raise _Reached

    def execvp(_file: str, line: list[str]) -> None:
        reached.append(line[line.index("-p") + 1])
        assert f"HostKeyAlias=dayfly-{run_id}" + ("-2" if "11" in line else "") in line
        raise _Reached

    monkeypatch.setattr(admission, "knock", knock)
    monkeypatch.setattr("dayfly.runtime.session.Session", session)
    monkeypatch.setattr("os.execvp", execvp)
    for line in (
        ("forward", run_id, "8888"),
        ("forward", run_id, "8888", "--node", "1"),
        ("ssh", run_id),
        ("ssh", "--node", "2", run_id, "--", "nvidia-smi"),
    ):
        with pytest.raises(_Reached):
            dayfly(*line)
    assert (reached, knocked) == (["i-0", "i-1", "9", "11"], [0, 1, 0, 2])
    known = (workspace.directory(run_id) / "known_hosts").read_text().splitlines()
    assert known == [
        f"dayfly-{run_id} ssh-ed25519 AAAA0",
        f"dayfly-{run_id}-1 ssh-ed25519 AAAA1",
        f"dayfly-{run_id}-2 ssh-ed25519 AAAA2",
    ]


def test_a_machine_that_there_is_not_is_refused_with_those_that_there_are(
    workspace: Workspace,
) -> None:
    """And an option of ours is not taken for the command's."""
    run_id, one = several(workspace, 2), journals.opened(workspace)
    for line in (("forward", "--node", "2", run_id, "1"), ("ssh", "--node", "2", run_id)):
        done = dayfly(*line)
        assert done.returncode == 2
        assert "node 2: run" in done.stderr
        assert "has 2 machines, 0 to 1" in done.stderr
    assert "has one machine, which is 0" in dayfly("ssh", "--node", "1", one).stderr
    assert "no machine that could be reached" in dayfly("forward", one, "1").stderr
    for behind in (("--node", "1"), ("--node=1",)):
        assert "goes in front of the run" in dayfly("ssh", run_id, *behind).stderr


_LIVE = """
from dayfly.runtime.cli import top
from dayfly.runtime.cli.app import dayfly as app
from dayfly.runtime.context import Context
from tests import runs
top._EVERY_S = 0.02
looked = top._view
def view(usage):
    if usage.status != "CLOSED":
        runs.closed(Context.open().workspace, usage.run)
    return looked(usage)
top._view = view
app(["top", {run!r}])
"""


def test_top_on_a_terminal_goes_on_until_the_run_is_closed(workspace: Workspace) -> None:
    """On a screen of its own, after which the last reading stays."""
    seen = in_terminal(_LIVE.format(run=followed(workspace)))
    before, _, after = seen.partition("\x1b[?1049l")
    assert "\x1b[?1049h" in before
    assert "GPU 0" in before
    assert "CLOSED" in after
    assert "94 %" in after


@pytest.mark.parametrize(
    ("text", "ports"), [("8888", (8888, 8888)), ("8888:0", (8888, 0)), ("80:8080", (80, 8080))]
)
def test_ports_are_read_as_they_are_written(text: str, ports: tuple[int, int]) -> None:
    """The one here is that of there unless it is said."""
    assert forward.parsed(text) == ports


@pytest.mark.parametrize("text", ["", "http", "80:", ":80", "-1", "8888:x", "1.5"])
def test_what_names_no_port_is_refused(text: str) -> None:
    """With what to write instead."""
    with pytest.raises(SpecError, match="write 8888"):
        forward.parsed(text)


def test_top_of_a_closed_run_tells_its_end(workspace: Workspace) -> None:
    """And of an unknown one that it is not known."""
    run_id = followed(workspace)
    journals.closed(workspace, run_id)
    told = json.loads(dayfly("top", run_id, "--json").stdout)
    assert (told["status"], told["phase"]) == ("CLOSED", "")
    assert dayfly("top", "ff" * 16).returncode == 2
