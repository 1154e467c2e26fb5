"""What is done on a machine that is somebody's own: looked at, given the run's key, and rid of all that a run has put there.

Sent as text through the user's `ssh` and run by the machine's Python (3.8 or newer, its standard library alone). The run's line
in authorized_keys carries the tags, so that it is found when all else is lost; no other line is ever changed.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import platform
import re
import shutil
import signal
import subprocess
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, BinaryIO

_OURS = re.compile(rb"(?:^|[ \t])dayfly-run=([0-9a-f]{32})(?=[ \t]|$)")
_TAG = re.compile(rb"(dayfly-(?:run|owner|deadline|created))=(\S*)")
_ADDED = re.compile(rb"dayfly-added=(\w+)")
_MARK = re.compile(rb"(?:^|[\0 ])DAYFLY_RUN=([0-9a-f]{32})(?=[\0 ]|$)")
# As the agent names what it keeps of a run in the login's home.
_LEFT_BY = re.compile(r"(?:job|data|deadline)-([0-9a-f]{32})(?:\.json.*)?")
_ASIDE = ".dayfly"
# Shorter than what is waited for a key that was on its way.
_LOCK_S = 5.0
_END_S = 10.0
_LATE_S = 0.25
_SMI_S = 20.0


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked for; an error is an answer, too."""
    os.umask(0o077)
    acts = {"probe": probe, "put": put, "look": look, "take": take}
    try:
        return acts[request["op"]](request)
    except Exception as error:  # noqa: BLE001 - whatever it was, who has asked must hear it
        return {"error": f"{type(error).__name__}: {error}"}


# -- what there is


def probe(_request: dict[str, Any]) -> dict[str, Any]:
    """Give the machine's sizes, as far as this account may use them, and its GPUs, as their driver tells of them."""
    home = os.statvfs(_home())
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "cores": len(affinity(0)) if affinity else os.cpu_count() or 1,
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "disk_bytes": home.f_bavail * home.f_frsize,
        "arch": platform.machine(),
        "gpus": _gpus(),
        "host_keys": host_keys(),
    }


def _gpus() -> list[str]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    done = subprocess.run(
        query, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SMI_S, check=False
    )
    return done.stdout.decode(errors="replace").splitlines() if done.returncode == 0 else []


def host_keys() -> list[str]:
    """Give the public host keys that are where OpenSSH keeps them."""
    found = []
    for path in sorted(glob.glob("/etc/ssh/ssh_host_*_key.pub")):
        with contextlib.suppress(OSError, UnicodeDecodeError), open(path) as file:
            found.append(" ".join(file.read().split()[:2]))
    return found


# -- the run's key


def put(request: dict[str, Any]) -> dict[str, Any]:
    """Add the run's line, once; what is there is left as it is, and the line is written as a whole or not at all.

    By the same way as it goes again: where that is barred, nothing is added.
    """
    path = _keys_file()
    with _locked():
        real = os.path.realpath(path)
        _clear_aside(real)
        if any(run == request["tags"]["dayfly-run"] for _, run in _lines(_read(real))):
            return {"host_keys": host_keys()}
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        folder = os.path.dirname(real)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} cannot be written to")
        if os.path.exists(real):
            if os.geteuid() not in (0, os.stat(real).st_uid):
                raise PermissionError(f"{real} belongs to another account, and would not any more")
            _replace(real, lambda text: _with(text, request))
        else:
            _check_age(request)
            try:
                _append(real, _line(request, "file"))
            except OSError:
                with contextlib.suppress(FileNotFoundError):
                    if not os.path.getsize(real):
                        os.unlink(real)
                raise
    return {"host_keys": host_keys()}


def _check_age(request: dict[str, Any]) -> None:
    """Whoever has asked may be dead, and somebody else may have seen by now that nothing came of it."""
    began, within_s = request["begun"], request["within_s"]
    # One clock is set now and then, the other stands still while the machine sleeps.
    if max(time.monotonic() - began[0], time.time() - began[1]) > within_s:
        raise TimeoutError(f"the request came more than {within_s:g} s after it was let in")


def _with(text: bytes, request: dict[str, Any]) -> bytes:
    _check_age(request)
    unended = bool(text) and not text.endswith(b"\n")
    return text + b"\n" * unended + _line(request, "newline" if unended else "")


