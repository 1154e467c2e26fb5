"""The keeper itself: small, alone, quiet, gone when nothing is open; and what it tells whom."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from dayfly.errors import KeeperMissing
from dayfly.runtime import entrust, keeper, keeper_socket
from dayfly.runtime.entrust import Line
from dayfly.runtime.keeper import Keeper, Log
from dayfly.runtime.ward import Ward
from dayfly.stacks import journal, late_look
from dayfly.stacks.workspace import Workspace
from tests import keepers, runs
from tests.emulators.until import until
from tests.test_cli import dayfly
from tests.test_ward import Acts

pytestmark = pytest.mark.process
_RUN = "d" * 32


def _foreign_modules(process: psutil.Process) -> list[str]:
    """Files of site-packages that a process has mapped."""
    return [m.path for m in process.memory_maps() if "site-packages" in m.path]


def test_it_is_small_alone_and_private(workspace: Workspace) -> None:
    """Under 25 MB with a run in its care, with the standard library only; a second one ends at once."""
    runs.opened(workspace)
    with entrust.reach(workspace) as line:
        process = keepers.started(workspace.home)
        assert line.process["pid"] == process.pid
        assert line.ask("status")["runs"][0]["status"] == "RUNNING"
        assert process.memory_info().rss < 25e6
        assert _foreign_modules(process) == []
        assert os.getsid(process.pid) == process.pid
        command = [sys.executable, "-m", "dayfly.runtime.keeper"]
        subprocess.run(command, check=True, timeout=30)
        with entrust.reach(workspace) as again:
            assert again.process == line.process
    for file in keeper.folder_of(workspace.home).iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_it_needs_the_standard_library_only(workspace: Workspace) -> None:
    """And of that nothing that brings OpenSSL along."""
    code = (
        "import sys; from dayfly.runtime import keeper\n"
        "own = {m.split('.')[0] for m in sys.modules} - set(sys.stdlib_module_names)\n"
        "print(sorted(m for m in own if not m.startswith('_')), '_hashlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['dayfly'] False\n"


def test_it_uses_next_to_no_time_while_it_waits(workspace: Workspace) -> None:
    """No busy waiting: a hundredth of a core at most, with ten runs in its care."""
    for _ in range(10):
        runs.opened(workspace)
    with entrust.reach(workspace):
        process = keepers.started(workspace.home)
        before, since = sum(process.cpu_times()[:2]), time.monotonic()
        time.sleep(3)
        share = (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - since)
    assert share < 0.02


def test_of_many_clients_that_begin_at_once_one_starts_it(workspace: Workspace) -> None:
    """The lock is taken before there is a process, and handed on to it."""
    started = [entrust.call(workspace) for _ in range(20)]
    assert len([process for process in started if process is not None]) == 1
    with entrust.reach(workspace) as line:
        assert started[0] is not None
        assert line.process["pid"] == started[0].pid


def test_it_ends_by_itself_when_nothing_is_open(workspace: Workspace) -> None:
    """And a client that comes in that moment gets another."""
    entrust.reach(workspace).close()
    process = keepers.started(workspace.home)
    keepers.wait(process)
    with entrust.reach(workspace) as line:
        assert line.process["pid"] != process.pid


def test_a_client_on_the_line_keeps_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be about to write an intent; when it has gone nothing keeps it."""
    monkeypatch.setattr(keeper, "LINGER_S", 1.5)
    monkeypatch.setattr(keeper, "ROUND_S", 0.02)
    keeper.folder_of(workspace.home).mkdir(mode=0o700)
    kept = Keeper(workspace.home)
    serving = threading.Thread(target=keeper.serve, args=(kept, workspace.home, "1", print))
    serving.start()
    with _line(workspace) as line:
        serving.join(keeper.LINGER_S + 10 * keeper.ROUND_S)
        assert serving.is_alive()
        line.ask("status")
    serving.join(30)
    assert not serving.is_alive()


def _line(workspace: Workspace) -> Line:
    """To one that is just beginning to listen."""
    until = time.monotonic() + 30
    while True:
        try:
            return Line(workspace)
        except KeeperMissing:
            assert time.monotonic() < until
            time.sleep(0.005)


def test_sigterm_ends_it_and_a_hangup_does_not(workspace: Workspace) -> None:
    """The terminal that its first client ran in is closed; the system shuts down."""
    runs.opened(workspace)
    entrust.reach(workspace).close()
    process = keepers.started(workspace.home)
    process.send_signal(signal.SIGHUP)
    with Line(workspace) as line:
        assert line.process["pid"] == process.pid
    process.terminate()
    keepers.wait(process)
    with pytest.raises(KeeperMissing):
        Line(workspace)


