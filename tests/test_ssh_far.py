"""What is done to somebody's authorized_keys and processes: the run's own line and nothing else, whatever happens meanwhile."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dayfly.infra import ssh_far
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
    key = f"ssh-ed25519 {run}"
    done = ssh_far.main({"op": "put", "tags": tags, "public_key": key, "valid_s": 60.0})
    assert "error" not in done, done
    return done


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


def test_many_at_once_take_out_their_own_alone(home: Path) -> None:
    """Each puts a key in and takes it out, while somebody else adds lines of their own."""
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
            finally:
                os._exit(code)
        children.append(child)
    for number in range(20):
        with file.open("a") as opened:
            opened.write(f"{USERS_LINE}-{number}\n")
        time.sleep(0.005)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 6
    assert file.read_text().splitlines() == [
        USERS_LINE,
        *(f"{USERS_LINE}-{number}" for number in range(20)),
    ]


def test_a_folder_that_cannot_be_written_to_is_told_before_anything_is_appended(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line could be put in, and never be taken out again."""
    file = _keys(home, USERS_LINE)
    monkeypatch.setattr(os, "access", lambda *_: False)
    done = ssh_far.main(
        {"op": "put", "tags": {"dayfly-run": _RUN}, "public_key": "k", "valid_s": 1}
    )
    assert done == {"error": f"PermissionError: {file.parent} cannot be written to"}
    assert file.read_text() == USERS_LINE


def test_a_full_disk_leaves_no_part_of_a_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be glued to whatever line comes next."""
    file = _keys(home, f"{USERS_LINE}\n")
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    done = ssh_far.main(
        {"op": "put", "tags": {"dayfly-run": _RUN}, "public_key": "k", "valid_s": 1}
    )
    assert "there is no room" in done["error"]
    assert file.read_text() == f"{USERS_LINE}\n"


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
