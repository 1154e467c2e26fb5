"""The one file of Dayfly that runs on the machine: it answers a session, and starts, guards and runs the job.

Standard library only, Python 3.8 and newer, and it never imports dayfly; the client imports it for `seal` and `unseal`.

    serve                frames on stdin and stdout of one channel; ends when the channel closes
    supervise JOBDIR     detached: starts the job, enforces max_runtime, records how it ended
    run JOBDIR           under the environment's Python: calls the function, leaves the sealed result; of a warm run
                         it is the zygote, which has each call made in a forked child
    relay SOCKET         a lane for large content, where the SSH server does not lead to the socket itself
    deadline RUN         detached, or by a timer of systemd: ends every process of the run at a time that can be moved
    gpu all              loads the driver's library, and uses each GPU a little; what it does it says first
    host_key STEP        as root: one step of replacing the host key of this machine's SSH server

Keys and secrets reach each of them through a pipe on stdin, never through argv, a file or the supervisor's environment.
"""
# pathlib takes longer to import than the agent takes to answer its first frame, so paths are strings here;
# imports inside functions have the same reason: three of these processes start before the function does.
# ruff: noqa: PTH100, PTH101, PTH102, PTH103, PTH104, PTH106, PTH108, PTH110, PTH111, PTH112, PTH113, PTH114, PTH115
# ruff: noqa: PTH109, PTH116, PTH117, PTH118, PTH119, PTH120, PTH122, PTH123, PTH208, PTH211

from __future__ import annotations

import _thread
import json
import os
import struct
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from subprocess import Popen
    from threading import Thread
    from types import FrameType, TracebackType
    from typing import Any

TASK_SEQ = 0
RESULT_SEQ = 1

_MAGIC = b"DFLY"
_VERSION = 1
_HEAD = struct.Struct(
    ">4sB16sQQ32s"
)  # magic, version, run id, sequence, payload length, SHA-256 of the payload
HEADER_BYTES = _HEAD.size + 32
FRAME_BYTES_MAX = 16 << 20
CHUNK_BYTES = 256 << 10
CREDIT_BYTES = 8 << 20
OPENING_BYTES = 64
# Content by digest is shared by runs and linked into their folders.
BLOB_MODE, BLOB_TIME, BLOB_UNUSED_S = 0o400, 946684800, 7 * 86400.0
TEXT_CHARACTERS = 2000
# An attached client needs this long to read the end and to fetch the result.
HOLD_S_LEAST = 60.0


# ---------------------------------------------------------------------------------------------- frames


class FrameError(ValueError):
    """Bytes that are not an authentic frame of this run in this place; nothing of them may be used."""


def _sha256(data: bytes = b"") -> Any:
    from hashlib import sha256

    return sha256(data)


def _digest(data: bytes) -> str:
    return str(_sha256(data).hexdigest())


def _header(key: bytes, run_id: str, seq: int, length: int, digest: bytes) -> bytes:
    import hmac

    head = _HEAD.pack(_MAGIC, _VERSION, bytes.fromhex(run_id), seq, length, digest)
    return head + hmac.digest(key, head, "sha256")


def seal(key: bytes, run_id: str, seq: int, payload: bytes) -> bytes:
    """Make the frame that only a holder of `key` can make, for this run and this place in the sequence."""
    digest = _sha256()
    digest.update(payload)
    return _header(key, run_id, seq, len(payload), digest.digest()) + payload


def open_header(key: bytes, run_id: str, seq: int, header: bytes) -> tuple[int, bytes]:
    """Check a header.

    Returns:
        The length and the SHA-256 that its payload must have.

    Raises:
        FrameError: it is truncated, of another run or place, or not made with `key`.
    """
    import hmac

    if len(header) != HEADER_BYTES:
        raise FrameError(f"truncated: a header has {HEADER_BYTES} bytes, these are {len(header)}")
    head, code = header[: _HEAD.size], header[_HEAD.size :]
    if not hmac.compare_digest(hmac.digest(key, head, "sha256"), code):
        raise FrameError("the authentication code does not fit this run's key")
    magic, version, run, number, length, digest = _HEAD.unpack(head)
    if (magic, version, run.hex(), number) != (_MAGIC, _VERSION, run_id, seq):
        raise FrameError(
            f"a frame of run {run.hex()} number {number}, expected {run_id} number {seq}"
        )
    return length, digest


def unseal(key: bytes, run_id: str, seq: int, sealed: bytes) -> bytes:
    """Give back the payload of a frame.

    Raises:
        FrameError: another magic, run or place, truncated or trailing bytes, or a wrong digest or code.
    """
    length, expected = open_header(key, run_id, seq, bytes(sealed[:HEADER_BYTES]))
    payload = sealed[HEADER_BYTES:]
    digest = _sha256()
    digest.update(payload)
    check_payload(len(payload), digest.digest(), length, expected)
    return payload


def check_payload(length: int, digest: bytes, expected_length: int, expected: bytes) -> None:
    """Compare what came with what the header says.

    Raises:
        FrameError: it is another.
    """
    if length != expected_length:
        raise FrameError(f"{length} bytes of payload, the header says {expected_length}")
    if digest != expected:
        raise FrameError("the payload's SHA-256 is not the header's")


def open_sealed(key: bytes, run_id: str, seq: int, path: str) -> Any:
    """Open a sealed file and hold all of it to the rules of `unseal`, without having it in memory.

    Returns:
        The open file, at the beginning of its payload: what is read from it is what was checked.

    Raises:
        FrameError: as `unseal`.
    """
    file = open(path, "rb")  # noqa: SIM115 - whoever asked for it closes it
    try:
        digest, length = _sha256(), 0
        expected_length, expected = open_header(key, run_id, seq, file.read(HEADER_BYTES))
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
            length += len(chunk)
        check_payload(length, digest.digest(), expected_length, expected)
        file.seek(HEADER_BYTES)
    except BaseException:
        file.close()
        raise
    return file


def check_sealed_file(key: bytes, run_id: str, seq: int, path: str) -> None:
    """Apply the rules of `unseal` to a file.

    Raises:
        FrameError: as `unseal`.
    """
    open_sealed(key, run_id, seq, path).close()