def test_stop_is_refused_while_runs_are_open_and_names_them(workspace: Workspace) -> None:
    """Unless forced; without a keeper it is success."""
    assert "no keeper" in dayfly("keeper", "status").stderr
    assert json.loads(dayfly("keeper", "status", "--json").stdout) is None
    run_id = runs.opened(workspace)
    assert run_id[:12] in dayfly("ps").stdout
    told = json.loads(dayfly("keeper", "status", "--json").stdout)
    assert [run["id"] for run in told["runs"]] == [run_id]
    assert run_id[:12] in dayfly("keeper", "status").stdout
    refused = dayfly("keeper", "stop")
    assert (refused.returncode, run_id[:12] in refused.stderr) == (73, True)
    forced = dayfly("keeper", "stop", "--force", "--json")
    assert json.loads(forced.stdout) == {"stopped": True, "runs": [run_id]}
    assert keepers.process(workspace.home) is None
    assert json.loads(dayfly("keeper", "stop", "--json").stdout)["stopped"] is False


def test_one_of_an_older_version_is_replaced_with_all_that_it_was_given(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials are in its memory only, and go from the one to the other over the socket."""
    run_id = runs.opened(workspace)
    monkeypatch.setattr(entrust, "_version", lambda: "0.0.1")
    with entrust.reach(workspace) as line:
        line.entrust(run_id, {"TEST_KEY": "v"})
        old = line.process
    monkeypatch.undo()
    monkeypatch.setenv("DAYFLY_HOME", str(workspace.home))
    with entrust.reach(workspace) as line:
        assert line.process != old
        assert line.ask("status")["runs"][0]["variables"] == ["TEST_KEY"]
    assert not journal.is_alive(old)


def test_what_it_was_given_is_in_no_file_and_on_no_command_line(workspace: Workspace) -> None:
    """In its memory, until the act for that run."""
    run_id = runs.opened(workspace)
    with entrust.reach(workspace) as line:
        line.entrust(run_id, {"TEST_KEY": "correct-horse"})
        process = keepers.started(workspace.home)
        assert "correct-horse" not in json.dumps(line.ask("status"))
        assert "correct-horse" not in " ".join(process.cmdline())
        assert "TEST_KEY" not in process.environ()
    for file in workspace.home.rglob("*"):
        assert not file.is_file() or b"correct-horse" not in file.read_bytes(), file


def test_it_is_started_without_the_credentials_of_its_first_client(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would be every run's."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("DAYFLY_REGION", "mars")
    with entrust.reach(workspace):
        variables = keepers.started(workspace.home).environ()
    assert not {"AWS_SECRET_ACCESS_KEY", "DAYFLY_REGION"} & set(variables)
    assert variables["DAYFLY_HOME"] == str(workspace.home)


def test_nonsense_is_refused_and_never_echoed(workspace: Workspace) -> None:
    """A line that is no message may hold anything."""
    with entrust.reach(workspace) as line:
        assert "no operation 'dance'" in line.ask("dance")["refused"]
        line._socket.sendall(b"correct-horse\n")
        assert line._heard() == {"refused": "not a message for a keeper: JSONDecodeError"}
        line._socket.sendall(b"[]\n")
        assert "TypeError" in line._heard()["refused"]
        with pytest.raises((KeeperMissing, BrokenPipeError, ConnectionResetError)):
            line._socket.sendall(b"x" * (2 << 20))
            line._heard()
    with Line(workspace):
        pass


def test_another_user_s_process_is_not_greeted(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the modes of the files are: the kernel says who it is."""
    import selectors

    path = workspace.home / "test.sock"
    selector = selectors.DefaultSelector()
    server = keeper_socket.KeeperSocket(path, {"keeper": 1}, lambda m: m, selector)
    try:
        monkeypatch.setattr(keeper_socket, "peer_uid", lambda _: os.getuid() + 1)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            server._accept()
            assert client.recv(100) == b""
        assert server.clients == 0
    finally:
        server.close()
        selector.close()


def test_the_kernel_tells_who_is_at_the_other_end() -> None:
    """On Linux by SO_PEERCRED, on macOS by LOCAL_PEERCRED."""
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert keeper_socket.peer_uid(one) == os.getuid()


def test_a_home_with_a_long_name_has_its_socket_elsewhere(tmp_path: Path) -> None:
    """A socket's name has a hundred bytes; two homes never share one."""
    deep = tmp_path / ("x" * 120)
    one, other = keeper_socket.path_of(deep, "a"), keeper_socket.path_of(deep, "b")
    assert len(os.fsencode(one)) <= 100
    assert one != other


def test_a_folder_that_others_can_enter_is_refused(workspace: Workspace) -> None:
    """Somebody could put a socket of theirs there."""
    folder = keeper.folder_of(workspace.home)
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(KeeperMissing, match=r"PermissionError|chmod 700"):
        entrust.reach(workspace)


def test_the_next_command_acts_by_itself_where_no_keeper_can_be(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so, and the orphan is destroyed all the same."""
    run_id = runs.opened(workspace, alive=False)
    journal.append(
        workspace.directory(run_id), "attached", client=journal.myself() | {"pid": 2**22 + 1}
    )
    keeper.folder_of(workspace.home).write_text("in the way")
    said = dayfly("ps").stderr
    assert "the keeper is not there" in said
    assert "destroyed in the background" in said
    until = time.monotonic() + 60
    while not journal.read(workspace.directory(run_id)).closed:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_rounds_find_new_runs_and_forget_closed_ones(workspace: Workspace) -> None:
    """By the folder's own time of change; what was given early is kept for the run."""
    acts = Acts()
    kept = Keeper(workspace.home, ward=lambda directory: Ward(directory, acts))
    kept.round()
    assert kept.answer({"op": "entrust", "run": _RUN, "variables": {"A": "b"}, "own": True}) == {
        "entrusted": _RUN
    }
    run_id = runs.opened(workspace)
    (workspace.runs / run_id).rename(workspace.runs / _RUN)
    kept.round()
    assert kept.open_runs == [_RUN]
    assert kept.answer({"op": "status"})["runs"][0]["variables"] == ["A"]
    assert not kept.is_idle
    runs.closed(workspace, _RUN)
    kept.round()
    assert kept.open_runs == []
    assert kept.answer({"op": "stop", "force": False}) == {"stopping": True, "runs": []}


def test_a_run_that_is_opened_again_is_kept_again(workspace: Workspace) -> None:
    """Something of it came after its receipt."""
    time_s = 1e9
    kept = Keeper(
        workspace.home, now=lambda: time_s, ward=lambda directory: Ward(directory, Acts())
    )
    run_id = runs.opened(workspace)
    runs.closed(workspace, run_id)
    kept.round()
    assert kept.open_runs == []
    (workspace.directory(run_id) / journal.RECEIPT).unlink()
    time_s += 60
    kept.round()
    assert kept.open_runs == [run_id]


def test_a_closed_run_is_kept_until_its_late_look(workspace: Workspace) -> None:
    """And what is no run's folder never is."""
    run_id = runs.opened(workspace)
    (workspace.runs / "notes").mkdir()
    late_look.put(workspace.directory(run_id), time.time() + 3600)
    runs.closed(workspace, run_id)
    kept = Keeper(workspace.home, ward=lambda d: Ward(d, Acts()))
    kept.round()
    assert (kept.open_runs, kept.is_idle) == ([run_id], False)
    late_look.done(workspace.directory(run_id))
    kept.round()
    assert (kept.open_runs, kept.is_idle) == ([], True)


def test_a_few_acts_at_a_time(workspace: Workspace) -> None:
    """Two hundred clients may die at once; each act is an interpreter with an engine under it."""
    acts = Acts()
    dead = journal.myself() | {"pid": 2**22 + 1}
    for _ in range(20):
        run_id = runs.opened(workspace)
        journal.append(workspace.directory(run_id), "attached", client=dead)
    kept = Keeper(workspace.home, ward=lambda directory: Ward(directory, acts))
    kept.round()
    assert len(acts.started) == 8
    acts.started[0].end(0, '{"next": 9e9}')
    kept.round()
    assert len(acts.started) == 9


def test_no_round_is_made_for_a_word_alone(workspace: Workspace) -> None:
    """Each of two hundred clients says a word of each of two hundred runs, and a round looks at all of these."""

    class Counting(Keeper):
        rounds = 0

        def round(self) -> None:
            self.rounds += 1
            super().round()

    for _ in range(3):
        runs.opened(workspace)
    keeper.folder_of(workspace.home).mkdir(mode=0o700)
    kept = Counting(workspace.home)
    serving = threading.Thread(target=keeper.serve, args=(kept, workspace.home, "1", print))
    serving.start()
    words = 300
    with entrust.reach(workspace) as line:
        for history in journal.histories(workspace.runs):
            for _ in range(words // 3):
                line.entrust(history.id, {"A": "b"})
        assert len(line.ask("status")["runs"]) == 3
        until(lambda: kept.rounds > 0, timeout_s=30)
        line.ask("stop", force=True)
    serving.join(30)
    assert not serving.is_alive()
    assert 0 < kept.rounds < words / 2


def test_a_new_one_hears_its_first_client_before_it_acts(workspace: Workspace) -> None:
    """A result that waits at a cloud cannot be fetched without what only that client's environment has."""
    run_id = runs.opened(workspace)
    dead = journal.myself() | {"pid": 2**22 + 1}
    journal.append(workspace.directory(run_id), "attached", client=dead)
    acts = Acts()
    keeper.folder_of(workspace.home).mkdir(mode=0o700)
    kept = Keeper(workspace.home, ward=lambda directory: Ward(directory, acts))
    serving = threading.Thread(target=keeper.serve, args=(kept, workspace.home, "1", print))
    serving.start()
    with entrust.reach(workspace) as line:
        line.entrust(run_id, {"CLOUD_KEY": "a secret"}, own=False)
        until(lambda: acts.started != [], timeout_s=30)
        line.ask("stop", force=True)
    serving.join(30)
    assert [act.variables for act in acts.started] == [{"CLOUD_KEY": "a secret"}]


def test_its_log_is_bounded(tmp_path: Path) -> None:
    """A megabyte, and the one before."""
    log = Log(tmp_path / "host.log")
    for _ in range(25):
        log("x" * 100_000)
    sizes = [file.stat().st_size for file in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) < 1.2e6
