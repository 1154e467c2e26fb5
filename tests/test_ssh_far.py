"""What is done to somebody's authorized_keys and processes: the run's own line and nothing else, whatever happens meanwhile."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dayfly.infra import ssh_far, ssh_records
from tests import namespaces
from tests.own_machine import USERS_LINE

pytestmark = pytest.mark.process

_RUN, _OTHER = "a" * 32, "b" * 32


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The machine's home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def _put(run: str = _RUN) -> dict[str, Any]:
    tags = {"dayfly-run": run, "dayfly-owner": "me", "dayfly-deadline": "9", "dayfly-created": "1"}
    done = _asked(tags=tags, public_key=f"ssh-ed25519 {run}")
    assert "error" not in done, done
    return done


def _asked(**fields: Any) -> dict[str, Any]:
    request = {
        "op": "put",
        "tags": {"dayfly-run": _RUN},
        "public_key": "k",
        "valid_s": 60.0,
        "begun": [time.monotonic(), time.time()],
        "within_s": 6.0,
    }
    return ssh_far.main(request | fields)


def _take(run: str = _RUN) -> None:
    done = ssh_far.main({"op": "take", "run": run})
    assert done == {"left": []}


def _keys(home: Path, text: str | bytes) -> Path:
    file = home / ".ssh" / "authorized_keys"
    file.parent.mkdir(mode=0o700, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


_LINES = st.lists(
    st.one_of(
        st.sampled_from(
            [USERS_LINE, "", "# dayfly-run=" + _RUN, f"{USERS_LINE} dayfly-run=x", "\ufeffodd\r"]
        ),
        st.text(st.characters(exclude_characters="\n"), max_size=20),
    ),
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(lines=_LINES, ended=st.booleans())
def test_what_was_there_is_there_again_to_the_byte(lines: list[str], ended: bool) -> None:
    """Also a last line without an end, and lines that only look like ours."""
    text = ("\n".join(lines) + "\n" * ended).encode("utf-8", "surrogatepass")
    kept, added = ssh_far._without(text, _RUN)
    assert (kept, added) == (None, b"")
    unended = bool(text) and not text.endswith(b"\n")
    mark = b" dayfly-added=newline" if unended else b""
    line = b"restrict ssh-ed25519 AAAA dayfly-owner=me dayfly-run=" + _RUN.encode() + mark + b"\n"
    assert ssh_far._without(text + b"\n" * unended + line, _RUN)[0] == text


@pytest.mark.parametrize("text", ["", f"{USERS_LINE}\n", USERS_LINE, "# only a word"])
def test_put_and_take_leave_the_file_as_it_was(home: Path, text: str) -> None:
    """With its mode; and putting twice is putting once."""
    file = _keys(home, text)
    file.chmod(0o644)
    _put()
    _put()
    lines = file.read_text().splitlines()
    assert [_RUN in line for line in lines].count(True) == 1
    assert text.splitlines() == lines[:-1]
    assert lines[-1].startswith('restrict,pty,port-forwarding,expiry-time="2')
    _take()
    assert file.read_text() == text
    assert file.stat().st_mode & 0o777 == 0o644
    _take()


def test_a_file_that_was_not_there_is_not_there_afterwards(home: Path) -> None:
    """Nor can anybody else read it meanwhile; where a line has come, it stays."""
    file = home / ".ssh" / "authorized_keys"
    _put()
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    _take()
    assert not file.exists()
    _put()
    with file.open("a") as opened:
        opened.write(f"{USERS_LINE}\n")
    _take()
    assert file.read_text() == f"{USERS_LINE}\n"


def test_a_link_stays_a_link(home: Path) -> None:
    """What it leads to is changed, as it was."""
    (home / "kept").mkdir()
    target = home / "kept" / "keys"
    target.write_text(f"{USERS_LINE}\n")
    (home / ".ssh").mkdir()
    link = home / ".ssh" / "authorized_keys"
    link.symlink_to(target)
    _put()
    assert _RUN in target.read_text()
    _take()
    assert link.is_symlink()
    assert target.read_text() == f"{USERS_LINE}\n"


def test_a_line_that_is_appended_while_ours_is_taken_out_is_kept(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `ssh-copy-id`, say, which takes no lock: before the rename, and to the old file after it."""
    file = _keys(home, f"{USERS_LINE}\n")
    _put()
    real, opened = os.rename, file.open("a")
    late = [f"{USERS_LINE}-{number}\n" for number in range(2)]
    written_aside: Callable[..., str] = ssh_far._written_aside

    def aside(*arguments: Any) -> str:
        made = written_aside(*arguments)
        if len(late) == 2:
            opened.write(late.pop(0))
            opened.flush()
        return made

    def rename(source: str, target: str) -> None:
        real(source, target)
        if late:
            opened.write(late.pop(0))
            opened.flush()

    monkeypatch.setattr(ssh_far, "_written_aside", aside)
    monkeypatch.setattr(os, "rename", rename)
    with opened:
        _take()
    assert file.read_text() == f"{USERS_LINE}\n{USERS_LINE}-0\n{USERS_LINE}-1\n"


