"""Onlooker: looks at a run that another process may have in hand, or none; it changes nothing about it."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from dayfly.errors import DayflyError, SpecError
from dayfly.runtime import ending, redact, samples
from dayfly.runtime.records import Glance, Keys
from dayfly.runtime.redact import StreamMask
from dayfly.runtime.run_log import STREAMS
from dayfly.runtime.samples import Sample
from dayfly.runtime.surface import Stream
from dayfly.runtime.usage import TAIL_BYTES, Usage
from dayfly.stacks import journal
from dayfly.stacks.journal import History
from dayfly.stacks.workspace import Workspace

if TYPE_CHECKING:
    from dayfly.runtime.session import Session

# Whoever looks waits for this, and looks again.
_PATIENCE_S = 10.0


class Onlooker:
    """Reads the directory of a run while a client follows it there; where none does, asks the machine.

    Lifecycle: constructing does nothing, a look that needs the machine connects, leaving closes.

    Attributes:
        patience_s: with a machine that does not answer.
    """

    def __init__(self, workspace: Workspace, run_id: str) -> None:
        self._directory = workspace.directory(run_id)
        self._session: Session | None = None
        self.patience_s = _PATIENCE_S
        self._told: tuple[Sample, ...] = ()

    def __enter__(self) -> Onlooker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leaves the machine alone, if it was asked."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def look(self) -> Usage:
        """One reading."""
        history = journal.read(self._directory)
        if not _is_unattended(history):
            return Usage.of(history)
        try:
            return self._asked(history)
        except (DayflyError, OSError) as trouble:
            self.close()
            return Usage.of(history, trouble=str(trouble))

    def _asked(self, history: History) -> Usage:
        if not self._told:
            self._told = samples.read(self._directory)
        last = self._told[-1].number if self._told else -1
        margin = _secret_bytes(history)
        tail = 0 if margin is None else TAIL_BYTES + margin
        found = self._connected(history).look(last, tail)
        self._told = samples.joined(self._told, found.samples)
        return Usage.of(history, self._told, _masked(found) if tail else None)

    def _connected(self, history: History) -> Session:
        if self._session is None:
            # Its import takes a quarter of a second, and most looks need none.
            from dayfly.runtime.session import Session

            assert history.machine is not None
            session = Session(
                history.machine,
                Keys.of(self._directory),
                connect_timeout_s=self.patience_s,
                give_up_s=self.patience_s,
            )
            self._session = session.__enter__()
        return self._session


def watch(history: History, take: Callable[[Stream, bytes], None]) -> None:
    """Hands over the log of a run that another computer has in hand, from its beginning to the end of its function.

    Of several machines it is that of the first.

    Raises:
        SpecError: the values of its secrets are not set here, so that they could not be masked.
        ConnectFailed: the machine does not answer.
        InstanceLost: it was lost meanwhile.
    """
    if _secret_bytes(history) is None:
        names = ", ".join(history.intent["spec"]["secrets"])
        raise SpecError(
            f"run {history.id[:12]} was given {names}, not all set here, so that it could stand in the log in clear: export"
            f" the same, then `dayfly logs -f {history.id[:12]}`"
        )
    from dayfly.runtime.session import Session

    machine, masks = history.machine, {stream: StreamMask() for stream in STREAMS}
    assert machine is not None

    def sink(stream: Stream, _offset: int, data: bytes) -> None:
        take(stream, masks[stream].feed(data))

    with Session(machine, Keys.of(history.directory)) as session:
        session.watch(sink)
    for stream, mask in masks.items():
        take(stream, mask.flush())


def _is_unattended(history: History) -> bool:
    """Whether its function may run on a machine, and nobody here follows it."""
    on_machine = history.started and history.machine is not None and not history.closed
    return on_machine and not history.client_alive() and ending.known(history) is None


def _secret_bytes(history: History) -> int | None:
    """Has the run's secrets masked, and gives the length of the longest; None where one is not known here, so that the
    log could show it in clear."""
    declared = history.intent.get("spec", {}).get("secrets", ())
    values = [os.environ[name] for name in declared if name in os.environ]
    redact.remember(values)
    if len(values) < len(declared):
        return None
    return max((len(value.encode(errors="surrogateescape")) for value in values), default=0)


def _masked(found: Glance) -> dict[str, bytes]:
    """Without the margin, in which the end of a secret may stand whose beginning was cut off."""
    masked = {}
    for stream, data in found.tails.items():
        mask = StreamMask()
        masked[stream] = (mask.feed(data) + mask.flush())[-TAIL_BYTES:]
    return masked
