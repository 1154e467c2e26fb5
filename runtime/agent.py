"""The one file of Dayfly that runs on the machine: it answers a session, and starts, guards and runs the job.

Standard library only, Python 3.8 and newer, and it never imports dayfly; the client imports it for `seal` and `unseal`.

    serve                frames on stdin and stdout of one channel; ends when the channel closes
    supervise JOBDIR     detached: starts the job, enforces max_runtime, records how it ended
    run JOBDIR           under the environment's Python: calls the function, leaves the sealed result
    relay SOCKET         a lane for large content, where the SSH server does not lead to the socket itself
    deadline RUN         detached, or by a timer of systemd: ends every process of the run at a time that can be moved
    gpu all              loads the driver's library, and uses each GPU a little; what it does it says first
    host_key STEP        as root: one step of replacing the host key of this machine's SSH server

Keys and secrets reach each of them through a pipe on stdin, never through argv, a file or the supervisor's environment.
"""
# pathlib takes longer to import than the agent takes to answer its first frame, so paths are strings here;
# imports inside functions have the same reason: three of these processes start before the function does.
# ruff: noqa: PTH100, PTH101, PTH102, PTH103, PTH104, PTH106, PTH108, PTH110, PTH111, PTH112, PTH113, PTH114, PTH115, PTH116
# ruff: noqa: PTH118, PTH119, PTH120, PTH122, PTH123, PTH208

from __future__ import annotations

import json
import os
import struct
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from subprocess import Popen
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


def check_sealed_file(key: bytes, run_id: str, seq: int, path: str) -> None:
    """Apply the rules of `unseal` to a file without holding it in memory.

    Raises:
        FrameError: as `unseal`.
    """
    digest, length = _sha256(), 0
    with open(path, "rb") as file:
        expected_length, expected = open_header(key, run_id, seq, file.read(HEADER_BYTES))
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
            length += len(chunk)
    check_payload(length, digest.digest(), expected_length, expected)


