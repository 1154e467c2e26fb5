"""Journal: the fsync'd record of every Run, kept outside Pulumi, in the run's own directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dayfly.errors import UnknownRun
from dayfly.infra.machine import Machine
from dayfly.infra.run import Run, is_id
from dayfly.stacks import vitals

FILE = "journal.jsonl"
RECEIPT = "receipt.json"
# In the folder of a home whose runs other homes may take in hand.
IDENTITY = "identity"
# What a run's program says, from the moment on at which it is started.
PROGRAM_LOG = "program.log"

myself, described = vitals.myself, vitals.described
is_alive, is_same_computer = vitals.is_alive, vitals.is_same_computer


@dataclass(frozen=True)
class Event:
    """One line of a journal: a name, its unix time, and what it says."""

    name: str
    time: float
    fields: dict[str, Any]


@dataclass(frozen=True)
class History:
    """Everything that the journal knows of one run; `trouble` says why it cannot be read now, "" where it can."""

    id: str
    directory: Path
    events: tuple[Event, ...]
    trouble: str = ""

    def last(self, *names: str) -> Event | None:
        """The latest event of one of these names."""
        return next((event for event in reversed(self.events) if event.name in names), None)

    def last_of(self, node: int, *names: str) -> Event | None:
        """The latest event of one of these names that tells of one machine."""
        of_it = (e for e in reversed(self.events) if int(e.fields.get("node") or 0) == node)
        return next((event for event in of_it if event.name in names), None)

    def field(self, event: str, name: str, default: Any = None) -> Any:
        """One field of the latest event of that name."""
        found = self.last(event)
        return default if found is None else found.fields.get(name, default)

    @property
    def intent(self) -> dict[str, Any]:
        """What was wanted, as written before anything existed; empty where even that is lost."""
        found = self.last("intent")
        return {} if found is None else found.fields

    @property
    def closed(self) -> bool:
        """True when it was proved that nothing is left."""
        return is_closed(self.directory)

    @property
    def reopened(self) -> Event | None:
        """By which it was opened again after its receipt, None where it was not."""
        found = self.last("reopened", "closed")
        return found if found is not None and found.name == "reopened" else None

    @property
    def provider(self) -> str:
        """Name of the provider in use."""
        return str(self.field("intent", "provider", ""))

    @property
    def plain(self) -> bool:
        """True for a machine that the plain pulumi CLI brought up; its stack belongs to whoever made it."""
        return bool(self.intent.get("plain"))

    @property
    def stack(self) -> str:
        """Name of its stack: the id, but for a plain one."""
        return str(self.intent.get("stack", self.id))

    @property
    def deadline(self) -> float:
        """Unix time at which the machine is to be destroyed."""
        return float(self.field("intent", "deadline", 0.0))

    @property
    def credentials(self) -> tuple[str, ...]:
        """Names of the variables of its client's environment that hold its credentials; no timer has them."""
        return tuple(self.intent.get("credentials", ()))

    @property
    def secrets(self) -> tuple[str, ...]:
        """Names of the variables that its function was given, whose values are masked wherever they would be shown."""
        return tuple(self.intent.get("spec", {}).get("secrets", ()))

    @property
    def nodes(self) -> int:
        """How many machines were asked for."""
        return int(self.intent.get("spec", {}).get("nodes", 1))

    @property
    def is_shared_out(self) -> bool:
        """True for a warm run whose calls were given out to several machines."""
        return bool(self.intent.get("warm")) and self.nodes > 1

    @property
    def launched(self) -> dict[str, Event]:
        """What was launched, by the provider's id of each machine."""
        return {str(e.fields.get("id", "")): e for e in self.events if e.name == "launched"}

    @property
    def machine(self) -> Machine | None:
        """The machine, the first one where there are several."""
        return self.machine_of(0)

    @property
    def machines(self) -> tuple[Machine, ...]:
        """All of those that the stack has exported yet, in their order."""
        found = map(self.machine_of, range(self.nodes))
        return tuple(machine for machine in found if machine is not None)

    def machine_of(self, node: int) -> Machine | None:
        """One machine, once the stack has exported it, with the host key that it has now."""
        found = self.last_of(node, "machine")
        key = self.last_of(node, "host_key_offered", "host_key_rotated")
        if found is None:
            return None
        machine = Machine.from_outputs(found.fields)
        if key is None:
            return machine
        if key.name == "host_key_offered":
            return replace(machine, host_key_offered=key.fields["host_key"])
        return replace(machine, host_key=key.fields["host_key"], host_key_bootstrap=False)

    @property
    def started(self) -> bool:
        """True from the moment at which the function may have started."""
        return self.last("job_started") is not None

    @property
    def run(self) -> Run:
        """The identity, as it was given to the provider."""
        intent = self.intent
        return Run(
            self.id,
            intent["owner"],
            intent["created"],
            intent["deadline"],
            self.directory,
            intent["public_key"],
            intent["host_key"],
        )

    @property
    def turn(self) -> Event | None:
        """How the run last came into somebody's hands, or was let go of."""
        return self.last("intent", "attached", "detached")

    def client_alive(self) -> bool:
        """True while the client that last took this run in hand lives, as far as this computer can tell."""
        found = self.turn
        if found is None or found.name == "detached":
            return False
        home = found.fields.get("home")
        if home and home != home_of(self.directory):
            return False  # Of another home, which alone judges its clients.
        return is_alive(found.fields.get("client", {}))


