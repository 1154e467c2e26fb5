"""Processes: how they are started, found by their run, and ended."""

from __future__ import annotations

import _thread
import os
import sys
import time

from .files import boot_clock_s, write_all
from .json_text import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any


def launch_command(python: str, flags: Iterable[str], *arguments: str) -> list[str]:
    """Give the command that runs this package in a mode, imported.

    Imported, it is compiled once and cached, and the job's __main__ stays empty for the user's own names.
    """
    folder, name = os.path.split(os.path.dirname(os.path.abspath(__file__)))
    code = f"import sys;sys.path.insert(0,{folder!r});__import__({name!r}).main()"
    return [python, *flags, "-c", code, *arguments]


def spawn(
    argv: list[str],
    environment: Mapping[str, str],
    folder: str,
    streams: tuple[int, int, int],
    *,
    keep: Iterable[int] = (),
    deaf_to: Iterable[int] = (),
) -> int:
    """Start a process in a session of its own and give its id.

    Args:
        argv, environment, folder: as of the program.
        streams: what it has as standard input, output and error.
        keep: descriptors that it keeps.
        deaf_to: signals that it ignores from its first moment on.
    """
    import signal

    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        # Python ignores SIGPIPE, and what is ignored stays so across exec.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        for number in deaf_to:
            signal.signal(number, signal.SIG_IGN)
        for target, source in enumerate(streams):
            os.dup2(source, target)
        for descriptor in keep:
            os.set_inheritable(descriptor, True)
        os.chdir(folder)
        os.execve(argv[0], argv, dict(environment))  # noqa: S606 - the agent names the program, no shell is wanted
    except BaseException as error:  # noqa: BLE001 - the copy of the parent must never go on as the parent
        os.write(2, f"cannot start {argv[0]}: {error}\n".encode())
    finally:
        os._exit(127)


def spawn_with_order(
    argv: list[str],
    environment: Mapping[str, str],
    folder: str,
    outputs: tuple[int, int],
    *,
    order: Mapping[str, Any],
    keep: Iterable[int] = (),
    deaf_to: Iterable[int] = (),
) -> int:
    """Start a process whose orders (keys and secrets among them) come on its stdin; `keep` and `deaf_to` as of `spawn`."""
    reading, writing = os.pipe()
    try:
        child = spawn(argv, environment, folder, (reading, *outputs), keep=keep, deaf_to=deaf_to)
    finally:
        os.close(reading)
    try:
        write_all(writing, dumps(order).encode())
    except BrokenPipeError:
        pass  # It ended at once; whoever waits for it sees why.
    finally:
        os.close(writing)
    return child


def take_order() -> Any:
    """Read the orders from stdin, which is /dev/null from then on."""
    parts = list(iter(lambda: os.read(0, 1 << 16), b""))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return loads(b"".join(parts))


def process_table() -> dict[int, tuple[int, int]]:
    """Give parent and session (on macOS the group) of every process that is not a zombie."""
    if not os.path.isdir("/proc/self"):
        return _process_table_by_ps()
    table = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # The command may hold spaces and brackets, so fields are counted from its last bracket.
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if fields and fields[0] not in (b"Z", b"X"):
            table[int(name)] = (int(fields[1]), int(fields[3]))
    return table


def _process_table_by_ps() -> dict[int, tuple[int, int]]:
    from subprocess import run as run_process

    listing = run_process(
        ["/bin/ps", "-axo", "pid=,ppid=,pgid=,state="], capture_output=True, check=False, timeout=10
    )
    rows = (line.split() for line in listing.stdout.splitlines())
    return {int(row[0]): (int(row[1]), int(row[2])) for row in rows if not row[3].startswith(b"Z")}


def carriers(mark: str) -> set[int]:
    """Give the processes that were started with `mark` ("NAME=value") in their environment."""
    if not os.path.isdir("/proc/self"):
        return _carriers_by_ps(mark)
    found = set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if mark.encode() in file.read().split(b"\0"):
                    found.add(int(name))
        except OSError:
            continue
    return found


def _carriers_by_ps(mark: str) -> set[int]:
    from subprocess import run as run_process

    listing = run_process(
        ["/bin/ps", "-axEww", "-o", "pid=,command="], capture_output=True, check=False, timeout=10
    )
    return _carriers_in(listing.stdout.decode(errors="replace"), mark)


def _carriers_in(listing: str, mark: str) -> set[int]:
    """Give the processes of `ps -E` whose line has the mark, which may hold spaces, between ends of words."""
    return {int(line.split()[0]) for line in listing.splitlines() if f" {mark} " in f"{line} "}


def descendants(roots: set[int], table: Mapping[int, tuple[int, int]]) -> set[int]:
    found = set(roots)
    while True:
        more = {pid for pid, (parent, _) in table.items() if parent in found} - found
        if not more:
            return found - roots
        found |= more


def send_signal(processes: Iterable[int], number: int) -> None:
    for process in processes:
        try:
            os.kill(process, number)
        except (ProcessLookupError, PermissionError):
            continue


def end_processes(find: Callable[[], set[int]], grace_s: float) -> set[int]:
    """End all that `find` gives, again and again: SIGTERM, the grace, SIGKILL; gives what does not end even so."""
    import signal

    over, asked = boot_clock_s() + grace_s, set()  # type: float, set[int]
    while True:
        left = find()
        if not left or boot_clock_s() >= over + 5 * grace_s:
            return left
        if boot_clock_s() < over:
            send_signal(left - asked, signal.SIGTERM)
        else:
            send_signal(left, signal.SIGKILL)
        asked |= left
        time.sleep(0.02)


def login_environment(run_id: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SSH_")}
    return {**kept, "DAYFLY_RUN": run_id}


def oom_kills() -> int:
    """How often the kernel has ended a process for want of memory, as far as this process can see."""
    total = 0
    for path in ("/proc/vmstat", _cgroup_file("memory.events")):
        try:
            with open(path, encoding="ascii") as file:
                rows = [line.split() for line in file]
        except OSError:
            continue
        total += sum(int(row[1]) for row in rows if row[0] in ("oom_kill", "oom_group_kill"))
    return total


def _cgroup_file(name: str) -> str:
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            groups = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return ""
    path = next((group[2] for group in groups if group[0] == "0"), "/")
    return os.path.join("/sys/fs/cgroup", path.lstrip("/"), name)


def adopt_orphans() -> None:
    """Become the parent of what the job double-forks, so that it can be found even with an empty environment."""
    if sys.platform != "linux":
        return
    try:
        import ctypes

        set_child_subreaper = 36
        ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        return  # What carries the job's mark is found all the same.


def end_process(code: int) -> None:
    """Run what was registered for exit, within a bound, and end whatever threads are left."""
    import atexit

    # Without waiting for it to begin, as `threading` does, which takes as long as all else of a forked child's end.
    _thread.start_new_thread(_end_later, (code,))
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _end_later(code: int) -> None:
    never = _thread.allocate_lock()
    never.acquire()
    never.acquire(True, 30)
    os._exit(code)


def volunteer_for_oom(score: int = 500) -> None:
    """When memory runs out the kernel should take the job, not its supervisor or the SSH server."""
    try:
        with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
            file.write(b"%d" % score)
    except OSError:
        return