@pytest.mark.parametrize("step", ["open", "fchmod", "fsync", "rename"])
def test_a_kill_half_way_costs_no_line(home: Path, step: str) -> None:
    """The next attempt ends it, and nothing stays of the first."""
    file = _keys(home, f"{USERS_LINE}\n")
    _put()
    child = os.fork()
    if not child:
        try:
            setattr(os, step, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
            ssh_far.main({"op": "take", "run": _RUN})
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert file.read_text().startswith(f"{USERS_LINE}\n")
    _take()
    assert file.read_text() == f"{USERS_LINE}\n"
    assert sorted(path.name for path in file.parent.iterdir()) == ["authorized_keys"]


def test_many_at_once_take_out_their_own_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each puts a key in and takes it out, while somebody else adds lines of their own, and is waited for."""
    # On a computer with much else to do a line may take longer between `open` and `write`, and sixty changes of the file longer to
    # reach its disk, than anybody should wait.
    monkeypatch.setattr(ssh_far, "_LATE_S", 30.0)
    monkeypatch.setattr(ssh_far, "_LOCK_S", 60.0)
    file = _keys(home, f"{USERS_LINE}\n")
    runs = [secrets.token_hex(16) for _ in range(6)]
    children = []
    for run in runs:
        child = os.fork()
        if not child:
            code = 1
            try:
                for _ in range(5):
                    _put(run)
                    _take(run)
                code = 0
            except BaseException:  # noqa: BLE001 - the child must not go on with the parent's tests
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    for number in range(20):
        with file.open("a") as opened:
            opened.write(f"{USERS_LINE}-{number}\n")
        time.sleep(0.005)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 6
    # A line that was on its way to the file that was replaced comes behind those that were not.
    expected = [USERS_LINE, *(f"{USERS_LINE}-{number}" for number in range(20))]
    assert sorted(file.read_text().splitlines()) == sorted(expected)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who has a file open")
def test_a_line_that_somebody_adds_to_the_file_that_was_replaced_is_not_lost(home: Path) -> None:
    """Who has opened it before writes to it after the new one has its name."""
    file = _keys(home, f"{USERS_LINE}\n")
    _put()
    opened, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_APPEND)
            os.write(writer, b"x")
            while file.stat().st_ino == os.fstat(descriptor).st_ino:
                time.sleep(0.001)
            time.sleep(0.02)
            os.write(descriptor, f"{USERS_LINE}-late\n".encode())
        finally:
            os._exit(0)
    assert os.read(opened, 1) == b"x"
    _take()
    os.waitpid(child, 0)
    assert file.read_text().splitlines() == [USERS_LINE, f"{USERS_LINE}-late"]


def test_a_folder_that_cannot_be_written_to_is_told_before_anything_is_appended(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line could be put in, and never be taken out again."""
    file = _keys(home, USERS_LINE)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert _asked() == {"error": f"PermissionError: {file.parent} cannot be written to"}
    assert file.read_text() == USERS_LINE


@pytest.mark.parametrize("before", [f"{USERS_LINE}\n", None])
def test_a_full_disk_leaves_no_part_of_a_line(home: Path, before: str | None) -> None:
    """It would be glued to whatever line comes next; nor does a file stay of which nobody knows."""
    file = _keys(home, before or "")
    if before is None:
        file.unlink()

    def put_without_room() -> None:
        # As good as a disk: what a process writes beyond it is refused, and the line is longer than what is left.
        room = len(before or "") + 30
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        assert "error" in _asked()

    assert _in_a_child(put_without_room) == 0
    assert (file.read_text() if file.exists() else None) == before
    assert [path.name for path in file.parent.iterdir()] == ["authorized_keys"] * bool(before)


def _in_a_child(act: Callable[[], object]) -> int:
    child = os.fork()
    if not child:
        code = 1
        try:
            act()
            code = 0
        except BaseException:  # noqa: BLE001 - a child of a test goes no further than this
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


_root = pytest.mark.skipif(os.getuid() != 0, reason="another account's file takes root to be made")


def _as(uid: int, gid: int, *paths: Path) -> None:
    """Become an account of no further groups, which has these."""
    for path in paths:
        os.chown(path, uid, gid)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


@pytest.fixture
def open_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home that an account other than this test's comes to."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        monkeypatch.setenv("HOME", name)
        yield Path(name)


@_root
def test_a_group_that_cannot_be_given_keeps_no_line_in(open_home: Path) -> None:
    """An authorized_keys of nobody:root, say: its line can be put in, and taken out again."""
    file = _keys(open_home, f"{USERS_LINE}\n")
    file.chmod(0o640)

    def act() -> None:
        _as(65534, 65534, open_home, file.parent)
        os.umask(0o077)
        _put()
        assert _RUN in file.read_text()
        # What the group root might read is nothing for another one.
        assert file.stat().st_mode & 0o777 == 0o600
        _take()
        assert file.read_text() == f"{USERS_LINE}\n"

    os.chown(file, 65534, 0)
    assert _in_a_child(act) == 0
    assert [path.name for path in file.parent.iterdir()] == ["authorized_keys"]


@_root
def test_another_account_s_file_is_refused_before_anything_is_added(open_home: Path) -> None:
    """It would be this account's by then."""
    file = _keys(open_home, f"{USERS_LINE}\n")
    file.chmod(0o666)

    def act() -> None:
        _as(65534, 65534, open_home, file.parent)
        assert "belongs to another account" in _asked()["error"]

    assert _in_a_child(act) == 0
    assert file.read_text() == f"{USERS_LINE}\n"


@pytest.mark.skipif(bool(namespaces.refusal()), reason=namespaces.refusal())
def test_a_file_that_is_mounted_is_refused_before_anything_is_added(home: Path) -> None:
    """A line could be appended there, as by a container's owner, and never be taken out by a rename."""
    file = _keys(home, f"{USERS_LINE}\n")
    other = home / "other"
    other.write_text(f"{USERS_LINE}\n")
    asking = "import json, sys; from dayfly.infra import ssh_far; print(json.dumps(ssh_far.main(json.loads(sys.argv[1]))))"
    request = {
        "op": "put",
        "tags": {"dayfly-run": _RUN},
        "public_key": "k",
        "valid_s": 60,
        "begun": [time.monotonic(), time.time()],
        "within_s": 600,
    }
    mounted = 'mount --bind "$1" "$2" && exec "$3" -c "$4" "$5"'
    words = [str(other), str(file), sys.executable, asking, json.dumps(request)]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mounted, "sh", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "cannot be replaced as a whole" in json.loads(done.stdout)["error"]
    assert other.read_text() == f"{USERS_LINE}\n"
    assert [path.name for path in file.parent.iterdir()] == ["authorized_keys"]


def test_a_request_that_comes_too_late_adds_nothing(home: Path) -> None:
    """By either clock: somebody has concluded by now that it never will."""
    file = _keys(home, f"{USERS_LINE}\n")
    now, wall = time.monotonic(), time.time()
    for begun in ([now - 7, wall], [now, wall - 7]):
        for there in (True, False):
            if not there:
                file.unlink()
            assert "after it was let in" in _asked(begun=begun)["error"]
            assert file.exists() is there
            _keys(home, f"{USERS_LINE}\n")
    _put()


def test_a_lock_that_is_held_for_ever_is_not_waited_for(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was stopped with it has what is waited for a late key to be let go of, and no more."""
    assert ssh_far._LOCK_S < ssh_records.PUT_WITHIN_S < ssh_records.LATE_CREATE_S
    monkeypatch.setattr(ssh_far, "_LOCK_S", 0.1)
    file = _keys(home, f"{USERS_LINE}\n")
    _put()
    with (home / ".cache/dayfly/authorized_keys.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for request in ({"op": "take", "run": _RUN}, {}):
            assert "has authorized_keys locked" in _asked(**request)["error"]
    _take()
    assert file.read_text() == f"{USERS_LINE}\n"


def test_a_kill_while_a_line_is_put_in_leaves_nothing_that_the_end_does_not_take(
    home: Path,
) -> None:
    """What was written aside has the run's key."""
    file = _keys(home, f"{USERS_LINE}\n")

    def killed() -> None:
        os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        _asked()

    assert _in_a_child(killed) == -signal.SIGKILL
    assert file.read_text() == f"{USERS_LINE}\n"
    _take()
    assert [path.name for path in file.parent.iterdir()] == ["authorized_keys"]


def test_processes_and_folders_of_the_run_go_and_those_of_others_stay(home: Path) -> None:
    """By their mark alone; what a run's process has started with another environment goes with it."""
    _keys(home, USERS_LINE)
    _put()
    _put(_OTHER)
    inner = "import subprocess,sys,time; subprocess.Popen([sys.executable,'-c','import time;time.sleep(99)'],env={}); time.sleep(99)"
    processes = {
        run: subprocess.Popen([sys.executable, "-c", inner], env={**os.environ, "DAYFLY_RUN": run})
        for run in (_RUN, _OTHER)
    }
    below: set[int] = set()
    try:
        until = time.monotonic() + 20
        while not (below := ssh_far._below({processes[_RUN].pid})) and time.monotonic() < until:
            time.sleep(0.02)
        for run in (_RUN, _OTHER):
            (home / f"job-{run}").mkdir()
            (home / f"deadline-{run}.json").touch()
        (home / f"job-{_RUN}-of-mine").mkdir()
        seen = ssh_far.main({"op": "look"})
        assert {tags["dayfly-run"] for tags in seen["keys"]} == {_RUN, _OTHER}
        assert {run for _, run in seen["processes"]} == {_RUN, _OTHER}
        _take()
        assert processes[_RUN].wait(10) == -signal.SIGKILL
        assert processes[_OTHER].poll() is None
        assert not any(Path(f"/proc/{pid}/cmdline").exists() for pid in below if _lives(pid))
        left = sorted(path.name for path in home.iterdir() if not path.name.startswith("."))
        assert left == sorted([f"job-{_OTHER}", f"deadline-{_OTHER}.json", f"job-{_RUN}-of-mine"])
        _take(_OTHER)
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_it_runs_under_the_oldest_python_that_the_agent_takes() -> None:
    """It is sent to whatever Python the machine has: no syntax that 3.8 does not know."""
    import ast

    ast.parse(Path(ssh_far.__file__).read_text(), feature_version=(3, 8))