def home_of(directory: Path) -> str:
    """What other homes know that one by which a run's directory is in; "" where none needs to."""
    with contextlib.suppress(OSError):
        return (directory.parent.parent / IDENTITY).read_text().strip()
    return ""


def whose(directory: Path) -> dict[str, str]:
    """What tells an event of this home from one of another home that has had the same run in hand."""
    home = home_of(directory)
    return {"home": home} if home else {}


def append(directory: Path, event: str, **fields: Any) -> None:
    """Writes one event and returns when it is on the disk."""
    line = json.dumps({"event": event, "t": time.time(), **fields}).encode() + b"\n"
    try:
        _write(directory / FILE, line)
    except OSError as error:
        # Login nodes have quotas rather than full disks.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        (directory.parent.parent / "reserve").unlink(missing_ok=True)
        _write(directory / FILE, line)


def _write(file: Path, line: bytes) -> None:
    fresh = not file.exists()
    descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        # A line that a full disk or a crash cut short must not swallow the next one.
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        written = os.write(descriptor, line)
        if written != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if fresh:
        _sync_folder(file.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_receipt(directory: Path, values: dict[str, Any]) -> None:
    """Marks a run as closed: its receipt, written aside and renamed."""
    aside = directory / f"{RECEIPT}.part"
    aside.touch(mode=0o600)
    with aside.open("w") as output:
        json.dump(values, output)
        output.flush()
        os.fsync(output.fileno())
    aside.rename(directory / RECEIPT)
    _sync_folder(directory)


def events(lines: Sequence[bytes] | Iterator[bytes]) -> Iterator[Event]:
    """The events of journal lines; a line that is cut or garbled is passed over."""
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, AttributeError, TypeError):
            values = json.loads(line)
            yield Event(values.pop("event"), float(values.pop("t")), values)


def read(directory: Path) -> History:
    """The history of one run; a missing journal, or one without a readable line, is an empty history.

    Raises:
        OSError: it is there and this computer cannot read it now: nothing may be concluded from that.
    """
    try:
        lines = (directory / FILE).read_bytes().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        lines = []
    return History(directory.name, directory, tuple(events(lines)))


def is_closed(directory: Path) -> bool:
    """Whether a run has a receipt; one that cannot be read, or is none, proves nothing.

    It goes by the journal then, which has the same words.
    """
    try:
        return bool(json.loads((directory / RECEIPT).read_bytes())["run"])
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError):
        return recorded_receipt(directory) is not None


def recorded_receipt(directory: Path) -> dict[str, Any] | None:
    """The receipt's values as the journal has them, None where it has none or cannot be read."""
    with contextlib.suppress(OSError):
        found = read(directory).last("closed")
        return None if found is None else found.fields
    return None


def histories(runs: Path, *, closed: bool = False) -> list[History]:
    """All open runs, the oldest first; with `closed` the closed ones too.

    One that this computer cannot read now is among them, with its trouble: it must not hide the others.
    """
    found = [
        read_or_trouble(entry)
        for entry in runs.iterdir()
        if is_id(entry.name) and entry.is_dir() and (closed or not is_closed(entry))
    ]
    return sorted(found, key=lambda history: history.events[0].time if history.events else 0.0)


def read_or_trouble(directory: Path) -> History:
    """As `read`; one that this computer cannot read now is a history without events, with its trouble."""
    try:
        return read(directory)
    except OSError as error:
        return History(directory.name, directory, (), f"{error.strerror}: {error.filename}")


def find(runs: Path, prefix: str) -> History:
    """The run of that id, or of the id that begins so.

    Raises:
        UnknownRun: none fits, or several do.
    """
    if not prefix or not prefix.isalnum():
        raise UnknownRun(f"{prefix!r} is not a run id; `dayfly ps --all` lists them")
    fitting = [entry for entry in runs.iterdir() if entry.name.startswith(prefix)]
    if len(fitting) != 1:
        what = f"{len(fitting)} runs begin with" if fitting else "no run begins with"
        raise UnknownRun(f"{what} {prefix!r}; `dayfly ps --all` lists them")
    return read(fitting[0])
