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
    from collections.abc import Iterator
    from typing import Any

_OURS = re.compile(rb"(?:^|[ \t])dayfly-run=([0-9a-f]{32})(?=[ \t]|$)")
_TAG = re.compile(rb"(dayfly-(?:run|owner|deadline|created))=(\S*)")
_ADDED = re.compile(rb"dayfly-added=(\w+)")
_MARK = re.compile(rb"(?:^|[\0 ])DAYFLY_RUN=([0-9a-f]{32})(?=[\0 ]|$)")
# As the agent names what it keeps of a run in the login's home.
_LEFT_BY = re.compile(r"(?:job|data|deadline)-([0-9a-f]{32})(?:\.json.*)?")
_END_S = 10.0
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
    """Append the run's line, once; what is there is left as it is, and the line is written as a whole or not at all."""
    path = _keys_file()
    with _locked():
        text = _read(path)
        if not any(run == request["tags"]["dayfly-run"] for _, run in _lines(text)):
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            folder = os.path.dirname(os.path.realpath(path))
            if not os.access(folder, os.W_OK):
                # The line could be appended, and never be taken out again.
                raise PermissionError(f"{folder} cannot be written to")
            unended = bool(text) and not text.endswith(b"\n")
            added = "newline" if unended else "" if os.path.exists(path) else "file"
            line = f"{_line(request)}{' dayfly-added=' * bool(added)}{added}\n".encode()
            _append(path, b"\n" * unended + line)
    return {"host_keys": host_keys()}


def _line(request: dict[str, Any]) -> str:
    # sshd reads the time as one of its own time zone, and before OpenSSH 9.1 knows no way to say another.
    os.environ.pop("TZ", None)
    time.tzset()
    expires = time.strftime("%Y%m%d%H%M%S", time.localtime(time.time() + request["valid_s"]))
    options = f'restrict,pty,port-forwarding,expiry-time="{expires}"'
    tags = " ".join(f"{name}={value}" for name, value in sorted(request["tags"].items()))
    return f"{options} {request['public_key']} {tags}"


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
    """Put a file without the run's lines in the place of the file, and miss nothing that somebody appends meanwhile."""
    real = os.path.realpath(path)
    while True:
        text = _read(real)
        kept, added = _without(text, run)
        if kept is None:
            return
        with open(real, "rb") as old:
            status = os.fstat(old.fileno())
            aside = _written_aside(real, kept, status)
            if old.read() != text or os.stat(real).st_ino != status.st_ino:
                os.unlink(aside)
                continue
            if not kept and added == b"file":
                os.unlink(aside)
                os.unlink(real)
            else:
                os.rename(aside, real)
            # Whoever had the old file open has gone on writing to it.
            late = old.read()
        if late:
            _append(real, late)
        _sync_folder(os.path.dirname(real))
        return


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
    # One name, so that what a kill has left of an earlier try is not for ever.
    aside = real + ".dayfly"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(aside)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
        file.flush()
        if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(descriptor, status.st_uid, status.st_gid)
        os.fchmod(descriptor, status.st_mode & 0o7777)
        os.fsync(descriptor)
    return aside


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
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


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