class SealedWriter:
    """A file that becomes one frame: the header goes in front when all is written, the name appears last."""

    def __init__(self, path: str, key: bytes, run_id: str, seq: int) -> None:
        self._path, self._key, self._run_id, self._seq = path, key, run_id, seq
        self._digest, self._length = _sha256(), 0
        descriptor = os.open(path + ".tmp", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        self._file = os.fdopen(descriptor, "wb")
        self._file.write(bytes(HEADER_BYTES))

    def write(self, data: bytes) -> int:
        view = memoryview(data).cast("B") if not isinstance(data, bytes) else data
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
    aside = f"{path}.{os.getpid()}.tmp"
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


def _place(path: str, data: bytes) -> None:
    """Write aside, then rename: for content that can be brought again, so that it need not reach the disk at once."""
    aside = f"{path}.{os.getpid()}.tmp"
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        _write_all(descriptor, data)
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
        for folder in ("work", "outputs"):
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
) -> dict[str, Any]:
    return {
        "how": how,
        "code": code,
        "signal": signal,
        "out_of_memory": out_of_memory,
        "started": started,
        "ended": time.time(),
        "peak_rss_bytes": peak_rss_bytes,
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

    THREADED = frozenset(
        {"attach", "get", "receive", "environment", "stop", "facts", "gpus", "host_key", "deadline"}
    )

    def __init__(self, run_id: str, key: bytes, nonce: bytes, cache: str) -> None:
        import threading

        self.run_id, self.key, self.cache = run_id, key, cache
        self.job = JobFolder.of(run_id)
        self._receive_key, self._send_key = channel_keys(key, nonce)
        self._received = self._sent = 0
        self._sending = threading.Lock()
        self._credits: dict[int, Credit] = {}
        self.builds: set[Popen[str]] = set()
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

            if request["op"] in ("attach", "get"):
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
        if not os.path.exists(blob):
            _place(blob, body)
        return {}

    def on_missing(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Tell which of the digests, 32 bytes each, are of no content that is here, by their place in the list."""
        folder = os.path.dirname(self._blob(""))
        known = set(os.listdir(folder))
        digests = (body[start : start + 32].hex() for start in range(0, len(body), 32))
        return {"missing": [place for place, digest in enumerate(digests) if digest not in known]}

    def on_pack(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Take many small contents, one behind the other; `sizes` has the size of each by its digest."""
        start = 0
        for digest, size in request["sizes"].items():
            content = body[start : start + size]
            if _digest(content) != digest:
                raise Refusal("digest", f"the file with the digest {digest} has changed meanwhile")
            _place(self._blob(digest), content)
            start += size
        return {}

    def on_receive(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Take content that comes in pieces, by frames or over lanes; tells how much is there, and ends when all is.

        Its digest may be told later, so that nobody has to wait for it with sending.
        """
        if request["digest"] and os.path.exists(self._blob(request["digest"])):
            return {"have": request["size"]}
        part = f"{self._blob(request['name'])}.{self.run_id}.part"
        transfer = self.transfers[request["of"]] = Transfer(part, request["size"])
        if request["digest"]:
            transfer.name(request["digest"])
        try:
            self._emit(request, {"gaps": transfer.arrival.gaps()})
            digest = transfer.digested(
                lambda: os.path.exists(self._blob(transfer.named)),
                lambda have: self._emit(request, {"have": have}),
            )
            if digest and digest != transfer.named:
                transfer.discard()
                kind = "stale" if transfer.resumed else "digest"
                raise Refusal(kind, "what arrived is not what was sent")
            transfer.keep(self._blob(transfer.named))
            return {"have": request["size"]}
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
        """Give the path of what may be asked for."""
        if what != "result":
            raise Refusal("machine", f"there is nothing called {what!r} to get")
        return self.job.file("result.sealed")

    # -- the job

    def on_start(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Start the job unless it was started before; the task is the frame's body or a blob."""

        def place_task(path: str) -> None:
            if request["task"]:
                os.rename(self._blob(request["task"]), path)
            else:
                _write_file(path, body)

        if self.job.exists() and self.job.status()["state"] != "absent":
            return {"started": False}
        python = self._interpreter(request["python"])
        pickler = unpack_pickler(self._blob(request["pickler"]), self.cache)
        lock = self.job.claim(place_task)
        if lock is None:
            return {"started": False}
        order = {
            name: request[name]
            for name in ("variables", "secrets", "max_runtime_s", "grace_s", "hold_s")
        }
        order.update(
            run_id=self.run_id, key=self.key.hex(), python=python, pickler=pickler, lock=lock
        )
        try:
            self._start_supervisor(order, lock)
        finally:
            os.close(lock)
        return {"started": True}

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
        """Send both logs from the given offsets until the job has ended and all is sent."""
        self._require_job()
        follower = LogFollower(self.job, request["offsets"])
        credit = self._credits[request["id"]]
        try:
            for stream, offset, data in follower.chunks():
                credit.take(len(data))
                self._emit(request, {"stream": stream, "offset": offset}, data)
        finally:
            follower.close()
        return {"end": follower.end}

    def on_get(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Send the sealed result from an offset on, unless that is more than is wanted in this way."""
        try:
            descriptor = os.open(self.source("result"), os.O_RDONLY)
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

    # -- the environment

    def on_environment(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Make the environment, or find it made; without uv in the request only the latter."""
        environment = Environment(self, request)
        if not request["uv"]:
            return {"python": environment.ready()}
        return {"python": environment.build(lambda line: self._emit(request, {"line": line}))}


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
        self.arrival = Arrival(size, self._noted(os.fstat(self._file).st_size))
        self.resumed = self.arrival.gaps() != [(0, size)]
        self._noting = threading.Lock()

    def _noted(self, size: int) -> list[tuple[int, int]]:
        """Give what is there by the note, as (start, end); nothing of what the file cannot hold."""
        note = os.pread(self._note, 8 + 16 * self._RANGES, 0)
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
        every = max(self.PROGRESS_BYTES, self.arrival.size // 64)
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
            if not os.path.exists(path):
                os.rename(self._part, path)
        except FileNotFoundError:
            if not os.path.exists(path):
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

    def __init__(self, job: JobFolder, offsets: Mapping[str, int]) -> None:
        self._job = job
        self._offsets = dict(offsets)
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


def _smi(fields: str) -> _Asked | None:
    """Ask nvidia-smi, where there is one, while something else goes on: it may take seconds to answer."""
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        tool = os.path.join(folder, "nvidia-smi")
        if folder and os.access(tool, os.X_OK):
            return _Asked([tool, "--query-gpu=" + fields, "--format=csv,noheader,nounits"])
    return None


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
            # It may hold the passwords of indexes, and the folder outlives the run in the machine's cache.
            os.unlink(os.path.join(self._folder, "requirements.txt"))
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
            install = [uv, "pip", "install", "--python", self._python, "-r", "requirements.txt"]
            if self._run(install, emit):
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

    def supervise(self) -> None:
        started, oom_before = time.time(), _oom_kills()
        self._listen()
        record = {"pid": os.getpid(), "time": started}
        _write_file(self.job.file("started.json"), json.dumps(record).encode())
        self._start()
        _adopt_orphans()
        reason = self._wait(_clock() + self.order["max_runtime_s"])
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
            left = deadline - _clock()
            if left <= 0:
                return "deadline"
            self._sleep(min(left, 60.0))

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
        return found - {os.getpid()}

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
        if reason and not (reason == "deadline" and has_result):
            return _end_record(reason, code=code, signal=signalled, started=started)
        if has_result:
            return _end_record("finished", code=code, signal=signalled, started=started)
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


class Runner:
    """Calls the function of one task and leaves what came of it as a sealed result."""

    def __init__(self, job: JobFolder, order: Mapping[str, Any]) -> None:
        self.job, self._run_id = job, order["run_id"]
        self._key = bytes.fromhex(order["key"])
        self._pickler = order["pickler"]
        self._gpus = _GpuQuery()
        self._began = time.monotonic()
        self._stopping = _Stopping()

    def run(self) -> int:
        """Run the task and give the exit code of the process."""
        with open(self.job.file("task.sealed"), "rb") as file:
            task = unseal(self._key, self._run_id, TASK_SEQ, file.read())
        head, _, pickled = task.partition(b"\n")
        header = json.loads(head)
        here = "%d.%d" % sys.version_info[:2]  # noqa: UP031 - as everywhere here, 3.8 must read it
        if header["python"] != here:
            os.write(
                2,
                f"dayfly: the function was pickled by Python {header['python']}, this is {here}\n".encode(),
            )
            return 78
        self._prepare(header)
        try:
            outcome, value = self._outcome(header, pickled)
        except KeyboardInterrupt:
            if not self._stopping.asked:
                raise
            sys.stderr.write(self._traceback(sys.exc_info()[1]))
            return 143
        self._leave(outcome, value)
        return 0

    def _prepare(self, header: Mapping[str, Any]) -> None:
        import linecache

        sys.argv = [""]
        # The agent's own folder was put first by the launcher; the pickler must win over one of the environment.
        sys.path[0] = self._pickler
        import cloudpickle  # noqa: F401 - from here on it is the one that was loaded

        sys.path[0] = ""
        sys.path.append(self._pickler)
        for name, text in header["sources"].items():
            linecache.cache[name] = (len(text), None, text.splitlines(True), name)

    def _outcome(self, header: Mapping[str, Any], pickled: bytes) -> tuple[dict[str, Any], Any]:
        """Call the function, and describe what came of it together with the value or exception itself."""
        import pickle
        from importlib.util import find_spec

        missing = [
            name for name in header["imports"] if name not in sys.modules and not find_spec(name)
        ]
        if missing:
            return {"outcome": "missing_import", "modules": missing}, None
        try:
            function, arguments, named = pickle.loads(pickled)  # noqa: S301 - unsealed with this run's key
        except ModuleNotFoundError as error:
            text = self._traceback(error)
            return {"outcome": "missing_import", "modules": [error.name], "traceback": text}, None
        except Exception as error:  # noqa: BLE001 - whatever a class does when it is loaded is the user's to see
            return self._raised(error), error
        try:
            return {"outcome": "value"}, function(*arguments, **named)
        except SystemExit as end:
            return self._exited(end)
        except BaseException as error:
            if self._stopping.asked and isinstance(error, KeyboardInterrupt):
                raise
            return self._raised(error), error

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

    def _leave(self, outcome: dict[str, Any], value: Any) -> None:
        outcome = {**self._common(), "type": _type_name(value), **outcome}
        pickling = outcome["outcome"] in ("value", "raised")
        if pickling:
            if self._write(outcome, value):
                return
            kind = "unpicklable_value" if outcome["outcome"] == "value" else "unpicklable_exception"
            reason = outcome["traceback"] or self._pickling_traceback
            outcome.update(outcome=kind, text=_repr(value), traceback=reason)
        self._write(outcome)

    _pickling_traceback = ""

    def _write(self, outcome: Mapping[str, Any], *values: Any) -> bool:
        """Write the sealed result; tell whether the value, if one is given, could be pickled."""
        writer = SealedWriter(self.job.file("result.sealed"), self._key, self._run_id, RESULT_SEQ)
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

        gpus, driver = self._gpus.answer()
        threads = [
            thread.name
            for thread in threading.enumerate()
            if thread is not threading.main_thread() and not thread.daemon
        ]
        if threads:
            names = ", ".join(threads)
            sys.stderr.write(
                f"dayfly: the function returned while threads were running, ended: {names}\n"
            )
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


def _pickle(value: Any, writer: SealedWriter, check: bool) -> None:
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


def _volunteer_for_oom() -> None:
    """When memory runs out the kernel should take the job, not its supervisor or the SSH server."""
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("500")
    except OSError:
        return


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