def _line(request: dict[str, Any], added: str) -> bytes:
    # sshd reads the time as one of its own time zone, and before OpenSSH 9.1 knows no way to say another.
    os.environ.pop("TZ", None)
    time.tzset()
    expires = time.strftime("%Y%m%d%H%M%S", time.localtime(time.time() + request["valid_s"]))
    options = f'restrict,pty,port-forwarding,expiry-time="{expires}"'
    tags = " ".join(f"{name}={value}" for name, value in sorted(request["tags"].items()))
    mark = f" dayfly-added={added}" if added else ""
    return f"{options} {request['public_key']} {tags}{mark}\n".encode()


def _append(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        written = os.write(descriptor, data)
        if written != len(data):
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
            raise OSError(f"there is no room for a line in {path}")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _take_out(path: str, run: str) -> None:
    real = os.path.realpath(path)
    _clear_aside(real)
    _replace(real, lambda text: _without(text, run)[0])


def _replace(real: str, change: Callable[[bytes], bytes | None]) -> None:
    """Put a changed file in the place of the file, and miss nothing that somebody appends meanwhile; None changes nothing, and
    an empty text that was none is no file."""
    while True:
        text = _read(real)
        changed = change(text)
        if changed is None:
            return
        with open(real, "rb") as old:
            status = os.fstat(old.fileno())
            try:
                aside = _written_aside(real, changed, status)
                if old.read() != text or os.stat(real).st_ino != status.st_ino:
                    continue
                if _is_of_file(text) and not changed:
                    os.unlink(real)
                else:
                    _rename(aside, real)
            finally:
                _clear_aside(real)
            late = _late(old)
        if late:
            _append(real, late)
        _sync_folder(os.path.dirname(real))
        return


def _late(old: BinaryIO) -> bytes:
    """Give what is still written to the old file by whoever had it open, until nobody has, or for as long as that is worth waiting for."""
    until, late = time.monotonic() + _LATE_S, b""
    while True:
        late += old.read()
        if _is_nobody_at(old.fileno()) or time.monotonic() > until:
            return late + old.read()
        time.sleep(0.005)


def _is_nobody_at(descriptor: int) -> bool:
    """Tell whether no other process has a file open: only then Linux grants a lease for writing, fcntl(2). False where that is not known."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except (AttributeError, OSError):
        return False
    return True


def _rename(aside: str, real: str) -> None:
    try:
        os.rename(aside, real)
    except OSError as error:
        raise OSError(
            f"{real} cannot be replaced as a whole ({error.strerror}), without which no line can be taken out safely: is it"
            " mounted by itself, or marked as one that only grows?"
        ) from error


def _clear_aside(real: str) -> None:
    # One name, so that what a kill has left of an earlier try is not for ever.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(real + _ASIDE)


def _is_of_file(text: bytes) -> bool:
    """Whether the file was made for a run's line."""
    return any(run and b"dayfly-added=file" in line for line, run in _lines(text))


def _without(text: bytes, run: str) -> tuple[bytes | None, bytes]:
    """Give the text without the run's lines, None where there are none; and what was added with them."""
    lines = _lines(text)
    own = [line for line, whose in lines if whose == run]
    if not own:
        return None, b""
    marks = _ADDED.findall(b"".join(own))
    added = marks[0] if marks else b""
    kept = b"".join(line for line, whose in lines if whose != run)
    if added == b"newline" and lines[-1][1] == run and kept.endswith(b"\n"):
        kept = kept[:-1]
    return kept, added


def _written_aside(real: str, text: bytes, status: os.stat_result) -> str:
    aside = real + _ASIDE
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
        file.flush()
        os.fchmod(descriptor, _given_to(descriptor, status))
        os.fsync(descriptor)
    return aside


def _given_to(descriptor: int, status: os.stat_result) -> int:
    """Give a file the owner and the group of another one, as far as this account may, and say which mode it can have then."""
    mode = status.st_mode & 0o7777
    own = os.fstat(descriptor)
    if (own.st_uid, own.st_gid) == (status.st_uid, status.st_gid):
        return mode
    for owner in (status.st_uid, -1):
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, owner, status.st_gid)
            return mode
    # What one group may do is nothing that another one may.
    return mode & ~0o070


def _lines(text: bytes) -> list[tuple[bytes, str]]:
    """Give each line with its end, and the run that it is of, "" for somebody else's."""
    found = []
    for line in re.findall(rb"[^\n]*\n|[^\n]+", text):
        match = None if line.lstrip().startswith(b"#") else _OURS.search(line.rstrip())
        found.append((line, match[1].decode() if match else ""))
    return found


def _home() -> str:
    return os.path.expanduser("~")