class SealedWriter:
    """A file that becomes one frame: the header goes in front when all is written, the name appears last."""

    def __init__(self, path: str, key: bytes, run_id: str, seq: int) -> None:
        self._path, self._key, self._run_id, self._seq = path, key, run_id, seq
        self._digest, self._length = _sha256(), 0
        descriptor = os.open(path + ".tmp", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        self._file = os.fdopen(descriptor, "wb")
        self._file.write(bytes(HEADER_BYTES))

    def write(self, data: Any) -> int:
        # A pickler hands large buffers over as they are; one of several dimensions has another length than its bytes.
        view = data.raw() if hasattr(data, "raw") else memoryview(data).cast("B")
        self._digest.update(view)
        self._length += len(view)
        return self._file.write(view)

    def commit(self) -> None:
        digest = self._digest.digest()
        self._file.seek(0)
        self._file.write(_header(self._key, self._run_id, self._seq, self._length, digest))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.rename(self._path + ".tmp", self._path)
        _sync_folder(os.path.dirname(self._path))

    def discard(self) -> None:
        self._file.close()


def encode(head: Mapping[str, Any], body: bytes | memoryview = b"") -> bytes:
    """Put a message's JSON head and its bytes into one payload."""
    text = json.dumps(head).encode()
    return b"".join((struct.pack(">I", len(text)), text, body))


def decode(payload: bytes) -> tuple[dict[str, Any], bytes]:
    """Take apart what `encode` made."""
    (length,) = struct.unpack_from(">I", payload)
    return json.loads(payload[4 : 4 + length]), payload[4 + length :]


def channel_keys(key: bytes, nonce: bytes) -> tuple[bytes, bytes]:
    """Keys of one channel, to the machine and to the client: a frame of another channel or direction fits neither."""
    import hmac

    return (
        hmac.digest(key, b"to machine" + nonce, "sha256"),
        hmac.digest(key, b"to client" + nonce, "sha256"),
    )


# ---------------------------------------------------------------------------------------------- files


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_at(descriptor: int, offset: int, data: bytes | memoryview) -> None:
    """Write all of `data` at a place in a file."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _read_exactly(descriptor: int, size: int) -> bytes:
    """Read `size` bytes; fewer only where the stream ends."""
    parts: list[bytes] = []
    while size:
        part = os.read(descriptor, min(size, 1 << 20))
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class Arrival:
    """Which bytes of a content have arrived, piece by piece, and how many of them without a gap from its start.

    Attributes:
        size: of the content.
        have: so many bytes from its start are there.
        failure: what ended it early.
        changed: notified with each change; holds the lock of all of it.
    """

    def __init__(self, size: int, ranges: Iterable[tuple[int, int]] = ()) -> None:
        """Some of it may be there already, as (start, end)."""
        import threading

        self.size, self.have, self._at = size, 0, 0
        self.failure: Exception | None = None
        self.changed = threading.Condition()
        # By where a piece starts: up to where it has arrived, and where it ends.
        self._pieces = {start: (end, end) for start, end in ranges if start < end <= size}
        self._advance()

    def _advance(self) -> None:
        while self._at in self._pieces:
            self.have, whole = self._pieces[self._at]
            if self.have < whole:
                break
            del self._pieces[self._at]
            self._at = whole

    def note(self, start: int, end: int, whole: int) -> None:
        """Of the piece that goes from `start` to `whole` all up to `end` has arrived."""
        with self.changed:
            self._pieces[start] = (end, whole)
            self._advance()
            self.changed.notify_all()

    def ranges(self) -> list[tuple[int, int]]:
        """Give what is there, as (start, end), in order and never two where there could be one."""
        with self.changed:
            later = sorted((start, end) for start, (end, _) in self._pieces.items())
            merged = [(0, self.have)]
        for start, end in later:
            if start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((start, end))
        return merged

    def gaps(self) -> list[tuple[int, int]]:
        """Give what is not there, as (start, end), in order."""
        ranges = self.ranges()
        ends = [start for start, _ in ranges[1:]] + [self.size]
        gaps = [(start, ends[number]) for number, (_, start) in enumerate(ranges)]
        return [(start, end) for start, end in gaps if start < end]

    def fail(self, error: Exception) -> None:
        """Have everyone who waits for more raise `error`."""
        with self.changed:
            self.failure = self.failure or error
            self.changed.notify_all()

    def await_more(self, known: int, or_else: Callable[[], bool] = bool) -> int:
        """Wait until more than `known` bytes are there, or something else has changed; gives how many are.

        Raises:
            Exception: what it failed with.
        """
        with self.changed:
            while self.have <= known and self.failure is None and not or_else():
                self.changed.wait()
            if self.failure is not None:
                raise self.failure
            return self.have


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_file(path: str, data: bytes) -> None:
    """Write aside, sync, rename: a reader sees all of it or nothing."""
    aside = f"{path}.{os.getpid()}-{_thread.get_ident()}.tmp"
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        if os.geteuid() == 0:
            # What root leaves in a user's folder, that user must be able to read.
            owner = os.stat(os.path.dirname(path))
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        _write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(aside, path)


def _read_json(path: str) -> Any:
    """Give the file's value, or None where there is no such file."""
    try:
        with open(path, "rb") as file:
            return json.loads(file.read())
    except FileNotFoundError:
        return None


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _finish_blob(part: str, blob: str) -> None:
    """Give content its name. Whoever changes it in place later, as only root can, changes its time, too."""
    os.chmod(part, BLOB_MODE)
    os.utime(part, (BLOB_TIME, BLOB_TIME))
    os.rename(part, blob)


def _place(blob: str, data: bytes) -> None:
    """Write aside, then name it: content can be brought again, so that it need not reach the disk at once."""
    aside = f"{blob}.{os.getpid()}-{_thread.get_ident()}.tmp"
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        _write_all(descriptor, data)
    finally:
        os.close(descriptor)
    _finish_blob(aside, blob)


def _is_whole(blob: str, size: int) -> bool:
    """Tell whether content is here as it was put; what was changed since is thrown away."""
    try:
        found = os.stat(blob)
    except FileNotFoundError:
        return False
    if (found.st_size, int(found.st_mtime)) == (size, BLOB_TIME):
        # The same time again: what has been asked for now is not unused.
        os.utime(blob, (BLOB_TIME, BLOB_TIME))
        return True
    os.unlink(blob)
    return False


def prune(folder: str, before: float) -> None:
    """Throw away content that no run has a link to, and that none has asked for since this time."""
    for entry in os.scandir(folder):
        try:
            found = entry.stat(follow_symlinks=False)
            if found.st_nlink == 1 and found.st_ctime < before:
                os.unlink(entry.path)
        except OSError:
            continue  # Another run's, or gone already.


def _home() -> str:
    return os.path.expanduser("~")


def _clock() -> float:
    """Seconds that go on counting while the machine sleeps, where the platform has such a clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _lock(path: str, shared: bool = False, wait: bool = False) -> int | None:
    """Lock a file and give its descriptor, or None where another holds it and `wait` is not set."""
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


# ---------------------------------------------------------------------------------------------- processes


def _launch(python: str, flags: Iterable[str], *arguments: str) -> list[str]:
    """Give the command that runs this file in `mode` as an imported module.

    Imported, it is compiled once and cached, and the job's __main__ stays empty for the user's own names.
    """
    folder, name = os.path.split(os.path.abspath(__file__))
    code = (
        f"import sys;sys.path.insert(0,{folder!r});__import__({os.path.splitext(name)[0]!r}).main()"
    )
    return [python, *flags, "-c", code, *arguments]


def _spawn(
    argv: list[str],
    environment: Mapping[str, str],
    folder: str,
    streams: tuple[int, int, int],
    keep: Iterable[int] = (),
) -> int:
    """Start a process in a session of its own and give its id."""
    import signal

    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        # Python ignores SIGPIPE, and what is ignored stays so across exec.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
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


def _spawn_with_order(
    argv: list[str],
    environment: Mapping[str, str],
    folder: str,
    outputs: tuple[int, int],
    *,
    order: Mapping[str, Any],
    keep: Iterable[int] = (),
) -> int:
    """Start a process whose orders (keys and secrets among them) come on its stdin."""
    reading, writing = os.pipe()
    try:
        child = _spawn(argv, environment, folder, (reading, *outputs), keep)
    finally:
        os.close(reading)
    try:
        _write_all(writing, json.dumps(order).encode())
    except BrokenPipeError:
        pass  # It ended at once; whoever waits for it sees why.
    finally:
        os.close(writing)
    return child


def _take_order() -> Any:
    """Read the orders from stdin, which is /dev/null from then on."""
    parts = list(iter(lambda: os.read(0, 1 << 16), b""))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return json.loads(b"".join(parts))


def _process_table() -> dict[int, tuple[int, int]]:
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


def _carriers(mark: str) -> set[int]:
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


def _descendants(roots: set[int], table: Mapping[int, tuple[int, int]]) -> set[int]:
    found = set(roots)
    while True:
        more = {pid for pid, (parent, _) in table.items() if parent in found} - found
        if not more:
            return found - roots
        found |= more


def _send_signal(processes: Iterable[int], number: int) -> None:
    for process in processes:
        try:
            os.kill(process, number)
        except (ProcessLookupError, PermissionError):
            continue


# ---------------------------------------------------------------------------------------------- the job's folder


class JobFolder:
    """The folder of one job, which is all that is known of it; every process of the agent reads the same files."""

    def __init__(self, path: str) -> None:
        self.path = path

    @classmethod
    def of(cls, run_id: str) -> JobFolder:
        return cls(os.path.join(_home(), f"job-{run_id}"))

    def file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def exists(self) -> bool:
        return os.path.isdir(self.path)

    def supervised(self) -> bool:
        """Tell whether the supervisor lives: it holds the lock for all its life."""
        held = _lock(self.file("lock"), shared=True)
        if held is None:
            return True
        os.close(held)
        return False

    def end(self) -> dict[str, Any] | None:
        """Tell how the job ended, or None while it has not."""
        return _read_json(self.file("end.json"))  # type: ignore[no-any-return]

    def end_without_supervisor(self) -> dict[str, Any] | None:
        """Tell how a job ended whose supervisor is gone and recorded nothing; None while its process lives."""
        if not self.exists():
            # Deleted by the function itself, while somebody follows it or asks for its end.
            return None if _carriers(self.mark()) else _end_record("vanished")
        started = _read_json(self.file("started.json"))
        process = _read_json(self.file("process.json"))
        if started is None or self.supervised():
            return self.end()
        if process is not None and process["pid"] in _carriers(self.mark()):
            return None
        end = self.end()
        if end is not None:
            return end
        finished = os.path.exists(self.file("result.sealed"))
        return _end_record(
            "finished" if finished else "killed",
            signal=0 if finished else 9,
            started=started["time"],
        )

    def mark(self) -> str:
        return "DAYFLY_OUTPUT_DIR=" + self.file("outputs")

    def status(self) -> dict[str, Any]:
        end = self.end() or self.end_without_supervisor() if self.exists() else None
        started = os.path.exists(self.file("started.json")) or (self.exists() and self.supervised())
        return {
            "state": "ended" if end else "running" if started else "absent",
            "end": end,
            "has_result": os.path.exists(self.file("result.sealed")),
            "acknowledged": os.path.exists(self.file("acknowledged")),
            "stdout_size": _size(self.file("stdout.log")),
            "stderr_size": _size(self.file("stderr.log")),
        }

    def claim(self, place_task: Callable[[str], None]) -> int | None:
        """Make the folder, at most once for a run.

        Args:
            place_task: puts the sealed task at the path that it is given.

        Returns:
            The descriptor of the held lock, for the supervisor to inherit; None where the job was claimed before.
        """
        if not self.exists():
            aside = JobFolder(f"{self.path}.{os.getpid()}.{time.time_ns()}")
            os.mkdir(aside.path, 0o700)
            aside._furnish(place_task)
            lock = _lock(aside.file("lock"))
            try:
                # Renaming onto a folder that is not empty fails: whoever comes second has not claimed it.
                os.rename(aside.path, self.path)
                return lock
            except OSError:
                if lock is not None:
                    os.close(lock)
                _remove_tree(aside.path)
        return self._claim_unstarted()

    def _furnish(self, place_task: Callable[[str], None]) -> None:
        for folder in ("work", "outputs", "checkpoints"):
            os.mkdir(self.file(folder), 0o700)
        for log in ("stdout.log", "stderr.log", "supervisor.log"):
            os.close(os.open(self.file(log), os.O_WRONLY | os.O_CREAT, 0o600))
        place_task(self.file("task.sealed"))

    def _claim_unstarted(self) -> int | None:
        """Take over a job whose agent died between claiming it and starting its supervisor."""
        for _ in range(50):
            lock = _lock(self.file("lock"))
            if os.path.exists(self.file("started.json")):
                if lock is not None:
                    os.close(lock)
                return None
            if lock is not None:
                return lock
            time.sleep(
                0.01
            )  # Held by a supervisor that is starting, or for an instant by somebody who looked.
        return None


def _remove_tree(path: str) -> None:
    from shutil import rmtree

    rmtree(path, ignore_errors=True)


def _end_record(
    how: str,
    *,
    code: int = 0,
    signal: int = 0,
    out_of_memory: bool = False,
    started: float = 0.0,
    peak_rss_bytes: int = 0,
    detail: str = "",
) -> dict[str, Any]:
    return {
        "how": how,
        "code": code,
        "signal": signal,
        "out_of_memory": out_of_memory,
        "started": started,
        "ended": time.time(),
        "peak_rss_bytes": peak_rss_bytes,
        "detail": detail,
    }


# ---------------------------------------------------------------------------------------------- serve


class Refusal(Exception):
    """An answer of "no" to the client: `kind` is for its program, the text for its user."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Credit:
    """How many bytes a stream may send before the client says that it has taken some: no slow reader fills memory."""

    def __init__(self) -> None:
        import threading

        self._left = CREDIT_BYTES
        self._changed = threading.Condition()

    def take(self, size: int) -> None:
        with self._changed:
            while self._left <= 0:
                self._changed.wait()
            self._left -= size

    def give(self, size: int) -> None:
        with self._changed:
            self._left += size
            self._changed.notify_all()


class Server:
    """One channel's agent: answers each request, the slow ones in a thread of their own."""

    # What sends more than the client may be able to take in.
    CREDITED = frozenset({"attach", "get", "outputs", "files"})
    THREADED = CREDITED | {
        "look",
        "receive",
        "environment",
        "system_packages",
        "stop",
        "facts",
        "gpus",
        "host_key",
        "deadline",
        "data_tree",
        "warm",
    }

    def __init__(self, run_id: str, key: bytes, nonce: bytes, cache: str) -> None:
        import threading

        self.run_id, self.key, self.cache = run_id, key, cache
        self.job = JobFolder.of(run_id)
        self._receive_key, self._send_key = channel_keys(key, nonce)
        self._received = self._sent = 0
        self._sending = threading.Lock()
        self._credits: dict[int, Credit] = {}
        self.builds: set[Popen[str]] = set()
        self._zygotes: dict[int, Any] = {}
        self._moving = threading.Lock()
        self.lanes = Lanes(self, nonce)
        self.transfers: dict[int, Transfer] = {}

    def serve(self) -> None:
        """Answer until the channel closes."""
        self.send({"id": 0, "pid": os.getpid(), "python": "%d.%d" % sys.version_info[:2]})  # noqa: UP031
        while True:
            header = _read_exactly(0, HEADER_BYTES)
            if not header:
                return
            length, _ = open_header(self._receive_key, self.run_id, self._received, header)
            if length > FRAME_BYTES_MAX:
                raise FrameError(f"a frame of {length} bytes")
            frame = header + _read_exactly(0, length)
            payload = unseal(self._receive_key, self.run_id, self._received, frame)
            self._received += 1
            self._dispatch(*decode(payload))

    def send(self, head: Mapping[str, Any], body: bytes = b"") -> None:
        payload = encode(head, body)
        with self._sending:
            frame = seal(self._send_key, self.run_id, self._sent, payload)
            self._sent += 1
            _write_all(1, frame)

    def _dispatch(self, request: dict[str, Any], body: bytes) -> None:
        if request["op"] == "credit":
            credit = self._credits.get(request["of"])
            if credit is not None:
                credit.give(request["bytes"])
        elif request["op"] in self.THREADED:
            import threading

            if request["op"] in self.CREDITED:
                self._credits[request["id"]] = Credit()
            threading.Thread(target=self._answer, args=(request, body), daemon=True).start()
        else:
            self._answer(request, body)

    def _answer(self, request: dict[str, Any], body: bytes) -> None:
        try:
            answer = getattr(self, "on_" + request["op"])(request, body)
        except Refusal as refusal:
            answer = {"error": refusal.kind, "message": str(refusal)}
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the client must hear of it
            answer = {"error": "machine", "message": f"{type(error).__name__}: {error}"}
        finally:
            self._credits.pop(request["id"], None)
        if answer is not None:
            try:
                self.send({"id": request["id"], "done": True, **answer})
            except OSError:
                return  # The channel closed; the main thread is ending the process.

    def _emit(self, request: Mapping[str, Any], head: Mapping[str, Any], body: bytes = b"") -> None:
        self.send({"id": request["id"], **head}, body)

    # -- small answers

    def on_ping(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        return {}

    def on_facts(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        return machine_facts(self.cache)

    def on_gpus(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        return gpu_findings(request["seconds"])

    def on_host_key(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Make the key that is to replace the pinned one, or, where the client has written it down, install it."""
        step = json.dumps({name: request[name] for name in ("pinned", "offered")})
        command = _as_root(_launch(sys.executable, ("-I", "-S", "-B"), "host_key", step))
        done = _Asked(command).wait(request["seconds"])
        if done.code != 0:
            words = done.complaint[-TEXT_CHARACTERS:] or "no answer in time"
            raise Refusal("host_key", f"the host key cannot be replaced: {words}")
        return {"host_key": done.words}

    def on_stat(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        return self.job.status()

    def on_ack(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        if self.job.exists():
            _write_file(self.job.file("acknowledged"), b"")
        return {}

    def on_deadline(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        how = {name: request[name] for name in ("timer", "power_off")}
        return {"by": arm_deadline(self.run_id, request["seconds"], **how)}

    def on_interpreter(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        return {"python": interpreters(self.cache).get(request["minor"], "")}

    # -- content by digest

    def _blob(self, digest: str) -> str:
        folder = os.path.join(self.cache, "blobs")
        os.makedirs(folder, 0o700, exist_ok=True)
        return os.path.join(folder, os.path.basename(digest))

    def on_put(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Take content by digest that is small enough for one frame."""
        if _digest(body) != request["digest"]:
            raise Refusal("digest", "what arrived is not what was sent")
        blob = self._blob(request["digest"])
        if not _is_whole(blob, len(body)):
            _place(blob, body)
        return {}

    def on_receive(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Take content that comes in pieces, by frames or over lanes; tells how much is there, and ends when all is.

        Its digest may be told later, so that nobody has to wait for it with sending.
        """
        size = request["size"]
        if request["digest"] and _is_whole(self._blob(request["digest"]), size):
            return {"have": size}
        part = f"{self._blob(request['name'])}.{self.run_id}.part"
        transfer = self.transfers[request["of"]] = Transfer(part, size)
        if request["digest"]:
            transfer.name(request["digest"])
        try:
            self._emit(request, {"gaps": transfer.arrival.gaps()})
            digest = transfer.digested(
                lambda: _is_whole(self._blob(transfer.named), size),
                lambda have: self._emit(request, {"have": have}),
            )
            if digest and digest != transfer.named:
                transfer.discard()
                kind = "stale" if transfer.resumed else "digest"
                raise Refusal(kind, "what arrived is not what was sent")
            transfer.keep(self._blob(transfer.named))
            return {"have": size}
        finally:
            del self.transfers[request["of"]]
            transfer.close()

    def on_piece(self, request: dict[str, Any], body: bytes) -> None:
        """Take a piece of what is being received."""
        transfer = self.transfers.get(request["of"])
        if transfer is not None:
            start = request["offset"]
            transfer.write(start, start, body, start + len(body))

    def on_named(self, request: dict[str, Any], body: bytes) -> None:
        """Learn the digest of what is being received."""
        transfer = self.transfers.get(request["of"])
        if transfer is not None:
            transfer.name(request["digest"])

    def on_lanes(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Listen for lanes, and tell where; nowhere where there is no place for a socket."""
        try:
            path = self.lanes.listen(request["most"])
        except OSError:
            return {"path": "", "relay": []}
        command = _launch(sys.executable, ("-I", "-S"), "relay", path)
        return {"path": path, "relay": ["env", f"DAYFLY_RUN={self.run_id}", *command]}

    def source(self, what: str) -> str:
        """Give the path of what may be asked for: the result of the run, or that of a warm call by its number."""
        if what == "result":
            return self.job.file("result.sealed")
        if what.isdigit():
            return self.job.file(os.path.join("calls", f"{what}.sealed"))
        raise Refusal("machine", f"there is nothing called {what!r} to get")

    # -- data: content by digest, many at a time, and folders of it

    def on_data_have(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Tell how much is here of each [digest, size], and how much room is left; -1 of an empty one that is not here."""
        # Looked at by name first: most of many small files are new to a machine, and each look at one costs a call.
        folder = os.path.dirname(self._blob(""))
        names = set(os.listdir(folder))
        have = []
        for digest, size in json.loads(body):
            if digest in names and _is_whole(os.path.join(folder, digest), size):
                have.append(size)
            else:
                part = f"{digest}.{self.run_id}.part"
                there = Transfer.there(os.path.join(folder, part)) if part in names else 0
                have.append(min(there, size - 1))
        room = os.statvfs(folder)
        return {"have": have, "free": room.f_bavail * room.f_frsize}

    def on_data_pack(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Take several contents of [digest, size], one behind the other in the frame."""
        place = 0
        for digest, size in request["blobs"]:
            data = body[place : place + size]
            place += size
            if _digest(data) != digest:
                raise Refusal("digest", "what arrived is not what was sent")
            blob = self._blob(digest)
            if not _is_whole(blob, size):
                _place(blob, data)
        return {}

    def on_data_tree(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Make a folder of content that is here, once for a run, and give its path; its list is content, too."""
        base = os.path.join(_home(), f"data-{self.run_id}")
        place = os.path.join(base, os.path.basename(request["key"]))
        with open(self._blob(request["list"]), "rb") as file:
            told = json.loads(file.read())
        if not os.path.isdir(place):
            os.makedirs(base, 0o700, exist_ok=True)
            aside = f"{place}.{os.getpid()}.{time.time_ns()}"
            os.mkdir(aside, 0o700)
            for path, digest, size, mode in told["entries"]:
                self._place(os.path.join(aside, path), digest, size, mode)
            try:
                os.rename(aside, place)
            except OSError:
                _remove_tree(aside)  # Another session was first.
            prune(os.path.join(self.cache, "blobs"), time.time() - BLOB_UNUSED_S)
        return {"path": os.path.join(place, told["name"])}

    def _place(self, path: str, digest: str, size: int, mode: int) -> None:
        if not digest:
            os.makedirs(path, 0o700, exist_ok=True)
            return None
        blob = self._blob(digest)
        if not _is_whole(blob, size):
            raise Refusal("data", f"content {digest} is not here any more")
        if not mode & 0o100:
            try:
                return os.link(blob, path)
            except OSError:
                pass  # Another file system, or one that has no links.
        from shutil import copyfile

        copyfile(blob, path)
        os.chmod(path, BLOB_MODE | (mode & 0o100))
        return None

    # -- the job

    def on_start(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Start the job unless it was started before; the task is the frame's body or a blob."""

        def place_task(path: str) -> None:
            if request["task"]:
                os.rename(self._blob(request["task"]), path)
            else:
                _write_file(path, body)
            if request["checkpoints"]:
                self._restore(os.path.dirname(path), request["checkpoints"])

        if self.job.exists() and self.job.status()["state"] != "absent":
            return {"started": False}
        python = self._interpreter(request["python"])
        pickler = unpack_pickler(self._blob(request["pickler"]), self.cache)
        lock = self.job.claim(place_task)
        if lock is None:
            return {"started": False}
        order = {
            name: request[name]
            for name in ("variables", "secrets", "max_runtime_s", "grace_s", "hold_s", *IDLE_ORDERS)
        }
        order.update(
            run_id=self.run_id, key=self.key.hex(), python=python, pickler=pickler, lock=lock
        )
        try:
            self._start_supervisor(order, lock)
        finally:
            os.close(lock)
        return {"started": True}

    def _restore(self, folder: str, listing: str) -> None:
        """Put an earlier attempt's checkpoints into the job's folder, as files of its own."""
        from shutil import copyfile

        with open(self._blob(listing), "rb") as file:
            told = json.loads(file.read())
        for path, digest, size, mode in told["entries"]:
            place = os.path.join(folder, path)
            if not digest:
                os.makedirs(place, 0o700, exist_ok=True)
                continue
            blob = self._blob(digest)
            if not _is_whole(blob, size):
                raise Refusal("data", f"content {digest} is not here any more")
            copyfile(blob, place)
            os.chmod(place, 0o600 | mode)
        for path, target in told["links"]:
            os.symlink(target, os.path.join(folder, path))

    def _interpreter(self, wanted: str) -> str:
        if os.path.sep in wanted:
            return os.path.expanduser(wanted)
        found = interpreters(self.cache).get(wanted)
        if found is None:
            raise Refusal("environment", f"the machine has no Python {wanted}")
        return found

    def _start_supervisor(self, order: Mapping[str, Any], lock: int) -> None:
        nothing = os.open(os.devnull, os.O_WRONLY)
        log = os.open(self.job.file("supervisor.log"), os.O_WRONLY | os.O_APPEND)
        command = _launch(sys.executable, ("-I", "-S"), "supervise", self.job.path)
        try:
            child = _spawn_with_order(
                command,
                _login_environment(self.run_id),
                "/",
                (nothing, log),
                order=order,
                keep=(lock,),
            )
            os.waitpid(child, 0)
        finally:
            os.close(nothing)
            os.close(log)

    def _require_job(self) -> None:
        if self.job.status()["state"] != "absent":
            return
        words = ""
        if self.job.exists():
            with open(self.job.file("supervisor.log"), encoding="utf-8", errors="replace") as file:
                words = file.read()[-TEXT_CHARACTERS:]
        raise Refusal("absent", f"no job of this run was started on the machine. {words}".strip())

    def on_stop(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """End the job and tell how it ended; a job that has ended already is left as it is."""
        if self.job.exists() or not _carriers(self.job.mark()):
            self._require_job()
        request_stop(self.job, "stopped")
        while True:
            end = self.job.end() or self.job.end_without_supervisor()
            if end is not None:
                return {"end": end}
            time.sleep(0.01)

    def on_attach(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Send both logs from the given offsets, and the samples after a number, until the job has ended and all is sent."""
        self._require_job()
        follower = LogFollower(self.job, request["offsets"], request["samples"])
        credit = self._credits[request["id"]]
        try:
            for stream, offset, data in follower.chunks():
                credit.take(len(data))
                self._emit(request, {"stream": stream, "offset": offset}, data)
        finally:
            follower.close()
        return {"end": follower.end}

    def on_look(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Send the samples after a number, and so many of the last bytes of each log, once."""
        self._require_job()
        reader = SampleReader(self.job.file(SAMPLES), request["samples"])
        for number, data in reader.unread():
            self._emit(request, {"stream": "samples", "offset": number}, data)
        for name in ("stdout", "stderr") if request["tail"] else ():
            path = self.job.file(f"{name}.log")
            with open(path, "rb") as log:
                offset = log.seek(max(0, _size(path) - request["tail"]))
                self._emit(request, {"stream": name, "offset": offset}, log.read(request["tail"]))
        return self.job.status()

    def on_get(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Send the sealed result, the run's or that of one warm call, from an offset on.

        Where that is more than is wanted in this way, only its size is told.
        """
        try:
            descriptor = os.open(self.source(request["what"]), os.O_RDONLY)
        except FileNotFoundError:
            raise Refusal("result", "the job left no result") from None
        credit, offset = self._credits[request["id"]], request["offset"]
        try:
            size = os.fstat(descriptor).st_size
            if size - offset > request["most"]:
                return {"size": size}
            while True:
                data = os.pread(descriptor, CHUNK_BYTES, offset)
                if not data:
                    break
                credit.take(len(data))
                self._emit(request, {"offset": offset}, data)
                offset += len(data)
        finally:
            os.close(descriptor)
        return {"size": size}

    # -- what the job has left in its folder for outputs

    def on_outputs(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """List them, some at a time; a job whose folder is gone has left none."""
        credit = self._credits[request["id"]]
        batch: list[Any] = []
        for entry in OutputFolder(self.job.file(os.path.basename(request["of"]))).entries():
            batch.append(entry)
            if len(batch) == OutputFolder.BATCH:
                self._emit_list(request, credit, batch)
                batch = []
        self._emit_list(request, credit, batch)
        return {}

    def _emit_list(self, request: Mapping[str, Any], credit: Credit, batch: list[Any]) -> None:
        data = json.dumps(batch).encode()
        credit.take(len(data))
        self._emit(request, {"entries": len(batch)}, data)

    def on_files(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Send the files that are asked for as [path, offset, size], one after the other, each with its digest."""
        folder = OutputFolder(self.job.file(os.path.basename(request["of"])))
        credit = self._credits[request["id"]]

        def send(head: dict[str, Any], data: bytes) -> None:
            credit.take(len(data))
            self._emit(request, head, data)

        for number, (path, offset, size) in enumerate(json.loads(body)):
            try:
                for head, data in folder.read(path, offset, size):
                    send({"file": number, **head}, data)
            except ValueError as error:
                send({"file": number, "why": str(error)}, b"")
        return {}

    # -- warm calls

    def on_warm(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Carry parcels between this client and the zygote until that one hangs up; the others come by `on_pass`."""
        self._require_job()
        channel = self._reach_zygote()
        self._zygotes[request["id"]] = channel
        inbox = Inbox()
        try:
            hello = {
                "generation": request["generation"],
                "blobs": os.path.dirname(self._blob("x")),
            }
            channel.sendall(parcel(encode(hello)))
            for data in iter(lambda: channel.recv(1 << 18), b""):
                for payload in inbox.payloads(data):
                    self._emit(request, {}, payload)
        except ConnectionError:
            return {}
        finally:
            del self._zygotes[request["id"]]
            channel.close()
        return {}

    def _reach_zygote(self) -> Any:
        """Connect to it as soon as it listens."""
        import socket

        while True:
            channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                with self._moving:
                    in_folder(self.job.path, lambda: channel.connect("zygote"))  # noqa: B023 - called at once
                return channel
            except (FileNotFoundError, ConnectionRefusedError):
                channel.close()
            if self.job.status()["state"] == "ended":
                raise Refusal("ended", "the run takes no more calls: it has ended")
            time.sleep(0.005)

    def on_pass(self, request: dict[str, Any], body: bytes) -> None:
        """Hand a parcel on; where the zygote has gone, whoever asked for it hears of that by `on_warm`."""
        channel = self._zygotes.get(request["of"])
        if channel is not None:
            try:
                channel.sendall(parcel(body))
            except OSError:
                return

    # -- the environment

    def on_system_packages(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Install packages of the system, as far as they are not there."""
        SystemPackages(self.cache, request["names"]).install(
            lambda line: self._emit(request, {"line": line})
        )
        return {}

    def on_environment(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Make the environment, or find it made; without uv in the request only the latter."""
        environment = Environment(self, request)
        if not request["uv"]:
            return {"python": environment.ready()}
        return {"python": environment.build(lambda line: self._emit(request, {"line": line}))}


class OutputFolder:
    """What a job has left for its client; only files, folders and links are told of as such."""

    BATCH = 500
    KINDS = ((0o100000, "file"), (0o040000, "folder"), (0o120000, "link"))

    def __init__(self, root: str) -> None:
        self._root = root

    def entries(self) -> Iterator[list[Any]]:
        """Give [path, kind, size, mode, time in ns, target] of all that is there, a folder before what it holds.

        Links are not followed. Bytes of a name that are no text stand in it as lone surrogates.
        """
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            try:
                names = sorted(os.listdir(os.path.join(self._root, folder)))
            except OSError as error:
                if folder:
                    yield [folder, "unreadable", 0, 0, 0, error.strerror]
                continue
            below = []
            for path in (os.path.join(folder, name) for name in names):
                entry = self._entry(path)
                if entry[1] == "folder":
                    below.append(path)
                yield entry
            waiting += reversed(below)

    def _entry(self, path: str) -> list[Any]:
        place = os.path.join(self._root, path)
        try:
            found = os.lstat(place)
            kind = dict(self.KINDS).get(found.st_mode & 0o170000, "special")
            target = os.readlink(place) if kind == "link" else ""
        except OSError as error:
            return [path, "unreadable", 0, 0, 0, error.strerror]
        return [path, kind, found.st_size, found.st_mode & 0o777, found.st_mtime_ns, target]

    def read(self, path: str, offset: int, size: int) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Give a file's bytes from `offset` to `size`; the last part tells the digest and size of all of it.

        Raises:
            ValueError: it cannot be read, with the reason.
        """
        try:
            # Without waiting: a pipe that has taken a file's place would wait for somebody to write to it.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(os.path.join(self._root, path), flags)
        except OSError as error:
            raise ValueError(error.strerror) from None
        try:
            yield from self._parts(descriptor, offset, size)
        except OSError as error:
            raise ValueError(error.strerror) from None
        finally:
            os.close(descriptor)

    @staticmethod
    def _parts(descriptor: int, offset: int, size: int) -> Iterator[tuple[dict[str, Any], bytes]]:
        if os.fstat(descriptor).st_mode & 0o170000 != 0o100000:
            raise ValueError("it is no file any more")
        digest, place = _sha256(), 0
        while True:
            # What the client has is only digested.
            end = offset if place < offset else size
            data = os.pread(descriptor, min(CHUNK_BYTES, end - place), place)
            digest.update(data)
            place += len(data)
            if place >= size or not data:
                break
            if place > offset:
                yield {"offset": place - len(data)}, data
        if place < offset:
            raise ValueError("it has become shorter")
        last = data if place > offset else b""
        told = {"offset": place - len(last), "digest": digest.hexdigest(), "size": place}
        yield told, last


class Transfer:
    """Content on its way to this machine in pieces: written as they come, digested as far as there is no gap.

    What is there is noted beside it, so that another agent can go on where this one ended.
    """

    PROGRESS_BYTES = 1 << 20
    _RANGES = 64

    def __init__(self, part: str, size: int) -> None:
        import threading

        self._part, self.named = part, ""
        self._known = self._asked = self._closed = False
        self._writing = 0
        flags = os.O_RDWR | os.O_CREAT
        self._file = os.open(part, flags, 0o600)
        self._note = os.open(part + ".have", flags, 0o600)
        note = os.pread(self._note, 8 + 16 * self._RANGES, 0)
        self.arrival = Arrival(size, self._noted(note, os.fstat(self._file).st_size))
        self.resumed = self.arrival.gaps() != [(0, size)]
        self._noting = threading.Lock()

    @classmethod
    def there(cls, part: str) -> int:
        """Tell how many bytes are there of what is or was on its way, by its note."""
        try:
            with open(part + ".have", "rb") as file:
                note = file.read(8 + 16 * cls._RANGES)
        except FileNotFoundError:
            return 0
        return sum(end - start for start, end in cls._noted(note, _size(part)))

    @staticmethod
    def _noted(note: bytes, size: int) -> list[tuple[int, int]]:
        """Give what is there by the note, as (start, end); nothing of what a file of that size cannot hold."""
        words = struct.unpack(f">{len(note) // 8}Q", note[: len(note) // 8 * 8])
        count = min(words[0], (len(words) - 1) // 2) if words else 0
        ranges = [(words[place], words[place + 1]) for place in range(1, 1 + 2 * count, 2)]
        places = [place for ends in ranges for place in ends]
        # What was torn by a crash of the machine is no help.
        return ranges if places == sorted(set(places)) and places[-1:] <= [size] else []

    def name(self, digest: str) -> None:
        """Say what its digest must be."""
        with self.arrival.changed:
            self.named, self._known = digest, True
            self.arrival.changed.notify_all()

    def write(self, start: int, offset: int, data: bytes | memoryview, whole: int) -> None:
        """Write a part of the piece from `start` to `whole`; what goes wrong is told to whoever waits."""
        with self.arrival.changed:
            if self._closed:
                return
            self._writing += 1
        try:
            if not 0 <= start <= offset <= offset + len(data) <= whole <= self.arrival.size:
                raise ValueError(f"a piece from {start} to {whole} of {self.arrival.size} bytes")
            write_at(self._file, offset, data)
            self.arrival.note(start, offset + len(data), whole)
            with self._noting:
                ranges = self.arrival.ranges()[: self._RANGES]
                words = [len(ranges), *(place for ends in ranges for place in ends)]
                os.pwrite(self._note, struct.pack(f">{len(words)}Q", *words), 0)
        except Exception as error:  # noqa: BLE001 - it is raised where the answer is made
            self.arrival.fail(error)
        finally:
            self._written()

    def _written(self) -> None:
        with self.arrival.changed:
            self._writing -= 1
            if self._closed:
                self.arrival.changed.notify_all()

    def digested(self, needless: Callable[[], bool], tell: Callable[[int], None]) -> str:
        """Digest it until all is there and its digest is known; "" as soon as it turns out to be here already."""
        digest, done, told = _sha256(), 0, 0
        buffer = memoryview(bytearray(min(1 << 20, self.arrival.size)))
        # Often enough for whoever has to see to other things meanwhile, also on a slow line.
        every = min(4 * self.PROGRESS_BYTES, max(self.PROGRESS_BYTES, self.arrival.size // 64))
        with open(self._file, "rb", buffering=0, closefd=False) as file:
            while done < self.arrival.size or not self._known:
                have = self.arrival.await_more(done, self._newly_named)
                if self._newly_named():
                    self._asked = True
                    if needless():
                        return ""
                if have > done:
                    size = file.readinto(buffer[: have - done]) or 0
                    digest.update(buffer[:size])
                    done += size
                if done - told >= every:
                    tell(done)
                    told = done
        return str(digest.hexdigest())

    def _newly_named(self) -> bool:
        return self._known and not self._asked

    def keep(self, path: str) -> None:
        """Give it the name under which it is looked for."""
        try:
            if not _is_whole(path, self.arrival.size):
                _finish_blob(self._part, path)
        except FileNotFoundError:
            if not _is_whole(path, self.arrival.size):
                raise
            # Another session has brought the same.
        self.discard()

    def discard(self) -> None:
        """Remove what is there of it."""
        for path in (self._part, self._part + ".have"):
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue

    def close(self) -> None:
        with self.arrival.changed:
            # Whoever is at a write must not find another file under the number.
            self._closed = True
            while self._writing:
                self.arrival.changed.wait()
        os.close(self._file)
        os.close(self._note)


class Lanes:
    """Further ways for large content, each through a connection to a Unix socket of ours; what it carries is ordered by frames.

    The bytes themselves travel as they are: they are of the run as soon as all of them have the digest, or the
    authentication code, that was told in a frame.
    """

    ACCEPT_S = 10.0

    def __init__(self, server: Server, nonce: bytes) -> None:
        self._server, self._nonce = server, nonce
        self._listening: dict[str, Any] = {}

    def listen(self, most: int) -> str:
        """Take so many connections, those that come soon; gives the socket's path, which only this user can reach."""
        import socket
        import threading

        folder = os.environ.get("TMPDIR", "/tmp")  # noqa: S108 - a folder of ours in it, of a random name
        # The path of a Unix socket has room for a hundred bytes.
        folder = folder if len(folder) < 60 else "/tmp"  # noqa: S108
        folder = os.path.join(folder, "dayfly-" + os.urandom(8).hex())
        os.mkdir(folder, 0o700)
        path = os.path.join(folder, "lanes")
        listener = self._listening[path] = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(most)
        listener.settimeout(self.ACCEPT_S)
        threading.Thread(target=self._accept, args=(path, listener, most), daemon=True).start()
        return path

    def _accept(self, path: str, listener: Any, most: int) -> None:
        import threading

        try:
            for _ in range(most):
                connection = listener.accept()[0]
                connection.settimeout(None)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
        except OSError:
            pass  # No further one came.
        finally:
            self._end(path)

    def _end(self, path: str) -> None:
        listener = self._listening.pop(path, None)
        if listener is not None:
            listener.close()
            try:
                os.unlink(path)
                os.rmdir(os.path.dirname(path))
            except OSError:
                pass  # Somebody tidied up there.

    def close(self) -> None:
        for path in list(self._listening):
            self._end(path)

    def _serve(self, connection: Any) -> None:
        """Carry out the orders of one lane until it closes, or until there is one that is not authentic."""
        try:
            number = int.from_bytes(_receive(connection, 4), "big")
            key = lane_key(self._server.key, self._nonce, number)
            seq = 0
            while True:
                header = _receive(connection, HEADER_BYTES)
                length, digest = open_header(key, self._server.run_id, seq, header)
                if length > CHUNK_BYTES:
                    raise FrameError(f"an order of {length} bytes")
                payload = _receive(connection, length)
                check_payload(len(payload), _sha256(payload).digest(), length, digest)
                self._carry_out(connection, decode(payload)[0])
                seq += 1
        except (EOFError, OSError):
            pass
        except (FrameError, Refusal) as error:
            os.write(2, f"dayfly: {error}\n".encode())
        finally:
            connection.close()

    def _carry_out(self, connection: Any, order: dict[str, Any]) -> None:
        if "of" in order:
            self._take(connection, order["of"], order["offset"], order["bytes"])
        else:
            self._give(connection, order["what"], order["offset"], order["bytes"])

    def _take(self, connection: Any, of: int, start: int, size: int) -> None:
        from socket import MSG_WAITALL

        # What is received no longer, because it is here already, must be taken from the line all the same.
        transfer = self._server.transfers.get(of)
        buffer, offset = memoryview(bytearray(min(size, CHUNK_BYTES))), start
        while offset < start + size:
            # All at once: the server hands on 32 KB at a time, and each write here costs several calls.
            room = buffer[: start + size - offset]
            count = connection.recv_into(room, len(room), MSG_WAITALL)
            if not count:
                raise EOFError
            if transfer is not None:
                transfer.write(start, offset, buffer[:count], start + size)
            offset += count

    def _give(self, connection: Any, what: str, offset: int, size: int) -> None:
        descriptor = os.open(self._server.source(what), os.O_RDONLY)
        try:
            end = offset + size
            while offset < end:
                if sys.platform == "linux":
                    count = os.sendfile(connection.fileno(), descriptor, offset, end - offset)
                else:
                    data = os.pread(descriptor, min(CHUNK_BYTES, end - offset), offset)
                    connection.sendall(data)
                    count = len(data)
                if not count:
                    raise EOFError
                offset += count
        finally:
            os.close(descriptor)


def lane_key(key: bytes, nonce: bytes, number: int) -> bytes:
    """The key of the orders on one lane: one of another lane, channel or run does not fit."""
    import hmac

    return hmac.digest(key, b"lane %d of " % number + nonce, "sha256")


def _receive(connection: Any, size: int) -> bytes:
    """Receive exactly so many bytes.

    Raises:
        EOFError: there are no more.
    """
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def relay(path: str) -> None:
    """Lead stdin and stdout of a channel to the agent's socket, where the server itself does not."""
    import socket
    import threading

    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)

    def upward() -> None:
        for data in iter(lambda: os.read(0, CHUNK_BYTES), b""):
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)

    threading.Thread(target=upward, daemon=True).start()
    try:
        for data in iter(lambda: connection.recv(CHUNK_BYTES), b""):
            _write_all(1, data)
    except OSError:
        pass  # Either end went; there is nothing to say to the other.
    finally:
        os._exit(0)


class LogFollower:
    """Reads what a job writes as it is written, and knows when it has ended."""

    # Looking costs about 15 us; the pause grows as the job falls silent.
    PAUSES_S = ((2.0, 0.003), (30.0, 0.01), (float("inf"), 0.05))

    def __init__(self, job: JobFolder, offsets: Mapping[str, int], samples: int) -> None:
        self._job = job
        self._offsets = dict(offsets)
        self._samples = SampleReader(job.file(SAMPLES), samples)
        self._files = {
            name: os.open(job.file(f"{name}.log"), os.O_RDONLY) for name in ("stdout", "stderr")
        }
        self.end: dict[str, Any] | None = None

    def chunks(self) -> Iterator[tuple[str, int, bytes]]:
        moved = looked = time.monotonic()
        while True:
            # Asked before the logs are read, so that nothing written before the end is missed.
            ended = self._job.end()
            now = time.monotonic()
            if ended is None and now - looked > 1:
                looked, ended = now, self._job.end_without_supervisor()
            for chunk in self._unread():
                moved = now
                yield chunk
            for number, data in self._samples.due(now, last=ended is not None):
                yield "samples", number, data
            if ended is not None:
                self.end = ended
                return
            time.sleep(next(pause for silent, pause in self.PAUSES_S if now - moved <= silent))

    def _unread(self) -> Iterator[tuple[str, int, bytes]]:
        for name, descriptor in self._files.items():
            while True:
                data = os.pread(descriptor, CHUNK_BYTES, self._offsets[name])
                if not data:
                    break
                offset = self._offsets[name]
                self._offsets[name] += len(data)
                yield name, offset, data

    def close(self) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)


def unpack_pickler(archive: str, cache: str) -> str:
    """Unpack the zip of cloudpickle once for each content: from a folder it is compiled only once."""
    folder = os.path.join(cache, "pickler", os.path.basename(archive))
    if not os.path.isdir(folder):
        from zipfile import ZipFile

        aside = f"{folder}.{os.getpid()}.tmp"
        with ZipFile(archive) as content:
            content.extractall(aside)
        try:
            os.rename(aside, folder)
        except OSError:
            _remove_tree(aside)  # Another session was first.
    return folder


def _login_environment(run_id: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SSH_")}
    return {**kept, "DAYFLY_RUN": run_id}


def serve(opening: bytes, cache: str) -> None:
    """Answer one session; the opening is nonce, key and run id, which the stub on the command line has read."""
    nonce, key, run_id = opening[:16], opening[16:48], opening[48:OPENING_BYTES].hex()
    # What outlives this process carries the mark of its run in the environment that it starts with.
    os.environ["DAYFLY_RUN"] = run_id
    os.umask(0o077)
    server = Server(run_id, key, nonce, os.path.abspath(os.path.expanduser(cache)))
    try:
        server.serve()
    except FrameError as error:
        os.write(2, f"dayfly: {error}\n".encode())
    except Exception:  # noqa: BLE001 - the process ends below without another word
        sys.excepthook(*sys.exc_info())
    finally:
        import signal

        server.lanes.close()
        for build in list(server.builds):
            try:
                os.killpg(build.pid, signal.SIGTERM)
            except ProcessLookupError:
                continue
        # Threads may be waiting for credit that never comes.
        os._exit(0)


# ---------------------------------------------------------------------------------------------- facts


def interpreters(cache: str) -> dict[str, str]:
    """Find the Pythons of the machine, "3.11" -> path, without starting any of them."""
    found = {"%d.%d" % sys.version_info[:2]: os.path.realpath(sys.executable)}  # noqa: UP031
    for folder in _interpreter_folders(cache):
        try:
            names = [name for name in os.listdir(folder) if name.startswith("python3.")]
        except OSError:
            continue
        for name in names:
            if name[8:].isdigit():
                # Resolved, a virtual environment's link is the interpreter under it.
                path = os.path.realpath(os.path.join(folder, name))
                if name[6:] not in found and _is_interpreter(path):
                    found[name[6:]] = path
    return found


def _interpreter_folders(cache: str) -> list[str]:
    folders: list[str] = []
    stores = [
        os.path.join(_home(), ".pyenv/versions"),
        os.path.join(_home(), ".local/share/uv/python"),
    ]
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        if os.path.basename(folder) == "shims":
            stores.append(os.path.join(os.path.dirname(folder), "versions"))
        elif folder:
            folders.append(folder)
    folders += ["/usr/local/bin", "/usr/bin", "/opt/homebrew/bin"]
    for store in [*stores, os.path.join(cache, "python")]:
        if os.path.isdir(store):
            folders += [os.path.join(store, name, "bin") for name in sorted(os.listdir(store))]
    return folders


def _is_interpreter(path: str) -> bool:
    """Tell a binary from a script that chooses one, and from a virtual environment's copy."""
    try:
        with open(path, "rb") as file:
            script = file.read(2) == b"#!"
    except OSError:
        return False
    environment = os.path.join(os.path.dirname(os.path.dirname(path)), "pyvenv.cfg")
    return not script and os.access(path, os.X_OK) and not os.path.exists(environment)


def machine_facts(cache: str) -> dict[str, Any]:
    """Give what the client wants to know of the machine, as the fields of its Facts."""
    gpus, driver = _GpuQuery().answer()
    system = os.uname()
    statistics = os.statvfs(_home())
    pythons = sorted(interpreters(cache), key=lambda minor: int(minor[2:]))
    return {
        "hostname": system.nodename,
        "platform": f"{system.sysname.lower()}-{system.machine}",
        "libc": _libc(),
        "pythons": pythons,
        "cores": _cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "free_disk_bytes": statistics.f_bavail * statistics.f_frsize,
        "agent_pid": os.getpid(),
        "gpus": gpus,
        "driver": driver,
    }


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _libc() -> str:
    if sys.platform == "darwin":
        return ""
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").replace(" ", "")
    except (OSError, ValueError):
        return "musl"


# ---------------------------------------------------------------------------------------------- gpus


class _Asked:
    """A program that is asked something, and whose answer is awaited for so long and no longer.

    Not even its end: a process that waits in the driver for a broken GPU is not reached by any signal.
    """

    def __init__(self, command: list[str], environment: Mapping[str, str] | None = None) -> None:
        from subprocess import DEVNULL, PIPE, Popen

        self._process: Popen[bytes] | None = None
        self.code: int | None = None
        self.words = self.complaint = ""
        try:
            self._process = Popen(command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=environment)
        except OSError as error:
            self.complaint = f"{command[0]} cannot be started: {error}"

    def wait(self, timeout_s: float) -> _Asked:
        """Take its exit code and its words; the code stays None where it is late or was never started."""
        from subprocess import TimeoutExpired

        process = self._process
        if process is None:
            return self
        try:
            output, errors = process.communicate(timeout=timeout_s)
            self.code = process.returncode
        except TimeoutExpired as late:
            output, errors = late.output or b"", late.stderr or b""
            self._abandon(process)
        self.words = output.decode(errors="replace").strip()
        self.complaint = errors.decode(errors="replace").strip()
        return self

    @staticmethod
    def _abandon(process: Popen[bytes]) -> None:
        from subprocess import TimeoutExpired

        process.kill()
        try:
            process.communicate(timeout=1.0)
        except TimeoutExpired:
            return


def _smi_command(fields: str) -> list[str]:
    """Give the command that asks nvidia-smi; empty where there is none."""
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        tool = os.path.join(folder, "nvidia-smi")
        if folder and os.access(tool, os.X_OK):
            return [tool, "--query-gpu=" + fields, "--format=csv,noheader,nounits"]
    return []


def _smi(fields: str) -> _Asked | None:
    """Ask nvidia-smi, where there is one, while something else goes on: it may take seconds to answer."""
    command = _smi_command(fields)
    return _Asked(command) if command else None


class _GpuQuery:
    """The names of the GPUs, for whoever wants to know and does not depend on it."""

    def __init__(self) -> None:
        self._asked = _smi("name,driver_version")

    def answer(self, timeout_s: float = 5.0) -> tuple[list[str], str]:
        """Give the names of the GPUs and the driver's version; nothing where the tool fails or is late."""
        if self._asked is None or self._asked.wait(timeout_s).code != 0:
            return [], ""
        rows = [line.rsplit(",", 1) for line in self._asked.words.splitlines() if "," in line]
        return [row[0].strip() for row in rows], rows[0][1].strip() if rows else ""


def gpu_findings(seconds: float) -> dict[str, Any]:
    """Give what nvidia-smi lists and what the driver can do with each GPU, as the fields of GpuFindings.

    Both are asked at once and awaited for `seconds`. What is missing, late or broken is told, never raised:
    the client knows what was paid for.
    """
    smi = _smi("name,memory.total,uuid,driver_version")
    # A variable that hides GPUs from programs must not hide them from the check.
    environment = {n: v for n, v in os.environ.items() if not n.startswith("CUDA_")}
    driver = _Asked(_launch(sys.executable, ("-I", "-S"), "gpu", "all"), environment)
    over = time.monotonic() + seconds
    listed = _listed_gpus(smi, seconds)
    used = _used_gpus(driver.wait(max(0.1, over - time.monotonic())), seconds)
    return {**listed, **used, "starting": bool(used["driver_failure"]) and _fabric_is_starting()}


def _listed_gpus(smi: _Asked | None, seconds: float) -> dict[str, Any]:
    failure = ""
    if smi is None:
        failure = "there is no nvidia-smi on the machine"
    elif smi.wait(seconds).code is None:
        failure = smi.complaint or f"nvidia-smi did not answer in {seconds:g} s"
    elif smi.code:
        failure = f"nvidia-smi exited {smi.code}: {(smi.words + smi.complaint)[:TEXT_CHARACTERS]}"
    if smi is None or failure:
        return {"listed": [], "driver": "", "smi_failure": failure}
    rows = [[part.strip() for part in line.rsplit(",", 3)] for line in smi.words.splitlines()]
    rows = [row for row in rows if len(row) == 4]
    listed = [
        # Where the GPU shares the processor's memory the tool says "[N/A]".
        {"name": name, "memory_bytes": int(mib) << 20 if mib.isdigit() else 0, "uuid": uuid}
        for name, mib, uuid, _ in rows
    ]
    return {"listed": listed, "driver": rows[0][3] if rows else "", "smi_failure": ""}


def _used_gpus(driver: _Asked, seconds: float) -> dict[str, Any]:
    """Take what the child has said last: it ends in the middle of its step where the driver hangs or crashes."""
    told: dict[str, Any] = {"step": "start"}
    for line in driver.words.splitlines():
        try:
            told = json.loads(line)
        except ValueError:
            continue  # The library's own words.
    if driver.code == 0 and "devices" in told:
        return {"usable": told["devices"], "driver_failure": ""}
    if "failure" in told:
        failure = told["failure"]
    elif driver.code is None:
        failure = f"{told['step']}: no answer in {seconds:g} s"
    else:
        ended = f"by signal {-driver.code}" if driver.code < 0 else f"with {driver.code}"
        failure = f"{told['step']}: the process ended {ended}: {driver.complaint[-300:]}"
    return {"usable": [], "driver_failure": failure}


def _fabric_is_starting() -> bool:
    """Tell whether the GPUs wait for their switches, which takes a minute or two after a boot and ends by itself."""
    asked = _Asked(["systemctl", "is-active", "nvidia-fabricmanager.service"])
    return asked.wait(5.0).words == "activating"


class _Driver:
    """The driver's library; every call is checked."""

    BYTES = 1 << 20
    PATTERN = 0xDF

    def __init__(self) -> None:
        import ctypes

        self.step("libcuda.so.1")
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            self.fail(f"libcuda.so.1 cannot be loaded: {error}")

    @staticmethod
    def step(name: str) -> None:
        os.write(1, json.dumps({"step": name}).encode() + b"\n")

    @staticmethod
    def fail(failure: str) -> None:
        os.write(1, json.dumps({"failure": failure}).encode() + b"\n")
        os._exit(1)

    def call(self, name: str, *arguments: Any, on: str = "") -> None:
        """Call a function of the library; the process ends with its own words where it answers with an error."""
        import ctypes

        self.step(name + on)
        code = getattr(self._library, name)(*arguments)
        if code:
            words = ctypes.c_char_p()
            self._library.cuGetErrorName(code, ctypes.byref(words))
            self.fail(f"{name}{on}: error {code} {(words.value or b'').decode(errors='replace')}")

    def devices(self) -> list[dict[str, Any]]:
        import ctypes

        self.call("cuInit", 0)
        count = ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(count))
        return [self._use(number) for number in range(count.value)]

    def _use(self, number: int) -> dict[str, Any]:
        """Make a context on one GPU, write to its memory and read it back."""
        import ctypes

        on = f" on GPU {number}"
        device, size, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(128)
        context, memory = ctypes.c_void_p(), ctypes.c_uint64()
        back, length = ctypes.create_string_buffer(self.BYTES), ctypes.c_size_t(self.BYTES)
        self.call("cuDeviceGet", ctypes.byref(device), number, on=on)
        self.call("cuDeviceGetName", name, 128, device, on=on)
        self.call("cuDeviceTotalMem_v2", ctypes.byref(size), device, on=on)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device, on=on)
        self.call("cuCtxSetCurrent", context, on=on)
        self.call("cuMemAlloc_v2", ctypes.byref(memory), length, on=on)
        self.call("cuMemsetD8_v2", memory, ctypes.c_ubyte(self.PATTERN), length, on=on)
        self.call("cuMemcpyDtoH_v2", back, memory, length, on=on)
        if back.raw != bytes([self.PATTERN]) * self.BYTES:
            self.fail(f"memory{on}: it gave back other bytes than were written")
        self.call("cuMemFree_v2", memory, on=on)
        self.call("cuDevicePrimaryCtxRelease_v2", device, on=on)
        return {
            "name": name.value.decode(errors="replace"),
            "memory_bytes": size.value,
            "uuid": "",
        }


def gpu(_which: str) -> None:
    """Use every GPU a little; what came of it is the last line of the output."""
    devices = _Driver().devices()
    os.write(1, json.dumps({"devices": devices}).encode() + b"\n")
    # The library's own clean-up can hang where its GPU does.
    os._exit(0)


# ---------------------------------------------------------------------------------------------- host key


def _as_root(command: list[str]) -> list[str]:
    return command if os.geteuid() == 0 else ["sudo", "-n", *command]


class SshServer:
    """The SSH server through which this process was started: its host keys, and how it is told that one has changed."""

    CLOUD_COPIES = ("/var/lib/cloud", "/run/cloud-init")

    def __init__(self) -> None:
        self._listener, self._command = self._find()

    @staticmethod
    def _find() -> tuple[int, list[str]]:
        """Give the server's process and command line, from the processes above this one; 0 where each connection is one."""
        table = _process_table()
        found, pid = (0, ["/usr/sbin/sshd"]), os.getpid()
        while pid in table and pid > 1:
            pid = table[pid][0]
            try:
                program = os.readlink(f"/proc/{pid}/exe").replace(" (deleted)", "")
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    words = file.read().decode(errors="replace").rstrip("\0").split("\0")
            except OSError:
                continue
            if not os.path.basename(program).startswith("sshd"):
                continue
            title = words[0]
            # Newer ones write "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups" over their arguments.
            if " [listener]" in title:
                found = (pid, [program, *title.partition(" [listener]")[0].split()[2:]])
            elif not title.startswith(("sshd: ", "sshd-session: ")):
                found = (pid, [program, *words[1:]])
        return found

    def _key_files(self) -> list[str]:
        asked = _Asked([*self._command, "-T"]).wait(10.0)
        if asked.code != 0:
            raise Refusal("host_key", f"{' '.join(self._command)} -T: {asked.complaint}")
        rows = [line.split(None, 1) for line in asked.words.splitlines()]
        return [row[1] for row in rows if row[0] == "hostkey" and os.path.exists(row[1])]

    @staticmethod
    def _public(path: str) -> str:
        """Give a key's public half without its comment; of what is no key that can be read, why."""
        asked = _Asked(["ssh-keygen", "-y", "-P", "", "-f", path]).wait(10.0)
        return " ".join(asked.words.split()[:2]) if asked.code == 0 else f"? {asked.complaint}"

    def _holding(self, *keys: str) -> tuple[str, str]:
        """Give the file of the host key that is one of `keys`, and which it is."""
        shown = {path: self._public(path) for path in self._key_files()}
        for path, key in shown.items():
            if key in keys:
                return path, key
        raise Refusal("host_key", f"the SSH server's host keys are others: {shown}")

    def offer(self, pinned: str) -> str:
        """Make the key that is to take the place of `pinned`, or find it made, and give its public half."""
        aside = self._holding(pinned)[0] + ".dayfly"
        if not (os.path.exists(aside) and self._public(aside).startswith("ssh-")):
            for path in (aside, aside + ".pub"):
                if os.path.exists(path):
                    os.unlink(path)
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", aside]
            made = _Asked(command).wait(10.0)
            if made.code != 0:
                raise Refusal("host_key", f"ssh-keygen: {made.complaint}")
        return self._public(aside)

    def install(self, pinned: str, offered: str) -> None:
        """Put the offered key in the place of the pinned one, of which no copy stays; done already is success."""
        path, shown = self._holding(pinned, offered)
        if shown == pinned:
            aside = path + ".dayfly"
            if self._public(aside) != offered:
                raise Refusal("host_key", f"{aside} is not the key that was offered")
            with open(path, encoding="ascii") as file:
                # While its text is still known: after the next line nobody could look for it.
                scrub(self.CLOUD_COPIES, file.read())
            _write_file(path + ".pub", offered.encode() + b"\n")
            os.chmod(path + ".pub", 0o644)
            os.rename(aside, path)
            _sync_folder(os.path.dirname(path))
            if os.path.exists(aside + ".pub"):
                os.unlink(aside + ".pub")
        if self._listener:
            import signal

            # It reads its keys anew; the connections that it has go on.
            os.kill(self._listener, signal.SIGHUP)


def scrub(folders: Iterable[str], private_key: str) -> int:
    """Overwrite the lines of a private key in every file below `folders`, and give the number of files.

    The lengths stay, so that what else is in such a file, a pickle perhaps, can still be read.
    """
    # The first line of the body is the same in all keys of a kind.
    lines = [line.encode() for line in private_key.splitlines() if "-----" not in line][1:]
    lines = [line for line in lines if len(line) >= 16]
    changed = 0
    for folder in folders:
        for place, _, names in os.walk(folder):
            for path in (os.path.join(place, name) for name in names):
                if os.path.isfile(path) and not os.path.islink(path):
                    changed += _scrub_file(path, lines)
    return changed


def _scrub_file(path: str, lines: Iterable[bytes]) -> bool:
    with open(path, "rb") as file:
        before = after = file.read()
    for line in lines:
        after = after.replace(line, b"x" * len(line))
    if after == before:
        return False
    with open(path, "r+b") as file:
        file.write(after)
        file.flush()
        os.fsync(file.fileno())
    return True


def host_key(step: str) -> None:
    """Do one step of replacing a host key; the public half is the output."""
    asked = json.loads(step)
    os.umask(0o077)
    try:
        server = SshServer()
        if asked["offered"]:
            server.install(asked["pinned"], asked["offered"])
        shown = asked["offered"] or server.offer(asked["pinned"])
    except Refusal as refusal:
        sys.exit(str(refusal))
    os.write(1, shown.encode())


# ---------------------------------------------------------------------------------------------- environment


class Environment:
    """One Python environment, made in place under a lock by uv; `.ready` is written last."""

    WORDS_LINES = 60

    def __init__(self, server: Server, request: Mapping[str, Any]) -> None:
        self._server, self._request = server, request
        self._base = os.path.join(server.cache, "environments")
        self._folder = os.path.join(self._base, os.path.basename(request["digest"]))
        self._tail: list[str] = []

    @property
    def _python(self) -> str:
        return os.path.join(self._folder, "venv", "bin", "python")

    def ready(self) -> str:
        """Give the environment's Python, or "" where it is not made yet."""
        made = os.path.exists(os.path.join(self._folder, ".ready")) and os.access(
            self._python, os.X_OK
        )
        return self._python if made else ""

    def build(self, emit: Callable[[str], None]) -> str:
        """Make it unless it is made; a second user waits for the first.

        Raises:
            Refusal: of kind "environment", with the resolver's words.
        """
        os.makedirs(self._base, 0o700, exist_ok=True)
        lock = _lock(self._folder + ".lock")
        if lock is None:
            emit("waiting for another run that makes the same environment")
            lock = _lock(self._folder + ".lock", wait=True)
        try:
            return self.ready() or self._make(emit)
        finally:
            if lock is not None:
                os.close(lock)

    def _make(self, emit: Callable[[str], None]) -> str:
        _remove_tree(self._folder)
        os.mkdir(self._folder, 0o700)
        uv, minor = self._uv(), self._request["python"]
        # A relative path in a requirements file counts from that file or from the working directory: they are one here.
        self._place_files()
        try:
            self._install(uv, minor, emit)
        finally:
            # They may hold the passwords of indexes, and the folder outlives the run in the machine's cache.
            for name in ("requirements.txt", "constraints.txt"):
                os.unlink(os.path.join(self._folder, name))
        _write_file(os.path.join(self._folder, ".ready"), b"")
        return self._python

    def _install(self, uv: str, minor: str, emit: Callable[[str], None]) -> None:
        base = interpreters(self._server.cache).get(minor)
        if self._run([uv, "venv", "--python", base or minor, "venv"], emit):
            words = "\n".join(self._tail)
            raise Refusal(
                "environment", f"uv could not make an environment of Python {minor}:\n{words}"
            )
        if self._request["wheels"] or self._request["requirements"].strip():
            install = [uv, "pip", "install", "--python", self._python]
            install += ["-r", "requirements.txt", "-c", "constraints.txt"]
            if self._run(install, emit):
                raise Refusal("environment", "\n".join(self._tail))
        for check in self._request["checks"]:
            if self._run([self._python, "-c", check], emit):
                raise Refusal("environment", "\n".join(self._tail))

    def _uv(self) -> str:
        """Give the path of uv, an executable under its own digest."""
        digest = os.path.basename(self._request["uv"])
        path = os.path.join(self._server.cache, "uv", digest)
        if not os.path.exists(path):
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            blob = self._server._blob(digest)
            os.chmod(blob, 0o700)
            os.rename(blob, path)
        return path

    def _place_files(self) -> None:
        """Write the requirements and put the wheels beside them; wheels that no line names are added."""
        wheels = {name: digest for name, digest in self._request["wheels"]}
        for name, digest in wheels.items():
            os.link(self._server._blob(digest), os.path.join(self._folder, os.path.basename(name)))
        lines, named = [], set()
        for line in self._request["requirements"].splitlines():
            name = os.path.basename(line.strip())
            if name in wheels and line.strip() in (name, "./" + name):
                named.add(name)
            else:
                lines.append(line)
        lines += ["./" + name for name in wheels]
        text = "\n".join([*lines, ""]).encode()
        _write_file(os.path.join(self._folder, "requirements.txt"), text)
        constraints = self._request["constraints"].encode()
        _write_file(os.path.join(self._folder, "constraints.txt"), constraints)

    def _run(self, command: list[str], emit: Callable[[str], None]) -> int:
        """Run uv, hand its lines over as they come, and give its exit code."""
        from subprocess import DEVNULL, PIPE, STDOUT, Popen

        self._tail = []
        process = Popen(
            command,
            cwd=self._folder,
            env=self._variables(),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._server.builds.add(process)
        try:
            with process as running:
                for line in running.stdout or ():
                    clear = self._redact(line.rstrip("\n"))
                    self._tail = [*self._tail, clear][-self.WORDS_LINES :]
                    emit(clear)
        finally:
            self._server.builds.discard(process)
        return process.returncode

    def _variables(self) -> dict[str, str]:
        cache = self._server.cache
        return {
            **_login_environment(self._server.run_id),
            "UV_CACHE_DIR": os.path.join(cache, "uv-cache"),
            "UV_PYTHON_INSTALL_DIR": os.path.join(cache, "python"),
            "UV_NO_PROGRESS": "1",
            **self._request["variables"],
        }

    def _redact(self, line: str) -> str:
        """Hide the passwords of index addresses, and the values of variables that name a secret."""
        import re

        for name, value in self._request["variables"].items():
            if re.search("TOKEN|PASSWORD|SECRET|KEY|CREDENTIAL", name, re.I) and len(value) > 3:
                line = line.replace(value, "***")
        return re.sub(r"://[^/@\s]+@", "://***@", line)


# ---------------------------------------------------------------------------------------------- system packages


class SystemPackages:
    """Packages of the system, installed as root by its own package manager.

    What it does goes into a file and not to this process, which ends with its channel: a package manager that is ended in
    the middle leaves a system that is half made. Whoever comes next waits for it, and finds what it has done.
    """

    # The manager, what tells whether a package is there, what installs, what brings its lists up to date.
    MANAGERS = (
        (
            "apt-get",
            ["dpkg-query", "--show", "--showformat=${db:Status-Status}"],
            ["-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=600", "install"],
            ["-y", "update"],
        ),
        ("dnf", ["rpm", "--query"], ["-y", "install"], ["-y", "makecache"]),
        ("yum", ["rpm", "--query"], ["-y", "install"], ["-y", "makecache"]),
        ("apk", ["apk", "info", "--installed"], ["add"], ["update"]),
    )
    # While a new machine sets itself up, its lists may be taken.
    TRIES, PAUSE_S = 20, 3.0
    WORDS_BYTES = 4000

    def __init__(self, cache: str, names: Iterable[str]) -> None:
        self._cache, self._names = cache, list(names)

    def install(self, emit: Callable[[str], None]) -> None:
        """Install what is not there.

        Raises:
            Refusal: of kind "environment", with the manager's own words.
        """
        from shutil import which

        # A login's PATH may be without the folders of the system's own programs.
        path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin:/usr/bin:/bin"
        found = [manager for manager in self.MANAGERS if which(manager[0], path=path)]
        if not found:
            known = ", ".join(manager[0] for manager in self.MANAGERS)
            raise Refusal("environment", f"system_packages=: the machine has none of {known}")
        program, query, install, update = found[0]
        lock = _lock(os.path.join(self._cache, "system-packages.lock"), wait=True)
        try:
            missing = [name for name in self._names if not self._is_there(query, name)]
            if not missing:
                return
            words = self._run(program, [*install, *missing], lock, emit)
            for _ in range(self.TRIES if words else 0):
                # The lists of a new machine are empty or old.
                if not self._run(program, update, lock, emit):
                    break
                time.sleep(self.PAUSE_S)
            words = words and self._run(program, [*install, *missing], lock, emit)
            if words:
                raise Refusal("environment", f"{program} could not install {missing}:\n{words}")
        finally:
            if lock is not None:
                os.close(lock)

    @staticmethod
    def _is_there(query: list[str], name: str) -> bool:
        from subprocess import DEVNULL, PIPE, run

        if "=" in name:
            return False  # The manager knows its versions.
        try:
            done = run([*query, name], stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, check=False)
        except OSError:
            return False
        # Of what was removed dpkg may still keep the configuration.
        there = query[0] != "dpkg-query" or done.stdout.strip() == b"installed"
        return done.returncode == 0 and there

    def _run(
        self, program: str, arguments: list[str], lock: int | None, emit: Callable[[str], None]
    ) -> str:
        """Run the manager to its end; "" where that was a good one, else its last words."""
        from subprocess import DEVNULL, STDOUT, Popen

        command = _as_root(["env", "DEBIAN_FRONTEND=noninteractive", program, *arguments])
        path = os.path.join(self._cache, f"system-packages-{os.getpid()}-{_thread.get_ident()}.log")
        with open(path, "w+b") as log:
            os.unlink(path)
            try:
                process = Popen(
                    command,
                    stdin=DEVNULL,
                    stdout=log,
                    stderr=STDOUT,
                    pass_fds=[lock] if lock is not None else [],
                    start_new_session=True,
                )
            except OSError as error:
                return f"{command[0]}: {error}"
            read = 0
            while True:
                ended = process.poll() is not None
                lines = os.pread(log.fileno(), 1 << 20, read)
                lines = lines[: lines.rfind(b"\n") + 1]
                read += len(lines)
                for line in lines.decode(errors="replace").splitlines():
                    emit(line)
                if ended and not lines:
                    break
                if not lines:
                    time.sleep(0.1)
            if process.returncode == 0:
                return ""
            size = os.fstat(log.fileno()).st_size
            words = os.pread(log.fileno(), self.WORDS_BYTES, max(0, size - self.WORDS_BYTES))
            return words.decode(errors="replace").strip() or f"exit code {process.returncode}"


# ---------------------------------------------------------------------------------------------- supervise


def request_stop(job: JobFolder, reason: str) -> None:
    """Ask the supervisor to end the job; a job that has no supervisor is ended at once."""
    import signal

    if job.end() is not None:
        return
    if not job.exists():
        _send_signal(_carriers(job.mark()), signal.SIGKILL)
        return
    started = _read_json(job.file("started.json"))
    if not os.path.exists(job.file("stop")):
        _write_file(job.file("stop"), reason.encode())
    if job.supervised():
        if started is not None:
            _send_signal([started["pid"]], signal.SIGTERM)
    else:
        _send_signal(_carriers(job.mark()), signal.SIGKILL)


class Supervisor:
    """Starts one job and stays beside it: the only process that knows how it ended."""

    def __init__(self, job: JobFolder, order: dict[str, Any]) -> None:
        self.job, self.order = job, order
        self._wake, self._woken = os.pipe()
        self._pid = 0
        self._reaped: tuple[int, int] | None = None
        self._sampler = Sampler(job, order, self._rouse)

    def supervise(self) -> None:
        started, oom_before = time.time(), _oom_kills()
        self._listen()
        record = {"pid": os.getpid(), "time": started}
        _write_file(self.job.file("started.json"), json.dumps(record).encode())
        self._start()
        _adopt_orphans()
        self._sampler.start(self._pid)
        reason = self._wait(_clock() + self.order["max_runtime_s"])
        self._sampler.stop()
        if reason:
            self._end_tree()
        status, peak_rss_bytes = self._reaped or (0, 0)
        end = self._describe(reason, status, started, _oom_kills() > oom_before)
        end["peak_rss_bytes"] = peak_rss_bytes
        self._hold()
        _write_file(self.job.file("end.json"), json.dumps(end).encode())

    def _hold(self) -> None:
        # Before the end can be read: a client that reads it may set a deadline of its own, which must stand.
        try:
            hold(self.order["run_id"], max(self.order["hold_s"], HOLD_S_LEAST))
        except Exception:  # noqa: BLE001 - whatever it is, the armed deadline stays, and the end must be told
            return

    def _listen(self) -> None:
        import signal

        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        # A stop that came before anyone listened is in its file.

    def _start(self) -> None:
        order = {name: self.order[name] for name in ("run_id", "key", "secrets", "pickler")}
        outputs = [
            os.open(self.job.file(log), os.O_WRONLY | os.O_APPEND)
            for log in ("stdout.log", "stderr.log")
        ]
        environment = {
            **_login_environment(self.order["run_id"]),
            "PYTHONUNBUFFERED": "1",
            **self.order["variables"],
            "DAYFLY_RUN": self.order["run_id"],
            "DAYFLY_OUTPUT_DIR": self.job.file("outputs"),
            "DAYFLY_CHECKPOINT_DIR": self.job.file("checkpoints"),
        }
        command = _launch(self.order["python"], (), "run", self.job.path)
        folder, streams = self.job.file("work"), (outputs[0], outputs[1])
        self._pid = _spawn_with_order(command, environment, folder, streams, order=order)
        for descriptor in outputs:
            os.close(descriptor)
        _write_file(self.job.file("process.json"), json.dumps({"pid": self._pid}).encode())

    def _wait(self, deadline: float) -> str:
        """Wait for the job's end; give why it has to be ended, or "" where it ended by itself."""
        while True:
            if self._reap():
                return ""
            if os.path.exists(self.job.file("stop")):
                with open(self.job.file("stop"), encoding="ascii") as file:
                    return file.read()
            if self._sampler.idle:
                return "idle"
            left = deadline - _clock()
            if left <= 0:
                return "deadline"
            self._sleep(min(left, 60.0))

    def _rouse(self) -> None:
        os.write(self._woken, b"\0")

    def _sleep(self, seconds: float) -> None:
        from select import select

        select([self._wake], [], [], seconds)
        try:
            os.read(self._wake, 4096)
        except BlockingIOError:
            return

    def _reap(self) -> bool:
        """Collect every child that has ended; tell whether the job's own process is among them."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            if pid == self._pid:
                unit = 1 if sys.platform == "darwin" else 1024
                self._reaped = (status, usage.ru_maxrss * unit)
        return self._reaped is not None

    def _tree(self) -> set[int]:
        """Every process of the job: below us, in its session, or with its mark in the environment."""
        table = _process_table()
        found = _descendants({os.getpid()}, table)
        found |= {pid for pid, (_, session) in table.items() if session == self._pid}
        found |= _carriers(self.job.mark()) & set(table)
        return found - {os.getpid()} - self._sampler.own

    def _end_tree(self) -> None:
        """SIGTERM to the whole tree, the grace, then SIGKILL until nothing of it is left."""
        import signal

        _send_signal(self._tree(), signal.SIGTERM)
        grace_over = _clock() + self.order["grace_s"]
        while not (self._reap() and not self._tree()) and _clock() < grace_over:
            self._sleep(0.02)
        # A process can fork while it is being looked for; a hundred rounds end all but the unkillable.
        for _ in range(100):
            tree = self._tree()
            if self._reap() and not tree:
                return
            _send_signal(tree, signal.SIGKILL)
            time.sleep(0.02)

    def _describe(self, reason: str, status: int, started: float, oom: bool) -> dict[str, Any]:
        signalled = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0
        has_result = os.path.exists(self.job.file("result.sealed"))
        # A function that took the deadline as its cue to return has finished; a stop was somebody's wish.
        detail = self._sampler.idle if reason == "idle" else ""
        if reason and not (reason in ("deadline", "idle") and has_result):
            return _end_record(reason, code=code, signal=signalled, started=started, detail=detail)
        if has_result:
            how = "finished"
            return _end_record(how, code=code, signal=signalled, started=started, detail=detail)
        if signalled:
            return _end_record(
                "killed", signal=signalled, out_of_memory=oom and signalled == 9, started=started
            )
        return _end_record("exited", code=code, started=started)


def _oom_kills() -> int:
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


def _adopt_orphans() -> None:
    """Become the parent of what the job double-forks, so that it can be found even with an empty environment."""
    if sys.platform != "linux":
        return
    try:
        import ctypes

        set_child_subreaper = 36
        ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        return  # What carries the job's mark is found all the same.


def supervise(path: str) -> None:
    """Detach, then guard the job in `path` to its end."""
    order = _take_order()
    if os.fork():
        os._exit(0)
    os.umask(0o077)
    Supervisor(JobFolder(path), order).supervise()


# ---------------------------------------------------------------------------------------------- samples

SAMPLES = "samples.jsonl"
SAMPLE_EVERY_S = 5.0
# Above the first the file is thinned to the second; the newest, an hour's, are never thinned.
SAMPLES_BYTES_MOST, SAMPLES_BYTES_LEFT, SAMPLES_WHOLE = 768 << 10, 512 << 10, 720
# What the function's caller has asked for: percent, 0 for nothing, and seconds.
IDLE_ORDERS = ("gpu_floor_percent", "gpu_window_s")
# Of one core, at most; where a look costs more than usual, the next comes later.
_SAMPLING_SHARE = 0.004


def read_samples(data: bytes) -> list[dict[str, Any]]:
    """Give the samples of a file, each number once; a line that a full disk has torn is passed over.

    Each is of the `s` seconds before the time `t`. It has the number `n` and stands for `k` samples, the last of which
    had that number: `k` is a power of two and a file's blocks lie as in a binary tree, so that of two blocks with a
    number in common one holds the other.
    """
    found: list[dict[str, Any]] = []
    for line in data.splitlines():
        try:
            sample = json.loads(line)
            first = sample["n"] - sample["k"] + 1
        except (ValueError, KeyError, TypeError):
            continue
        while found and found[-1]["n"] >= first:
            found.pop()
        found.append(sample)
    return found


def sample_line(sample: Mapping[str, Any]) -> bytes:
    """Give a sample as its line in a file."""
    return json.dumps(sample, separators=(",", ":")).encode() + b"\n"


def thin_samples(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge the finest of the older neighbours until all fit, so that a long past has one resolution."""
    old, new = samples[:-SAMPLES_WHOLE], samples[-SAMPLES_WHOLE:]
    while sum(len(sample_line(sample)) for sample in old + new) > SAMPLES_BYTES_LEFT:
        pairs = [k for k in map(_block_of_both, old, old[1:]) if k]
        if not pairs:
            break
        old = _merge_blocks(old, min(pairs))
    return old + new


def _block_of_both(one: Mapping[str, Any], other: Mapping[str, Any]) -> int:
    """Give the size of the two blocks where they are the halves of a larger one, else 0."""
    size = int(one["k"])
    halves = (
        other["k"] == size and other["n"] == one["n"] + size and (other["n"] + 1) % (2 * size) == 0
    )
    return size if halves else 0


def _merge_blocks(samples: list[dict[str, Any]], size: int) -> list[dict[str, Any]]:
    merged: list[dict[str, Any]] = []
    for sample in samples:
        if merged and _block_of_both(merged[-1], sample) == size:
            merged[-1] = merge_samples(merged[-1], sample)
        else:
            merged.append(sample)
    return merged


def merge_samples(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Give one sample for two: means of what is a rate, the most of what is a size, the least of what is free."""
    seconds = one["s"] + other["s"]

    def mean(a: float, b: float) -> float:
        return round((a * one["s"] + b * other["s"]) / seconds, 3) if seconds else b

    def mean_known(a: float | None, b: float | None) -> float | None:
        return mean(a, b) if a is not None and b is not None else b if a is None else a

    gpus = one["gpus"] or other["gpus"]
    if len(one["gpus"]) == len(other["gpus"]):
        gpus = [
            [mean_known(a[0], b[0]), max(a[1], b[1]), b[2]]
            for a, b in zip(one["gpus"], other["gpus"])  # noqa: B905 - not in Python 3.8
        ]
    return {
        **other,
        "k": one["k"] + other["k"],
        "s": round(seconds, 3),
        "cpu": mean(one["cpu"], other["cpu"]),
        "busy": mean(one["busy"], other["busy"]),
        **{name: max(one[name], other[name]) for name in ("rss", "processes", "used", "memory")},
        "disk": min(one["disk"], other["disk"]),
        "gpus": gpus,
    }


class SampleFile:
    """Samples on a disk, appended one by one, and thinned where they become too many."""

    def __init__(self, path: str) -> None:
        self._path = path

    def append(self, lines: bytes) -> None:
        """Write whole lines behind what is there.

        Raises:
            OSError: the disk has no room for them; what it took of them spoils no other line.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            torn = size and os.pread(descriptor, 1, size - 1) != b"\n"
            _write_all(descriptor, b"\n" + lines if torn else lines)
        finally:
            os.close(descriptor)
        if size + len(lines) > SAMPLES_BYTES_MOST:
            self._thin()

    def _thin(self) -> None:
        left = thin_samples(self.read())
        _write_file(self._path, b"".join(map(sample_line, left)))

    def read(self) -> list[dict[str, Any]]:
        """Give what is there."""
        try:
            with open(self._path, "rb") as file:
                return read_samples(file.read())
        except FileNotFoundError:
            return []


class SampleReader:
    """Reads what a job's sampler writes, by number: the file may be thinned at any time."""

    EVERY_S = 1.0

    def __init__(self, path: str, since: int) -> None:
        self._path, self._since = path, since
        self._place = (0, 0)  # inode and offset
        self._looked = 0.0

    def due(self, now: float, last: bool) -> Iterator[tuple[int, bytes]]:
        """As `unread`, but only once in a while."""
        if last or now - self._looked >= self.EVERY_S:
            self._looked = now
            yield from self.unread()

    def unread(self) -> Iterator[tuple[int, bytes]]:
        """Give the lines after the last number as one piece, with the number of the last of them; none where none came."""
        try:
            file = open(self._path, "rb")  # noqa: SIM115 - closed below
        except FileNotFoundError:
            return
        with file:
            inode = os.fstat(file.fileno()).st_ino
            offset = self._place[1] if inode == self._place[0] else 0
            file.seek(offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._place = (inode, offset + len(whole))
        new = [sample for sample in read_samples(whole) if sample["n"] > self._since]
        if new:
            self._since = new[-1]["n"]
            yield self._since, b"".join(map(sample_line, new))


class Sampler:
    """Writes down every few seconds what the job and its machine use, and sees where a GPU idles.

    In a thread: a disk or a driver that does not answer holds up nothing but the samples.
    """

    def __init__(self, job: JobFolder, order: Mapping[str, Any], rouse: Callable[[], None]) -> None:
        self._file, self._folder = SampleFile(job.file(SAMPLES)), job.path
        self._rouse = rouse
        self._floor = IdleGpus(*(order.get(name, 0.0) for name in IDLE_ORDERS))
        # Four readings at least in a window.
        self._every_s = self._floor.every_s(SAMPLE_EVERY_S if sys.platform != "darwin" else 10.0)
        self._gpus = GpuWatch(self._every_s)
        self._complained = False
        self._thread: Thread | None = None
        self._meter: ProcMeter | PsMeter | None = None
        self._number = 0
        self._last: dict[str, Any] | None = None
        self.idle = ""

    @property
    def own(self) -> set[int]:
        """Processes that are no part of the job."""
        return self._gpus.processes

    def start(self, pid: int) -> None:
        """Begin; the job's own process is `pid`, this one is above it."""
        import threading

        self._ended = threading.Event()
        thread = threading.Thread(target=self._work, args=(pid,), name="sampler", daemon=True)
        self._at = _clock()
        try:
            thread.start()
            self._thread = thread
        except RuntimeError as error:  # This user may have no more of them.
            self._complain(error)

    def stop(self) -> None:
        """End, with a last sample of what has been used since the one before."""
        if self._thread is not None:
            self._ended.set()
            self._thread.join(1.0)

    def _work(self, pid: int) -> None:
        self._guarded(lambda: self._measure(pid))
        pause = min(1.0, self._every_s)
        while not self._ended.wait(pause):
            used = time.thread_time()
            self._guarded(self._take)
            pause = max(self._every_s, (time.thread_time() - used) / _SAMPLING_SHARE)
        self._gpus.close()
        self._guarded(self._take_last)

    def _measure(self, pid: int) -> None:
        self._meter = meter(os.getpid(), pid, self._folder)

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - a full disk, a driver of another version: the job goes on
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        """Say once on the supervisor's own log why there are none."""
        if not self._complained:
            os.write(2, f"dayfly: no sample: {type(error).__name__}: {error}\n".encode())
        self._complained = True

    def _take(self) -> None:
        gpus = self._gpus.read(_clock())
        self.idle = self.idle or self._floor.idle(_clock(), gpus)
        if self.idle:
            self._rouse()
        if self._meter is not None:
            self._write({**self._meter.read(self.own), "gpus": gpus})

    def _take_last(self) -> None:
        """Nothing of the job is left to be looked at but the time that it took."""
        if self._last is not None and self._meter is not None:
            self._write({**self._last, **self._meter.read_ended()})

    def _write(self, found: Mapping[str, Any]) -> None:
        now = _clock()
        head = {
            "n": self._number,
            "k": 1,
            "t": round(time.time(), 2),
            "s": round(now - self._at, 3),
        }
        self._last = {**found, **head}
        self._number, self._at = self._number + 1, now
        self._file.append(sample_line(self._last))


class ProcMeter:
    """What a tree of processes and its machine use, from /proc.

    Args:
        root: the process above the tree, not part of it; what its ended children took counts.
        session: of the tree.
        folder: on the disk whose room is told.
    """

    def __init__(self, root: int, session: int, folder: str) -> None:
        self._root, self._session, self._folder = root, session, folder
        self._tick_s = 1.0 / os.sysconf("SC_CLK_TCK")
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")
        self._cores = os.cpu_count() or 1
        self._at, self._took_s = _clock(), 0.0
        self._machine = self._machine_ticks()

    def read(self, without: set[int]) -> dict[str, Any]:
        """Give cores in use and bytes by the tree, share of the machine's cores, bytes of memory and of free disk."""
        table = self._table()
        parents = {pid: (parent, session) for pid, (parent, session, *_) in table.items()}
        tree = _descendants({self._root}, parents)
        tree |= {pid for pid, (_, session) in parents.items() if session == self._session}
        tree -= without | {self._root}
        took_s = sum(table[pid][2] + table[pid][3] for pid in tree) + self._of_ended_children()
        rss = sum(table[pid][4] for pid in tree)
        used, memory = self._memory()
        return {
            "cpu": self._cores_in_use(took_s),
            "rss": rss,
            "processes": sum(1 for pid in tree if table[pid][5]),
            "busy": self._busy(),
            "cores": self._cores,
            "used": used,
            "memory": memory,
            "disk": _free_bytes(self._folder),
        }

    def read_ended(self) -> dict[str, Any]:
        """Give what the tree took since the last reading, where nothing of it is left."""
        took_s = self._of_ended_children()
        return {"cpu": self._cores_in_use(took_s)} if took_s >= self._took_s else {}

    def _cores_in_use(self, took_s: float) -> float:
        now, before, self._took_s = _clock(), self._took_s, took_s
        span_s, self._at = now - self._at, now
        # A process that ends while it is being looked at is seen twice, or not at all.
        share = (took_s - before) / span_s if span_s > 0 else 0.0
        return round(min(max(share, 0.0), float(self._cores)), 3)

    def _of_ended_children(self) -> float:
        fields = self._fields(self._root)
        return (int(fields[13]) + int(fields[14])) * self._tick_s if fields else self._took_s

    def _table(self) -> dict[int, tuple[int, int, float, float, int, bool]]:
        """Give parent, session, seconds of its own and of its ended children, bytes, and whether it lives, of every process."""
        table = {}
        for name in os.listdir("/proc"):
            fields = self._fields(int(name)) if name.isdigit() else []
            if fields:
                own, ended = (int(fields[n]) + int(fields[n + 1]) for n in (11, 13))
                table[int(name)] = (
                    int(fields[1]),
                    int(fields[3]),
                    own * self._tick_s,
                    ended * self._tick_s,
                    int(fields[21]) * self._page_bytes,
                    fields[0] not in (b"Z", b"X"),
                )
        return table

    @staticmethod
    def _fields(pid: int) -> list[bytes]:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                return file.read().rpartition(b")")[2].split()
        except OSError:
            return []

    @staticmethod
    def _machine_ticks() -> tuple[int, int]:
        """Give the ticks of all cores, and those in which they did nothing."""
        with open("/proc/stat", "rb") as file:
            ticks = [int(field) for field in file.readline().split()[1:9]]
        return sum(ticks), ticks[3] + ticks[4]

    def _busy(self) -> float:
        (all_before, idle_before), self._machine = self._machine, self._machine_ticks()
        total, idle = self._machine[0] - all_before, self._machine[1] - idle_before
        return round(min(max(1.0 - idle / total, 0.0), 1.0), 3) if total > 0 else 0.0

    @staticmethod
    def _memory() -> tuple[int, int]:
        with open("/proc/meminfo", "rb") as file:
            rows = dict(line.split()[:2] for line in file)
        total = int(rows[b"MemTotal:"]) << 10
        return total - (int(rows.get(b"MemAvailable:", rows[b"MemFree:"])) << 10), total


class PsMeter:
    """As ProcMeter, where there is no /proc: on macOS, from ps and vm_stat.

    There the time of a process that has ended is lost, and the machine's share is what ps has averaged over a minute.
    """

    def __init__(self, root: int, session: int, folder: str) -> None:
        self._root, self._session, self._folder = root, session, folder
        self._cores = os.cpu_count() or 1
        self._memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self._at = _clock()
        self._took: dict[int, float] = {}

    def read(self, without: set[int]) -> dict[str, Any]:
        columns = "pid=,ppid=,pgid=,rss=,time=,pcpu=,state="
        listing = _Asked(["/bin/ps", "-axo", columns]).wait(10.0).words
        pages = _Asked(["/usr/bin/vm_stat"]).wait(10.0).words
        return {
            **self.in_listing(listing, without),
            "used": self._used(pages),
            "disk": _free_bytes(self._folder),
        }

    def in_listing(self, listing: str, without: set[int]) -> dict[str, Any]:
        """Give all that `ps` tells of the tree and the machine."""
        rows = [line.split(None, 6) for line in listing.splitlines()]
        rows = [row for row in rows if len(row) == 7]
        parents = {int(row[0]): (int(row[1]), int(row[2])) for row in rows}
        tree = _descendants({self._root}, parents)
        tree |= {pid for pid, (_, group) in parents.items() if group == self._session}
        tree -= without | {self._root}
        now, before = _clock(), self._took
        self._took = {int(row[0]): _ps_seconds(row[4]) for row in rows if int(row[0]) in tree}
        span_s, self._at = now - self._at, now
        took_s = sum(max(0.0, took - before.get(pid, 0.0)) for pid, took in self._took.items())
        share = sum(float(row[5].replace(",", ".")) for row in rows) / 100 / self._cores
        return {
            "cpu": round(min(took_s / span_s, float(self._cores)), 3) if span_s > 0 else 0.0,
            "rss": sum(int(row[3]) << 10 for row in rows if int(row[0]) in tree),
            "processes": sum(1 for row in rows if int(row[0]) in tree and row[6][0] != "Z"),
            "busy": round(min(share, 1.0), 3),
            "cores": self._cores,
            "memory": self._memory,
        }

    def read_ended(self) -> dict[str, Any]:
        return {}

    def _used(self, pages: str) -> int:
        """Give the bytes that are neither free nor could be at once."""
        size, free = 4096, 0
        for line in pages.splitlines():
            name, _, value = line.partition(":")
            if "page size of" in line:
                size = int(line.partition("page size of")[2].split()[0])
            elif name in ("Pages free", "Pages inactive", "Pages speculative"):
                free += int(value.strip(" ."))
        return max(0, self._memory - free * size)


def meter(root: int, session: int, folder: str) -> ProcMeter | PsMeter:
    """Give the meter of this platform."""
    kind = ProcMeter if os.path.isdir("/proc/self") else PsMeter
    return kind(root, session, folder)


def _ps_seconds(text: str) -> float:
    """Read "1:02.50", "2:03:04" or "1-02:03:04"."""
    days, _, clock = text.rpartition("-")
    seconds = 0.0
    for part in clock.split(":"):
        seconds = seconds * 60 + float(part.replace(",", "."))
    return seconds + (int(days) * 86400 if days else 0)


def _free_bytes(folder: str) -> int:
    statistics = os.statvfs(folder)
    return statistics.f_bavail * statistics.f_frsize


class GpuWatch:
    """What each GPU does, from one nvidia-smi that goes on telling it.

    One that ends is started again; one that lives and says nothing is ended, and from then on asked anew each time.
    """

    PATIENCE_S = 60.0
    AGAIN_S = 30.0

    def __init__(self, every_s: float) -> None:
        self._command = _smi_command("index,utilization.gpu,memory.used,memory.total")
        self._loop = [f"--loop-ms={max(1, int(every_s * 1000))}"]
        self._process: Popen[bytes] | None = None
        self._ending: list[Popen[bytes]] = []
        self._started = self._heard = -self.PATIENCE_S
        self._rest = b""
        # When it was heard of, its readings since the last look, and MiB used and in all.
        self._rows: dict[int, tuple[float, list[float], int, int]] = {}

    @property
    def processes(self) -> set[int]:
        """The tool's own, also those that do not end."""
        tools = [self._process, *self._ending]
        return {tool.pid for tool in tools if tool is not None}

    def read(self, now: float) -> list[list[Any]]:
        """Give percent in use (None where that is not told), MiB used and MiB in all of each GPU that is heard of."""
        if not self._command:
            return []
        former, self._rows = self._rows, {}
        self._listen(now)
        self._see_to_it(now)
        for index, row in former.items():
            # Its rhythm is not quite ours: what was told last stands for a while.
            if now - row[0] <= self.PATIENCE_S:
                self._rows.setdefault(index, row)
        return [
            [round(sum(shares) / len(shares), 1) if shares else None, used, total]
            for _, (_, shares, used, total) in sorted(self._rows.items())
        ]

    def _listen(self, now: float) -> None:
        """Take the whole lines that wait in the pipe."""
        if self._process is None or self._process.stdout is None:
            return
        try:
            data = os.read(self._process.stdout.fileno(), 1 << 20)
        except BlockingIOError:
            return
        if not data:
            self._drop()
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line.decode(errors="replace"), now)

    def _take(self, line: str, now: float) -> None:
        parts = [part.strip() for part in line.split(",")]
        if len(parts) != 4 or not parts[0].isdigit():
            return
        self._heard = now
        shares = self._rows.get(int(parts[0]), (now, [], 0, 0))[1]
        # A part of a GPU (MIG) is told without it, as "[N/A]".
        shares += [float(parts[1])] if parts[1].isdigit() else []
        used, total = (int(part) if part.isdigit() else 0 for part in parts[2:])
        self._rows[int(parts[0])] = (now, shares, used, total)

    def _see_to_it(self, now: float) -> None:
        self._ending = [tool for tool in self._ending if tool.poll() is None]
        if self._process is not None:
            if now - max(self._heard, self._started) <= self.PATIENCE_S:
                return
            self._loop = []
            self._drop()
        if now - self._started >= self.AGAIN_S:
            self._start(now)

    def _start(self, now: float) -> None:
        from subprocess import DEVNULL, PIPE, Popen

        self._started, self._rest = now, b""
        command = self._command + self._loop
        try:
            self._process = Popen(command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL)
        except OSError:
            return  # Gone since; it is looked for again.
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)

    def _drop(self) -> None:
        """Let go of the tool; one that waits in the driver for a broken GPU is not waited for."""
        process, self._process = self._process, None
        if process is not None and process.stdout is not None:
            process.stdout.close()
            process.kill()
            self._ending.append(process)

    def close(self) -> None:
        """End it, and wait a moment for that."""
        from subprocess import TimeoutExpired

        self._drop()
        for tool in self._ending:
            try:
                tool.wait(0.3)
            except TimeoutExpired:
                continue
        self._ending = [tool for tool in self._ending if tool.poll() is None]


class IdleGpus:
    """Tells when a GPU has stayed under a floor for a whole window: not one reading in all that time reached it.

    What is not known is not idle: where the readings stop, or the machine slept, the window begins anew.
    """

    def __init__(self, floor_percent: float, window_s: float) -> None:
        self._floor, self._window_s = floor_percent, window_s
        self._since: dict[int, tuple[float, float]] = {}  # when it began, and the most since
        self._at = 0.0

    def every_s(self, usual_s: float) -> float:
        """Give the seconds between two readings: four of them lie in a window."""
        return min(usual_s, self._window_s / 4) if self._floor else usual_s

    def idle(self, now: float, gpus: list[list[Any]]) -> str:
        """Take a reading, and give in words which GPU idles, "" where none does."""
        if not self._floor:
            return ""
        if now - self._at > max(GpuWatch.PATIENCE_S, self._window_s / 2):
            self._since.clear()
        self._at = now
        known = {number: gpu[0] for number, gpu in enumerate(gpus) if gpu[0] is not None}
        low = {number: share for number, share in known.items() if share < self._floor}
        self._since = {
            number: (since, max(most, low[number]))
            for number, (since, most) in self._since.items()
            if number in low
        }
        for number, share in low.items():
            since, most = self._since.setdefault(number, (now, share))
            if now - since >= self._window_s:
                return (
                    f"GPU {number} of {len(gpus)} did not reach {self._floor:g} % in {self._window_s / 60:g} min"
                    f" (its best reading was {most:g} %)"
                )
        return ""


# ---------------------------------------------------------------------------------------------- run


class _Stopping:
    """Turns the first SIGTERM into KeyboardInterrupt, so that `finally` and `with` of the function run."""

    def __init__(self) -> None:
        import signal

        self.asked = False
        self._pid = os.getpid()
        signal.signal(signal.SIGTERM, self._raise)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        import signal

        if (
            os.getpid() != self._pid
        ):  # A forked child of the function: it ends as if nobody had listened.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        elif not self.asked:
            self.asked = True
            raise KeyboardInterrupt("the run was stopped")


class Caller:
    """Loads a function, calls it, and writes down what came of that: for a job of one call, and for each warm call."""

    def __init__(
        self,
        stopping: _Stopping,
        gpus: Callable[[], tuple[list[str], str]],
        opened: Callable[[], Any],
    ) -> None:
        """`gpus` gives names and driver, `opened` the file that an outcome is written to."""
        self._stopping, self._gpus, self._opened = stopping, gpus, opened
        self._began = time.monotonic()

    @staticmethod
    def take_sources(sources: Mapping[str, str]) -> None:
        """Have tracebacks show the lines of files that are not here."""
        import linecache

        for name, text in sources.items():
            linecache.cache[name] = (len(text), None, text.splitlines(True), name)

    def load(self, imports: Iterable[str], pickled: Any) -> tuple[dict[str, Any] | None, Any]:
        """Unpickle from a file what is authentic; give it, or describe why it cannot be loaded, with the exception itself.

        A large buffer is read to where it stays: it is in memory once.
        """
        import pickle
        from importlib.util import find_spec

        missing = [name for name in imports if name not in sys.modules and not find_spec(name)]
        if missing:
            return {"outcome": "missing_import", "modules": missing}, None
        try:
            return None, pickle.load(pickled)  # noqa: S301 - unsealed with this run's key
        except ModuleNotFoundError as error:
            text = self._traceback(error)
            return {"outcome": "missing_import", "modules": [error.name], "traceback": text}, None
        except Exception as error:  # noqa: BLE001 - whatever a class does when it is loaded is the user's to see
            return self._raised(error), error

    def call(
        self, function: Callable[..., Any], arguments: Iterable[Any], named: Mapping[str, Any]
    ) -> tuple[dict[str, Any], Any]:
        """Call the function, and describe what came of it together with the value or exception itself."""
        try:
            return {"outcome": "value"}, function(*arguments, **named)
        except SystemExit as end:
            return self._exited(end)
        except BaseException as error:
            if self._stopping.asked and isinstance(error, KeyboardInterrupt):
                self._let_checkpoint(function)
                raise
            return self._raised(error), error

    def _let_checkpoint(self, function: Any) -> None:
        """A callable that can keep its state is asked to, once its call has been interrupted."""
        from functools import partial

        while isinstance(function, partial):
            # A coroutine function is the argument of what awaits it.
            ours = getattr(function.func, "__name__", "") == "run_coroutine" and function.args
            function = function.args[0] if ours else function.func
        owner = getattr(function, "__self__", function)
        checkpoint = getattr(owner, "checkpoint", None)
        if not callable(checkpoint):
            return
        try:
            checkpoint()
        except Exception as error:  # noqa: BLE001 - its own trouble is the user's to see, and changes no end
            sys.stderr.write(self._traceback(error))

    def _exited(self, end: SystemExit) -> tuple[dict[str, Any], Any]:
        if end.code is None or (isinstance(end.code, int) and end.code == 0):
            return {"outcome": "value"}, None
        if isinstance(end.code, int):
            return {"outcome": "exited", "code": end.code, "text": str(end.code)}, None
        # As the interpreter does for sys.exit("message").
        text = str(end.code)
        sys.stderr.write(text + "\n")
        return {"outcome": "exited", "code": 1, "text": text[:TEXT_CHARACTERS]}, None

    def _raised(self, error: BaseException) -> dict[str, Any]:
        return {"outcome": "raised", "text": _repr(error), "traceback": self._traceback(error)}

    @staticmethod
    def _traceback(error: BaseException | None) -> str:
        """Format it with causes and contexts, without the frames of this file."""
        import traceback

        if error is None:
            return ""
        trace: TracebackType | None = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        return "".join(traceback.format_exception(type(error), error, trace))

    def leave(self, outcome: dict[str, Any], value: Any) -> dict[str, Any]:
        """Write what came of it, and give its header."""
        outcome = {**self._common(), "type": _type_name(value), **outcome}
        pickling = outcome["outcome"] in ("value", "raised")
        if pickling:
            if self._write(outcome, value):
                return outcome
            kind = "unpicklable_value" if outcome["outcome"] == "value" else "unpicklable_exception"
            reason = outcome["traceback"] or self._pickling_traceback
            outcome.update(outcome=kind, text=_repr(value), traceback=reason)
        self._write(outcome)
        return outcome

    _pickling_traceback = ""

    def _write(self, outcome: Mapping[str, Any], *values: Any) -> bool:
        """Write the result; tell whether the value, if one is given, could be pickled."""
        writer = self._opened()
        writer.write(json.dumps(outcome).encode() + b"\n")
        try:
            for value in values:
                _pickle(value, writer, check=outcome["outcome"] == "raised")
        except Exception as error:  # noqa: BLE001 - pickling runs code of the user's classes
            self._pickling_traceback = self._traceback(error)
            writer.discard()
            return False
        writer.commit()
        return True

    def _common(self) -> dict[str, Any]:
        import resource
        import threading

        gpus, driver = self._gpus()
        threads = [
            thread.name
            for thread in threading.enumerate()
            if thread is not threading.main_thread() and not thread.daemon
        ]
        if threads:
            self._threads_run_on(", ".join(threads))
        unit = 1 if sys.platform == "darwin" else 1024
        return {
            "type": "",
            "text": "",
            "traceback": "",
            "modules": [],
            "code": 0,
            "threads": threads,
            "provenance": {
                "host": os.uname().nodename,
                "pid": os.getpid(),
                "python": sys.version.split()[0],
                "gpu": gpus,
                "driver": driver,
            },
            "seconds": time.monotonic() - self._began,
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        }

    def _threads_run_on(self, names: str) -> None:
        sys.stderr.write(
            f"dayfly: the function returned while threads were running, ended: {names}\n"
        )


class Runner(Caller):
    """Runs one task: calls its function and leaves what came of it as a sealed result."""

    def __init__(self, job: JobFolder, order: Mapping[str, Any]) -> None:
        self.job, self.order = job, order
        self._run_id = order["run_id"]
        self._key = bytes.fromhex(order["key"])
        super().__init__(_Stopping(), _GpuQuery().answer, self._result)

    def _result(self) -> SealedWriter:
        return SealedWriter(self.job.file("result.sealed"), self._key, self._run_id, RESULT_SEQ)

    def run(self) -> int:
        """Run the task and give the exit code of the process."""
        task = open_sealed(self._key, self._run_id, TASK_SEQ, self.job.file("task.sealed"))
        header = json.loads(task.readline())
        here = "%d.%d" % sys.version_info[:2]  # noqa: UP031 - as everywhere here, 3.8 must read it
        if header["python"] != here:
            os.write(
                2,
                f"dayfly: the function was pickled by Python {header['python']}, this is {here}\n".encode(),
            )
            return 78
        self._prepare()
        if "warm" in header:
            task.close()
            return Zygote(self.job, self.order, header["warm"], self._gpus).serve()
        self.take_sources(header["sources"])
        try:
            outcome, value = self._outcome(header["imports"], task)
        except KeyboardInterrupt:
            if not self._stopping.asked:
                raise
            sys.stderr.write(self._traceback(sys.exc_info()[1]))
            return 143
        self.leave(outcome, value)
        return 0

    def _prepare(self) -> None:
        pickler = self.order["pickler"]
        sys.argv = [""]
        # The agent's own folder was put first by the launcher; the pickler must win over one of the environment.
        sys.path[0] = pickler
        import cloudpickle  # noqa: F401 - from here on it is the one that was loaded

        sys.path[0] = ""
        sys.path.append(pickler)

    def _outcome(self, imports: Iterable[str], task: Any) -> tuple[dict[str, Any], Any]:
        with task:
            failure, loaded = self.load(imports, task)
        return (failure, loaded) if failure is not None else self.call(*loaded)


def _pickle(value: Any, writer: Any, check: bool) -> None:
    import pickle

    import cloudpickle

    if not check:
        cloudpickle.Pickler(writer, protocol=5).dump(value)
        return
    # An exception whose class wants arguments that it did not hand to its base pickles, and fails at loading.
    data = cloudpickle.dumps(value, protocol=5)
    if type(pickle.loads(data)) is not type(value):  # noqa: S301 - our own bytes of a moment ago
        raise TypeError(f"{type(value).__qualname__} does not survive pickling")
    writer.write(data)


def _type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _repr(value: Any) -> str:
    try:
        return repr(value)[:TEXT_CHARACTERS]
    except Exception as error:  # noqa: BLE001 - a repr is the user's code too
        return f"<{_type_name(value)}, whose repr raised {type(error).__name__}>"


def _end_process(code: int) -> None:
    """Run what was registered for exit, within a bound, and end whatever threads are left."""
    import atexit
    import threading

    last = threading.Timer(30, os._exit, (code,))
    last.daemon = True
    last.start()
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def run(path: str) -> None:
    """Run the job in `path` in this process, and end it."""
    import faulthandler

    order = _take_order()
    os.umask(0o077)
    os.environ.update(order["secrets"])
    faulthandler.enable()
    _volunteer_for_oom()
    code = 1
    try:
        code = Runner(JobFolder(path), order).run()
    except BaseException:  # noqa: BLE001 - said on the job's stderr, and the supervisor reports the code
        sys.excepthook(*sys.exc_info())
    _end_process(code)


def _volunteer_for_oom(score: int = 500) -> None:
    """When memory runs out the kernel should take the job, not its supervisor or the SSH server."""
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(score))
    except OSError:
        return


# ---------------------------------------------------------------------------------------------- warm calls
#
# A run whose task says "warm" has a zygote in the place of its runner, under the same supervisor: deadline, stop, log,
# end and hold are those of any job. The zygote listens on a unix socket in the job's folder, and forks a child for each
# call; a child that may be used again takes the next one. Each `serve` whose client asks for it carries parcels (a
# length, then what `encode` makes) between that client and the socket; the latest client is the one that counts.
#
#   client -> zygote   {"calls": [{n, size, blob, function, group, timeout_s}], "ack": [n], "stop": [n], "close": true}
#                      and the sealed calls, one after the other; a large one is content by digest instead (`blob`)
#   zygote -> client   {"hello": {slots, pid}}, once a client is attached
#                      {"results": [{n, size, file, out, err, queued_s, took_s}]} and, for each, the sealed result (none
#                      where it lies in a file, for `get`), and the ends of what the call has printed on both streams
#   zygote -> child    {"blobs": folder, "calls": [{n, size, blob}], "last": bool, "device": text}, {"load": function}
#   child -> zygote    {"loaded": function, ...}, {"n", "size", "file", "out", "err", "clean", "took_s"} and the result
#
# A call is known by its number, which begins with 1 and is never used again: what is sent twice runs once, and its
# result is kept, and sent to each new client, until it is acknowledged. Call n is sealed as number 2n of the run, its
# result as 2n + 1, so that neither can stand for another. It names its function by the SHA-256 of the content that
# holds it, so that a changed function, or one with a changed global, is another one and gets a child of its own.
# The zygote loads no function and calls none. It ends when it is told to close, and when it has had nothing to do and
# no client for `linger_s`: what was not acknowledged by then is in the result of the run.

WARM_INLINE_BYTES = 256 << 10
WARM_OUTPUT_BYTES = 16 << 10
# A line that breaks again and again should have carried some of them whole before it does.
_PARCEL_BYTES = 32 << 10
_PREFIX = struct.Struct(">I")
CALL_PREFIX = struct.Struct(">QQ")


def call_seq(number: int) -> int:
    """Where a call stands in the run's sequence."""
    return 2 * number


def call_result_seq(number: int) -> int:
    """Where the result of a call stands in the run's sequence."""
    return 2 * number + 1


def parcel(payload: bytes) -> bytes:
    """Put the length in front, for a stream."""
    return _PREFIX.pack(len(payload)) + payload


class Inbox:
    """Takes whole parcels out of what arrives."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Give each taken apart."""
        return map(decode, self.payloads(data))

    def payloads(self, data: bytes) -> Iterator[bytes]:
        """Give each as it is."""
        self._held += data
        while len(self._held) >= _PREFIX.size:
            (length,) = _PREFIX.unpack_from(self._held)
            end = _PREFIX.size + length
            if len(self._held) < end:
                return
            payload = bytes(memoryview(self._held)[_PREFIX.size : end])
            del self._held[:end]
            yield payload


class Peer:
    """One end of a unix socket that nobody waits for: what it does not take at once stays in memory."""

    def __init__(self, channel: Any) -> None:
        channel.setblocking(False)
        self.channel, self.over = channel, False
        self._inbox, self._held = Inbox(), bytearray()

    @property
    def full(self) -> bool:
        return bool(self._held)

    def send(self, head: Mapping[str, Any], body: bytes = b"") -> None:
        self._held += parcel(encode(head, body))
        self.flush()

    def flush(self) -> None:
        try:
            while self._held and not self.over:
                sent = self.channel.send(memoryview(self._held)[: 1 << 20])
                del self._held[:sent]
        except BlockingIOError:
            return
        except OSError:
            self.over = True

    def receive(self) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Give every parcel that is whole; `over` is set where the other end has gone."""
        while not self.over:
            try:
                data = self.channel.recv(1 << 18)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            self.over = not data
            yield from self._inbox.feed(data)

    def close(self) -> None:
        self.over = True
        self.channel.close()


def in_folder(folder: str, act: Callable[[], Any]) -> Any:
    """Do something with a name in a folder: the whole path of a unix socket may be no longer than 107 bytes."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        return act()
    finally:
        os.chdir(before)


class _Printed:
    """What a child prints on one stream: a file without a name that it appends to, read here as it grows."""

    def __init__(self, folder: str, log: int) -> None:
        path = os.path.join(folder, f"printed.{time.time_ns()}")
        self.child_end = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        os.unlink(path)
        self._log, self._read, self._line = log, 0, b""

    def size(self) -> int:
        return os.fstat(self.child_end).st_size

    def relay(self, until: int, label: bytes, call: KnownCall | None) -> bool:
        """Pass on to the run's log what lies before `until`, by whole lines where they get a label."""
        moved = False
        while self._read < until:
            data = os.pread(self.child_end, min(CHUNK_BYTES, until - self._read), self._read)
            if not data:
                break
            self._read, moved = self._read + len(data), True
            if call is not None:
                call.keep(self._log, data)
            self._pass_on(data, label)
        return moved

    def _pass_on(self, data: bytes, label: bytes) -> None:
        if not label:
            _write_all(self._log, data)
            return
        *lines, self._line = (self._line + data).split(b"\n")
        if lines:
            _write_all(self._log, b"".join(label + line + b"\n" for line in lines))

    def end_line(self, label: bytes) -> None:
        """What has no end of its own gets one where the next line may be another call's."""
        if self._line:
            self._pass_on(b"\n", label)

    def close(self) -> None:
        os.close(self.child_end)


class KnownCall:
    """A call, as the zygote knows it, from its arrival until its result is acknowledged."""

    def __init__(self, entry: Mapping[str, Any], sealed: bytes) -> None:
        self.number: int = entry["n"]
        self.function: str = entry["function"]
        # Calls of one group, which is not 0, may be made by one process, one after the other.
        self.group: int = entry["group"]
        self.timeout_s: float | None = entry["timeout_s"]
        self.entry = {name: entry[name] for name in ("n", "size", "blob")}
        self.sealed = sealed
        self.arrived, self.given = time.monotonic(), 0.0
        self.printed = {1: bytearray(), 2: bytearray()}
        self.unwanted = False
        self.result: dict[str, Any] | None = None
        self.sealed_result = b""

    def keep(self, log: int, data: bytes) -> None:
        held = self.printed[log]
        held += data
        del held[:-WARM_OUTPUT_BYTES]

    def done(self, result: Mapping[str, Any], sealed: bytes) -> None:
        self.sealed = b""
        self.sealed_result = sealed
        self.result = {
            "n": self.number,
            "size": len(sealed),
            "file": bool(result.get("file")),
            "out": len(self.printed[1]),
            "err": len(self.printed[2]),
            "queued_s": (self.given or time.monotonic()) - self.arrived,
            "took_s": result.get("took_s", 0.0),
        }

    def content(self) -> bytes:
        """What follows the result's entry on its way to the client."""
        return b"".join((self.sealed_result, self.printed[1], self.printed[2]))


class _Child:
    """A forked process, seen from the zygote."""

    def __init__(
        self, pid: int, channel: Any, printed: tuple[_Printed, _Printed], device: str | None
    ) -> None:
        self.pid, self.peer, self.printed = pid, Peer(channel), printed
        # None is no place at all: a child that was forked ahead has one from its first call on.
        self.device = device
        self.function, self.group = "", 0
        self.given: list[KnownCall] = []
        self.idle_since = 0.0
        self.last = self.leaving = False
        self.why = ""
        self.kill_at = float("inf")
        self.oom_before = 0

    def relay(self, call: KnownCall | None, ends: Iterable[int], label: bytes) -> bool:
        pairs = zip(self.printed, ends)  # noqa: B905 - 3.8 has no strict
        return any([stream.relay(end, label, call) for stream, end in pairs])

    def signal(self, number: int) -> None:
        """To all that the call has started, but for what has left its group."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return

    def ended(self) -> int | None:
        """Give the status that it ended with, and end what it has left in its group; None while it lives."""
        import signal

        if hasattr(os, "waitid"):
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return None
            # Before it is reaped: until then nobody else can get the number of its group.
            self.signal(signal.SIGKILL)
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return None
        self.signal(signal.SIGKILL)
        return status

    def close(self) -> None:
        self.peer.close()
        for stream in self.printed:
            stream.close()


class Zygote:
    """Has the calls of one warm run made, each in a forked child, and keeps their results for the client."""

    # An item of a map that takes no longer than this is given to a child together with the ones after it.
    TOGETHER_S, TOGETHER_MOST = 0.005, 64
    # For so long a process waits for the next item of its map.
    IDLE_S = 0.25
    # The first client has just started this, and comes.
    FIRST_S = 60.0

    def __init__(
        self,
        job: JobFolder,
        order: Mapping[str, Any],
        settings: Mapping[str, Any],
        gpus: Callable[[], tuple[list[str], str]],
    ) -> None:
        self.job, self.run_id = job, order["run_id"]
        self.key = bytes.fromhex(order["key"])
        self.gpus = gpus()
        self._settings = settings
        self._linger_s: float = settings["linger_s"]
        self._grace_s: float = settings["grace_s"]
        self._alone_s: float = max(self.FIRST_S, self._linger_s)
        self._keeps = settings["isolation"] == "process"
        self._free = self._places()
        self._slots = len(self._free)
        self._calls: dict[int, KnownCall] = {}
        self._queue: list[KnownCall] = []
        self._acknowledged, self._acknowledged_to = set(), 0  # type: set[int], int
        self._children: dict[int, _Child] = {}
        self._spare: _Child | None = None
        self._client: Peer | None = None
        self._peers = set()  # type: set[Peer]
        self._generation = -1
        self._blobs = self._loaded = ""
        self._alone_since = self._looked = self._moved = time.monotonic()
        self._usual_s: dict[str, float] = {}
        self._imported: set[str] = set()
        self._to_import: list[str] = []
        self._ready: list[KnownCall] = []
        self._closing = self._stopping = False
        self._counted, self._oom_count = -float("inf"), 0

    def _places(self) -> list[str]:
        """Give each slot's device; where slots are not GPUs they have none."""
        if self._settings["by"] == "gpu":
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            names = [str(number) for number in range(len(self.gpus[0]))]
            return [name for name in visible.split(",") if name] if visible is not None else names
        return [""] * (self._settings["slots"] or (1 if self._keeps else _cores()))

    # -- the loop

    def serve(self) -> int:
        """Take calls until there is an end of them; give the exit code of the process."""
        self._listen()
        self._fork_ahead()
        while not self._over():
            for key, events in self._selector.select(self._pause()):
                key.data(events)
            self._tend()
        self._end_children()
        self._leave_results()
        return 143 if self._stopping else 0

    def _listen(self) -> None:
        import selectors
        import socket

        os.mkdir(self.job.file("calls"), 0o700)
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        in_folder(self.job.path, lambda: self._listener.bind("zygote.tmp"))
        self._listener.listen(8)
        self._listener.setblocking(False)
        # Seen only once it answers.
        os.rename(self.job.file("zygote.tmp"), self.job.file("zygote"))
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._woken, self._wake = os.pipe()
        for end in (self._woken, self._wake):
            os.set_blocking(end, False)
        self._hear_signals()
        self._selector.register(self._woken, selectors.EVENT_READ, self._on_signal)

    def _hear_signals(self) -> None:
        import signal

        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _on_signal(self, events: int) -> None:
        try:
            os.read(self._woken, 4096)
        except BlockingIOError:
            return

    @property
    def _busy(self) -> list[_Child]:
        return [child for child in self._children.values() if child.given]

    def _over(self) -> bool:
        if self._closing or self._stopping:
            return not self._ready or self._client is None
        if self._client is not None or self._queue or self._busy:
            self._alone_since = time.monotonic()
        return time.monotonic() - self._alone_since >= self._alone_s

    def _pause(self) -> float:
        """How long nothing has to be looked at: a child's output is, the less often the longer it is silent."""
        now = time.monotonic()
        stuck = self._queue and not self._busy
        if self._ready or stuck or self._closing or self._stopping:
            return 0.05
        pause = 3600.0 if self._client is not None else self._alone_s
        for child in self._children.values():
            pause = min(pause, child.kill_at - now)
            if child.given:
                pause = min(pause, 0.005 if now - self._moved < 1.0 else 0.05)
            elif self._waits(child):
                pause = min(pause, child.idle_since + self.IDLE_S - now)
        return max(0.0, pause)

    def _tend(self) -> None:
        now = time.monotonic()
        look = now - self._looked >= 0.004
        if look:
            self._looked = now
        for child in list(self._children.values()):
            if look and child.given:
                self._relay(child)
            self._check_time(child, now)
            self._reap(child)
        self._start_queued()
        self._send_results()
        if self._to_import and not self._queue and not self._busy:
            self._import_ahead()
        self._fork_ahead()

    # -- the client

    def _accept(self, events: int) -> None:
        import selectors

        try:
            channel, _ = self._listener.accept()
        except BlockingIOError:
            return
        peer = Peer(channel)
        self._peers.add(peer)
        self._selector.register(
            channel, selectors.EVENT_READ, lambda events: self._on_client(peer, events)
        )

    def _watch(self, peer: Peer) -> None:
        """Wait for the other end to take more, too, where something is held back for it."""
        import selectors

        if peer.channel.fileno() < 0:
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.full else 0)
        key = self._selector.get_key(peer.channel)
        if key.events != wanted:
            self._selector.modify(peer.channel, wanted, key.data)

    def _on_client(self, peer: Peer, events: int) -> None:
        peer.flush()
        for head, body in peer.receive():
            if "generation" in head:
                self._attach(peer, head)
            elif peer is self._client:
                self._on_parcel(head, body)
        if peer.over:
            self._drop(peer)
        else:
            self._watch(peer)

    def _attach(self, peer: Peer, head: Mapping[str, Any]) -> None:
        """The latest client counts: what an earlier connection still holds of it must not come in after it."""
        if head["generation"] <= self._generation:
            self._drop(peer)
            return
        if self._client is not None:
            self._drop(self._client)
        self._client, self._generation, self._blobs = peer, head["generation"], head["blobs"]
        self._alone_s = self._linger_s
        peer.send({"hello": {"slots": self._slots, "pid": os.getpid()}})
        self._ready = [call for call in self._calls.values() if call.result is not None]

    def _drop(self, peer: Peer) -> None:
        if peer.channel.fileno() >= 0:
            self._selector.unregister(peer.channel)
            peer.close()
        self._peers.discard(peer)
        if peer is self._client:
            self._client, self._alone_since = None, time.monotonic()

    def _on_parcel(self, head: Mapping[str, Any], body: bytes) -> None:
        offset = 0
        for entry in head.get("calls", ()):
            self._on_call(entry, body[offset : offset + entry["size"]])
            offset += entry["size"]
        for number in head.get("stop", ()):
            self._stop_call(number)
        for number in head.get("ack", ()):
            self._acknowledge(number)
        self._closing = self._closing or bool(head.get("close"))

    def _on_call(self, entry: Mapping[str, Any], sealed: bytes) -> None:
        number = entry["n"]
        if number in self._calls or number <= self._acknowledged_to or number in self._acknowledged:
            return
        call = self._calls[number] = KnownCall(entry, sealed)
        self._queue.append(call)

    def _acknowledge(self, number: int) -> None:
        call = self._calls.get(number)
        if call is None or call.result is None:
            return
        del self._calls[number]
        if call.result["file"]:
            os.unlink(self.call_file(number))
        self._acknowledged.add(number)
        while self._acknowledged_to + 1 in self._acknowledged:
            self._acknowledged_to += 1
            self._acknowledged.remove(self._acknowledged_to)

    def call_file(self, number: int) -> str:
        """Where a result lies that is too large to be sent by itself."""
        return self.job.file(os.path.join("calls", f"{number}.sealed"))

    def _send_results(self) -> None:
        client = self._client
        if client is None:
            self._ready.clear()
            return
        while self._ready:
            size, entries, parts = 0, [], []
            while self._ready and size < _PARCEL_BYTES:
                call = self._ready.pop(0)
                if call.result is not None:
                    entries.append(call.result)
                    parts.append(call.content())
                    size += len(parts[-1])
            client.send({"results": entries}, b"".join(parts))
        self._watch(client)

    def _finish(self, call: KnownCall, result: Mapping[str, Any], sealed: bytes) -> None:
        call.done(result, sealed)
        self._ready.append(call)

    def _refuse(self, call: KnownCall, outcome: str, **more: Any) -> None:
        """Finish a call that has no result of its own."""
        header = {"outcome": outcome, "type": "", "text": "", "traceback": "", **more}
        payload = json.dumps(header).encode() + b"\n"
        sealed = seal(self.key, self.run_id, call_result_seq(call.number), payload)
        self._finish(call, {"took_s": time.monotonic() - (call.given or call.arrived)}, sealed)

    # -- children

    def _start_queued(self) -> None:
        if self._closing or self._stopping:
            return
        while self._queue:
            child = self._child_for(self._queue[0])
            if child is None:
                return
            self._give(child)

    def _child_for(self, call: KnownCall) -> _Child | None:
        """Give a child that may take it now: one that waits for more of the same function, else a new one in a free slot."""
        idle = [c for c in self._children.values() if not c.given and not c.last and not c.leaving]
        for child in idle:
            same = child.function == call.function
            if same and (self._keeps or (call.group and child.group == call.group)):
                return child
        for child in idle:
            self._dismiss(child)
        if not self._free:
            return None
        try:
            child = self._ahead(call.function) or self._fork()
        except OSError as error:
            self._not_forked(call, error)
            return None
        self._children[child.pid] = child
        child.device = self._free.pop(0)
        child.function, child.group = call.function, call.group
        return child

    def _not_forked(self, call: KnownCall, error: OSError) -> None:
        """Wait for what runs to make room; where nothing does, it is the call that fails, not the run."""
        if not self._busy:
            self._queue.remove(call)
            os.write(2, f"dayfly: no process for call {call.number}: {error}\n".encode())
            self._refuse(call, "died", signal=0, code=71, out_of_memory=False)

    def _give(self, child: _Child) -> None:
        calls = self._batch(child)
        child.last = not (self._keeps or calls[0].group)
        child.given += calls
        now = time.monotonic()
        for call in calls:
            call.given = now
        head = {"blobs": self._blobs, "calls": [call.entry for call in calls], "last": child.last}
        child.peer.send({**head, "device": child.device}, b"".join(c.sealed for c in calls))
        self._watch(child.peer)
        self._loaded, self._moved = child.function, now

    def _batch(self, child: _Child) -> list[KnownCall]:
        """Take the next call from the queue, with those that follow where all of them together are short."""
        first = self._queue[0]
        usual_s = self._usual_s.get(first.function)
        most = 1
        if first.group and usual_s is not None:
            share = -(-len(self._queue) // self._slots)
            most = min(int(self.TOGETHER_S / max(usual_s, 1e-6)), self.TOGETHER_MOST, share)
        count = 1
        while count < min(most, len(self._queue)):
            call = self._queue[count]
            same = (call.group, call.function) == (first.group, first.function)
            if not same or call.timeout_s is not None:
                break
            count += 1
        if first.timeout_s is not None:
            count = 1
        calls, self._queue[:count] = self._queue[:count], []
        return calls

    def _fork_ahead(self) -> None:
        """Have the next child ready before there is a call for it, with the function that was called last."""
        enough = self._spare is not None or (self._keeps and self._children)
        if enough or self._stopping or self._closing:
            return
        try:
            self._spare = self._fork()
        except OSError:
            return  # No memory or no room now; a call that needs one will tell.
        # What a GPU's place is must be known before anything that may look for it is loaded.
        if self._loaded and self._settings["by"] != "gpu":
            self._spare.function = self._loaded
            self._spare.peer.send({"blobs": self._blobs, "load": self._loaded})

    def _ahead(self, function: str) -> _Child | None:
        """Give the child that was forked ahead, unless it has another function in it, or has ended."""
        spare, self._spare = self._spare, None
        if spare is None:
            return None
        if spare.ended() is not None:
            self._forget_channel(spare)
            spare.close()
            return None
        if spare.function not in ("", function):
            self._children[spare.pid] = spare
            self._dismiss(spare)
            return None
        return spare

    def _fork(self) -> _Child:
        import selectors
        import socket

        folder = self.job.file("calls")
        printed = (_Printed(folder, 1), _Printed(folder, 2))
        ours, theirs = socket.socketpair()
        try:
            pid = os.fork()
        except OSError:
            for each in (*printed, ours, theirs):
                each.close()
            raise
        if not pid:
            # The copy of the zygote must never go on as the zygote.
            try:
                ours.close()
                self._become_child(theirs, printed)
            finally:
                os._exit(70)
        theirs.close()
        self._give_group(pid)
        child = _Child(pid, ours, printed, None)
        child.oom_before = self._oom_kills_of_late()
        self._selector.register(
            ours, selectors.EVENT_READ, lambda events: self._on_child(child, events)
        )
        return child

    @staticmethod
    def _give_group(pid: int) -> None:
        """It does so itself, too, whoever is first: its group must be there before it is sent a signal."""
        try:
            os.setpgid(pid, pid)
        except OSError:
            return

    def _oom_kills_of_late(self) -> int:
        """Reading the count takes a tenth of what a fork does, and one of a second ago tells as much."""
        now = time.monotonic()
        if now - self._counted >= 1.0:
            self._counted, self._oom_count = now, _oom_kills()
        return self._oom_count

    def _become_child(self, channel: Any, printed: tuple[_Printed, _Printed]) -> None:
        import signal

        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setpgid(0, 0)
        for target, stream in zip((1, 2), printed):  # noqa: B905 - 3.8 has no strict
            os.dup2(stream.child_end, target)
            stream.close()
        others = [*self._children.values(), *filter(None, [self._spare])]
        for child in others:
            child.close()
        for peer in self._peers:
            peer.close()
        self._selector.close()
        self._listener.close()
        _volunteer_for_oom(700)
        _fresh_randomness()
        code = 1
        try:
            code = InChild(self, channel).work()
        except BaseException:  # noqa: BLE001 - said on the call's stderr, and the zygote sees the code
            sys.excepthook(*sys.exc_info())
        _end_process(code)

    def _on_child(self, child: _Child, events: int) -> None:
        child.peer.flush()
        self._hear(child)
        if child.peer.over:
            # Its end is seen by its status; what it has forked may hold the other end for long.
            self._forget_channel(child)
        else:
            self._watch(child.peer)

    def _forget_channel(self, child: _Child) -> None:
        if child.peer.channel.fileno() >= 0:
            self._selector.unregister(child.peer.channel)
            child.peer.close()

    def _hear(self, child: _Child) -> None:
        for head, body in child.peer.receive():
            if "loaded" in head:
                self._on_loaded(head)
            elif child.given:
                self._on_result(child, head, body)

    def _on_result(self, child: _Child, head: Mapping[str, Any], sealed: bytes) -> None:
        call = child.given.pop(0)
        label = self._label(call)
        child.relay(call, (head["out"], head["err"]), label)
        for stream in child.printed:
            stream.end_line(label)
        usual_s = self._usual_s.get(call.function, head["took_s"])
        self._usual_s[call.function] = (usual_s + head["took_s"]) / 2
        if child.why == "stopped" or call.unwanted:
            self._refuse(call, "stopped")
        else:
            self._finish(call, head, sealed)
        if not head["clean"]:
            child.leaving = True
            self._take_back(child)
        if child.last and self._settings["by"] != "gpu":
            # A GPU is free when its memory is: when the process has ended.
            self._leave_slot(child)
        child.idle_since = time.monotonic()

    def _dismiss(self, child: _Child) -> None:
        """Let it end by itself: it has been given all that it will get."""
        import socket

        if not child.leaving:
            child.leaving = True
            if self._settings["by"] != "gpu":
                self._leave_slot(child)
            try:
                child.peer.channel.shutdown(socket.SHUT_WR)
            except OSError:
                return  # It has gone already.

    def _leave_slot(self, child: _Child) -> None:
        if child.device is not None:
            self._free.append(child.device)
            child.device = None

    def _take_back(self, child: _Child) -> None:
        """What it was given and has not begun goes to another."""
        self._queue[:0], child.given = child.given, []

    def _label(self, call: KnownCall) -> bytes:
        return f"[{call.number}] ".encode() if self._slots > 1 else b""

    def _relay(self, child: _Child) -> None:
        # The sizes first: the result of each call that ended before these bytes were written is then on its way.
        sizes = [stream.size() for stream in child.printed]
        self._hear(child)
        if child.given and child.relay(child.given[0], sizes, self._label(child.given[0])):
            self._moved = time.monotonic()

    def _check_time(self, child: _Child, now: float) -> None:
        import signal

        if now >= child.kill_at:
            child.signal(signal.SIGKILL)
            child.kill_at = now + 1.0
        call = child.given[0] if child.given else None
        if call is None:
            if self._waits(child) and now >= child.idle_since + self.IDLE_S:
                self._dismiss(child)
            return
        if child.why:
            return
        if call.unwanted:
            self._end_call(child, "stopped")
        elif call.timeout_s is not None and now >= call.given + call.timeout_s:
            self._end_call(child, "timeout")

    def _waits(self, child: _Child) -> bool:
        """Whether it waits for the next call of its group, which may be on its way, or never come."""
        return not (child.given or child.last or child.leaving or self._keeps)

    def _stop_call(self, number: int) -> None:
        call = self._calls.get(number)
        if call is None or call.result is not None:
            return
        call.unwanted = True
        if call in self._queue:
            self._queue.remove(call)
            self._refuse(call, "stopped")

    def _end_call(self, child: _Child, why: str) -> None:
        import signal

        child.why = child.why or why
        child.kill_at = time.monotonic() + self._grace_s
        child.signal(signal.SIGTERM)

    def _reap(self, child: _Child) -> None:
        status = child.ended()
        if status is None:
            return
        del self._children[child.pid]
        self._hear(child)
        call = child.given[0] if child.given else None
        label = b"" if call is None else self._label(call)
        child.relay(call, [stream.size() for stream in child.printed], label)
        for stream in child.printed:
            stream.end_line(label)
        if call is not None:
            child.given.pop(0)
            self._died(child, call, status)
        self._take_back(child)
        self._leave_slot(child)
        self._forget_channel(child)
        child.close()

    def _died(self, child: _Child, call: KnownCall, status: int) -> None:
        """Finish a call whose child has ended under it."""
        signalled = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0
        if child.why or self._stopping:
            self._refuse(call, child.why or "stopped", timeout_s=call.timeout_s)
            return
        oom = signalled == 9 and _oom_kills() > child.oom_before
        self._refuse(call, "died", signal=signalled, code=code, out_of_memory=oom)

    # -- importing ahead

    def _on_loaded(self, head: Mapping[str, Any]) -> None:
        if head["safe"]:
            self._to_import += [name for name in head["modules"] if name not in self._imported]

    def _import_ahead(self) -> None:
        """Import what a child had to import before it could call its function, so that the next ones have it.

        Only what a child has imported without harm: a crash, a thread or a GPU that was touched has stayed in it.
        """
        from importlib import import_module

        names, self._to_import = self._to_import, []
        for name in names:
            self._imported.add(name)
            try:
                import_module(name)
            except BaseException:  # noqa: BLE001, S112 - then it is the children's to import, and to tell
                continue
        # A module may have taken them for itself.
        self._hear_signals()
        if self._spare is not None:
            spare, self._spare = self._spare, None
            self._children[spare.pid] = spare
            self._dismiss(spare)

    # -- the end

    def _end_children(self) -> None:
        """Let each child end, the ones that are at work by their grace."""
        import signal

        children = [*self._children.values(), *filter(None, [self._spare])]
        for child in children:
            if child.given or self._stopping:
                self._end_call(child, "stopped")
            else:
                self._dismiss(child)
            self._children[child.pid] = child
        over = time.monotonic() + self._grace_s
        while self._children:
            self._selector.select(0.01)
            self._on_signal(0)
            for child in list(self._children.values()):
                if time.monotonic() > over:
                    child.signal(signal.SIGKILL)
                self._hear(child)
                self._reap(child)
        self._ready.clear()

    def _leave_results(self) -> None:
        """Leave what the client has not acknowledged in the result of the run, where an ended run's is looked for."""
        writer = SealedWriter(self.job.file("result.sealed"), self.key, self.run_id, RESULT_SEQ)
        header = {"outcome": "calls", "type": "", "text": "", "traceback": ""}
        writer.write(json.dumps(header).encode() + b"\n")
        for number, call in self._calls.items():
            if call.result is not None:
                self._copy_result(writer, number, call)
        writer.commit()

    def _copy_result(self, writer: SealedWriter, number: int, call: KnownCall) -> None:
        if not (call.result or {})["file"]:
            payload = call.sealed_result[HEADER_BYTES:]
            writer.write(CALL_PREFIX.pack(number, len(payload)))
            writer.write(payload)
            return
        with open(self.call_file(number), "rb") as file:
            file.seek(HEADER_BYTES)
            writer.write(CALL_PREFIX.pack(number, _size(self.call_file(number)) - HEADER_BYTES))
            for chunk in iter(lambda: file.read(1 << 20), b""):
                writer.write(chunk)


class InChild(Caller):
    """A forked child's own side: calls one function after another until nothing more comes."""

    def __init__(self, zygote: Zygote, channel: Any) -> None:
        super().__init__(_Stopping(), lambda: zygote.gpus, self._opened_result)
        self._zygote, self._channel = zygote, channel
        self._pid = os.getpid()
        self._functions: dict[str, tuple[dict[str, Any] | None, Any]] = {}
        self._blobs = ""
        self._number = 0
        self._keeps = zygote._settings["isolation"] == "process"
        self._writer: _Spilling | None = None

    def work(self) -> int:
        """Call what arrives, and give the exit code of the process."""
        inbox = Inbox()
        while True:
            try:
                data = self._channel.recv(1 << 18)
            except KeyboardInterrupt:
                return 143
            if not data:
                return 0
            for head, body in inbox.feed(data):
                self._blobs = head["blobs"]
                if "load" in head:
                    self._function(head["load"])
                elif not self._take(head, body):
                    return 143 if self._stopping.asked else 0

    def _take(self, head: Mapping[str, Any], body: bytes) -> bool:
        """Make the calls of one parcel; tell whether this child may be given more."""
        if head["device"]:
            os.environ["CUDA_VISIBLE_DEVICES"] = head["device"]
        offset = 0
        for entry in head["calls"]:
            sealed = body[offset : offset + entry["size"]]
            offset += entry["size"]
            if not self._make(entry, sealed):
                return False
        return not head["last"]

    def _make(self, entry: Mapping[str, Any], sealed: bytes) -> bool:
        self._number, self._began = entry["n"], time.monotonic()
        call = self._opened_call(entry["blob"], sealed)
        try:
            outcome, value = self._outcome(call)
        except KeyboardInterrupt:
            if not self._stopping.asked:
                raise
            sys.stderr.write(self._traceback(sys.exc_info()[1]))
            return False
        if os.getpid() != self._pid:
            os._exit(0)  # A copy that the function has forked, and let return.
        self.leave(outcome, value)
        return self._report()

    def _opened_call(self, blob: str, sealed: bytes) -> Any:
        """Give what the call holds, checked; what is large is content by digest, which goes with its last reader."""
        zygote, seq = self._zygote, call_seq(self._number)
        if not blob:
            from io import BytesIO

            return BytesIO(unseal(zygote.key, zygote.run_id, seq, sealed))
        path = os.path.join(self._blobs, os.path.basename(blob))
        call = open_sealed(zygote.key, zygote.run_id, seq, path)
        os.unlink(path)
        return call

    @staticmethod
    def _tell_data(head: Mapping[str, Any]) -> None:
        """Say where Data is, for what makes paths of it while the function or its arguments are loaded."""
        if "data" in head:
            os.environ["DAYFLY_DATA"] = json.dumps(head["data"])

    def _outcome(self, call: Any) -> tuple[dict[str, Any], Any]:
        with call:
            head = json.loads(call.readline())
            failure, function = self._function(head["function"])
            if failure is not None:
                return failure, function
            began = time.monotonic()
            self._tell_data(head)
            failure, loaded = self.load((), call)
            load_s = time.monotonic() - began
        outcome, value = (failure, loaded) if failure is not None else self.call(function, *loaded)
        return {**outcome, "load_s": load_s}, value

    def _function(self, digest: str) -> tuple[dict[str, Any] | None, Any]:
        """Give the function of that digest, loaded once."""
        if digest not in self._functions:
            from io import BytesIO

            began, before = time.monotonic(), set(sys.modules)
            with open(os.path.join(self._blobs, os.path.basename(digest)), "rb") as file:
                content = file.read()
            found = _sha256()
            found.update(content)
            if found.hexdigest() != digest:
                raise FrameError("the function is not the one that was sent")
            head, _, pickled = content.partition(b"\n")
            header = json.loads(head)
            self.take_sources(header["sources"])
            self._tell_data(header)
            self._functions[digest] = self.load(header["imports"], BytesIO(pickled))
            if self._functions[digest][0] is None:
                self._tell_imports(digest, header["imports"], before, began)
        return self._functions[digest]

    def _tell_imports(
        self, digest: str, imports: Iterable[str], before: set[str], began: float
    ) -> None:
        """Import what the function will, and tell the zygote of it where that took its time."""
        from importlib import import_module

        for name in imports:
            try:
                import_module(name)
            except Exception:  # noqa: BLE001, S112 - the function may do without it; if not, it will say so itself
                continue
        new = [name for name in sys.modules if name not in before and _is_installed(name)]
        if new and time.monotonic() - began > 0.01:
            import threading

            safe = threading.active_count() == 1 and not _touches_gpu()
            self._send({"loaded": digest, "modules": new, "safe": safe})

    def _opened_result(self) -> _Spilling:
        zygote = self._zygote
        self._writer = _Spilling(
            zygote.call_file(self._number),
            zygote.key,
            zygote.run_id,
            call_result_seq(self._number),
        )
        return self._writer

    def _report(self) -> bool:
        """Send the result; tell whether this process can be given another call."""
        import threading

        clean = self._keeps or threading.active_count() == 1
        sys.stdout.flush()
        sys.stderr.flush()
        writer = self._writer
        assert writer is not None
        head = {
            "n": self._number,
            "file": writer.spilt,
            "out": os.fstat(1).st_size,
            "err": os.fstat(2).st_size,
            "clean": clean and not self._stopping.asked,
            "took_s": time.monotonic() - self._began,
        }
        self._send(head, b"" if writer.spilt else writer.sealed)
        return bool(head["clean"])

    def _send(self, head: Mapping[str, Any], body: bytes = b"") -> None:
        self._channel.sendall(parcel(encode(head, body)))

    def _threads_run_on(self, names: str) -> None:
        if not self._keeps:
            super()._threads_run_on(names)


class _Spilling:
    """A sealed result that stays in memory while it is small, and becomes a file where it is not."""

    def __init__(self, path: str, key: bytes, run_id: str, seq: int) -> None:
        self._place = (path, key, run_id, seq)
        self._parts: list[bytes] = []
        self._length = 0
        self._file: SealedWriter | None = None
        self.sealed = b""

    @property
    def spilt(self) -> bool:
        return self._file is not None

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self._length += size
        if self._file is None and self._length > WARM_INLINE_BYTES:
            self._file = SealedWriter(*self._place)
            for held in self._parts:
                self._file.write(held)
            self._parts.clear()
        if self._file is not None:
            return self._file.write(data)
        self._parts.append(bytes(data))
        return size

    def commit(self) -> None:
        if self._file is not None:
            self._file.commit()
        else:
            _, key, run_id, seq = self._place
            self.sealed = seal(key, run_id, seq, b"".join(self._parts))

    def discard(self) -> None:
        if self._file is not None:
            self._file.discard()


def _is_installed(name: str) -> bool:
    """Tell a module that comes from a file of this Python or of its environment from one that came with a function."""
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    origin = getattr(spec, "origin", None) or ""
    return bool(os.path.isabs(origin) and origin.startswith((sys.prefix, sys.base_prefix)))


def _touches_gpu() -> bool:
    try:
        held = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    except OSError:
        return False  # No such place, and on that system no such GPU.
    return any(path.startswith(("/dev/nvidia", "/dev/kfd", "/dev/dri")) for path in held)


def _fresh_randomness() -> None:
    """Python's own generator sees to it by itself; without this each child would draw the same numbers from NumPy's."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


# ---------------------------------------------------------------------------------------------- deadline


def _deadline_file(run_id: str) -> str:
    return os.path.join(_home(), f"deadline-{run_id}.json")


def arm_deadline(run_id: str, seconds: float, timer: bool = False, power_off: bool = False) -> str:
    """Set or move the time at which everything of the run ends, and see that somebody watches it.

    Args:
        run_id: the run.
        seconds: from now.
        timer: systemd may be asked for it, where it runs and this user may: it outlives whatever ends this user's processes.
        power_off: the machine is switched off afterwards.

    Returns:
        Who watches: "systemd", or "process".
    """
    path, at = _deadline_file(run_id), _clock() + seconds
    fires = (_read_json(path) or {}).get("fires")
    armed = {"at": at, "timer": timer, "power_off": power_off, "fires": fires}
    _write_file(path, json.dumps(armed).encode())
    # One that fires too early reads in the file that it has to wait, so none has to be taken back.
    soon_enough = fires is not None and _clock() < fires <= at
    if timer and (soon_enough or _start_timer(run_id, seconds)):
        if not soon_enough:
            _write_file(path, json.dumps({**armed, "fires": at}).encode())
        return "systemd"
    _start_watching(run_id, path)
    return "process"


def _start_timer(run_id: str, seconds: float) -> bool:
    """Have systemd start the deadline; False where there is none, or this user may not ask it."""
    asked = _Asked(["systemctl", "is-system-running"]).wait(5.0)
    if asked.words in ("", "offline", "unknown"):
        return False
    command = ["systemd-run", "--quiet", "--collect", f"--on-active={max(seconds, 0.0):.0f}s"]
    command += ["--timer-property=AccuracySec=1s", "--setenv=HOME=" + _home()]
    # A later one may be there for the same run; a second of the same name would be refused.
    command += ["--unit", f"dayfly-deadline-{run_id}-{time.time_ns()}", "--"]
    command += _launch(sys.executable, ("-I", "-S", "-B"), "deadline", run_id)
    return _Asked(_as_root(command)).wait(10.0).code == 0


def _start_watching(run_id: str, path: str) -> None:
    """Start a detached process that waits for the deadline, unless one does."""
    lock = _lock(path + ".lock")
    if lock is None:
        return
    nothing = os.open(os.devnull, os.O_RDWR)
    command = _launch(sys.executable, ("-I", "-S"), "deadline", run_id, str(lock))
    try:
        # Forked twice, so that nobody has to wait for it.
        child = os.fork()
        if not child:
            try:
                _spawn(
                    command,
                    _login_environment(run_id),
                    _home(),
                    (nothing, nothing, nothing),
                    (lock,),
                )
            finally:
                os._exit(0)
        os.waitpid(child, 0)
    finally:
        os.close(nothing)
        os.close(lock)


def hold(run_id: str, seconds: float) -> None:
    """After the end of the job its result waits for so long, and never past the deadline that is armed."""
    armed = _read_json(_deadline_file(run_id))
    if armed is not None and armed["at"] > _clock() + seconds:
        arm_deadline(run_id, seconds, armed.get("timer", False), armed.get("power_off", False))


def deadline(run_id: str) -> None:
    """Wait for the run's deadline, however it is moved, and end every process that carries the run's mark.

    The machine is switched off behind them where that was asked for: where its provider ends what is switched off.
    """
    import signal

    while True:
        armed = _read_json(_deadline_file(run_id))
        if armed is None:
            return  # The run's home is gone, and the run with it.
        left = armed["at"] - _clock()
        if left <= 0:
            break
        time.sleep(min(left, 2.0))
    job = JobFolder.of(run_id)
    if job.exists() and job.status()["state"] == "running":
        request_stop(job, "deadline")
        _await_end(job, 30.0)
        time.sleep(1.0)  # An attached client may still hear how it ended.
    mark = f"DAYFLY_RUN={run_id}"
    for number, pause_s in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 0.2), (signal.SIGKILL, 0.0)):
        _send_signal(_carriers(mark) - {os.getpid()}, number)
        time.sleep(pause_s)
    if armed.get("power_off"):
        _power_off()


def _power_off(grace_s: float = 60.0) -> None:
    """Switch the machine off, the more rudely the longer it takes; a halt alone would leave it running, and billed."""
    for command in (["systemctl", "poweroff"], ["systemctl", "poweroff", "--force"], ["poweroff"]):
        if _Asked(_as_root(command)).wait(grace_s).code == 0:
            time.sleep(grace_s)


def _await_end(job: JobFolder, timeout_s: float) -> None:
    over = _clock() + timeout_s
    while job.end() is None and _clock() < over:
        time.sleep(0.05)


def main() -> None:
    """Run the mode that the command line names."""
    mode, argument = sys.argv[1:3]
    modes: dict[str, Callable[[str], None]] = {
        "supervise": supervise,
        "run": run,
        "deadline": deadline,
        "relay": relay,
        "gpu": gpu,
        "host_key": host_key,
    }
    modes[mode](argument)


if __name__ == "__main__":
    main()