def _keys_file() -> str:
    return os.path.join(_home(), ".ssh", "authorized_keys")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """Of all runs of this account one at a time; the lock goes with the process that holds it."""
    folder = os.path.join(_home(), ".cache", "dayfly")
    os.makedirs(folder, 0o700, exist_ok=True)
    file = os.path.join(folder, "authorized_keys.lock")
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _take_lock(descriptor, time.monotonic() + _LOCK_S)
        yield
    finally:
        os.close(descriptor)


def _take_lock(descriptor: int, until: float) -> None:
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if time.monotonic() > until:
            raise TimeoutError(f"another run has authorized_keys locked for {_LOCK_S:g} s")
        time.sleep(0.02)


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- what a run has left


def look(request: dict[str, Any]) -> dict[str, Any]:
    """Give the tags of each run's key, what runs have in this home, and the processes of those and of the runs asked for."""
    keys = [
        {name.decode(): value.decode(errors="replace") for name, value in _TAG.findall(line)}
        for line, run in _lines(_read(_keys_file()))
        if run
    ]
    folders = [[os.path.basename(path), run] for path, run in _folders()]
    runs = {*request.get("runs", ()), *(tags["dayfly-run"] for tags in keys)}
    runs |= {run for _, run in folders}
    processes = [[str(pid), run] for pid, run in sorted(_carriers().items()) if run in runs]
    return {"keys": keys, "processes": processes, "folders": folders}


def take(request: dict[str, Any]) -> dict[str, Any]:
    """End the run's processes, remove what it has stored, take its key out, and give what is there all the same.

    The key goes last: whoever has to come back, because this was cut short, may come with it.
    """
    run = request["run"]
    _stop_timers(run)
    _end(run)
    _remove_folders(run)
    with _locked():
        _take_out(_keys_file(), run)
    # A connection that was there until now may have begun something.
    left = [f"process {pid}" for pid in _end(run)]
    _remove_folders(run)
    left += [path for path, whose in _folders() if whose == run]
    left += [_keys_file() for _, whose in _lines(_read(_keys_file())) if whose == run]
    return {"left": left}


def _folders() -> list[tuple[str, str]]:
    """Give what runs have in this home, each with its run."""
    named = ((name, _LEFT_BY.fullmatch(name)) for name in os.listdir(_home()))
    return [(os.path.join(_home(), name), match[1]) for name, match in named if match]


def _remove_folders(run: str) -> None:
    for path, whose in _folders():
        if whose == run and os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        elif whose == run:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _end(run: str) -> list[int]:
    """End every process of the run and what they have started, and give those that do not end."""
    until = time.monotonic() + _END_S
    while True:
        own = {pid for pid, whose in _carriers().items() if whose == run} - {os.getpid()}
        if not own or time.monotonic() > until:
            return sorted(own)
        for pid in own | _below(own):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _carriers() -> dict[int, str]:
    """Give the run of each living process that was started with one's mark."""
    if not os.path.isdir("/proc/self"):
        return _carriers_by_ps()
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        # One that has ended, and is not collected yet, has no environment any more.
        with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
            mark = _MARK.search(file.read())
            if mark:
                found[int(name)] = mark[1].decode()
    return found


def _carriers_by_ps() -> dict[int, str]:
    """Where there is no /proc, as on macOS."""
    found = {}
    for line in _ps("-axEww", "pid=,command="):
        mark = _MARK.search(line)
        if mark:
            found[int(line.split()[0])] = mark[1].decode()
    return found


def _below(roots: set[int]) -> set[int]:
    """Give every process below these."""
    parents = _parents()
    found = set(roots)
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return found - roots - {os.getpid()}
        found |= more


def _parents() -> dict[int, int]:
    if not os.path.isdir("/proc/self"):
        pairs = (line.split() for line in _ps("-ax", "pid=,ppid="))
        return {int(pid): int(parent) for pid, parent in pairs}
    table = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            # The command's name may have brackets and spaces in it.
            table[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
    return table


def _ps(which: str, columns: str) -> list[bytes]:
    done = subprocess.run(
        ["/bin/ps", which, "-o", columns], capture_output=True, timeout=10, check=True
    )
    return done.stdout.splitlines()


def _stop_timers(run: str) -> None:
    """The agent may have had systemd watch the deadline; a timer that cannot be stopped finds nothing to do, and ends."""
    if not shutil.which("systemctl"):
        return
    pattern = f"dayfly-deadline-{run}-*"
    listing = ["systemctl", "list-units", "--all", "--plain", "--no-legend", pattern]
    stopping = ["systemctl", "stop", pattern]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        if subprocess.run(listing, capture_output=True, timeout=10, check=False).stdout.strip():
            sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
            subprocess.run([*sudo, *stopping], capture_output=True, timeout=10, check=False)
