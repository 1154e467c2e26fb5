"""Onlooker: looks at a run that another process may have in hand, or none; it changes nothing about it."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

from dayfly.errors import DayflyError, SpecError
from dayfly.runtime import admission, ending, redact, samples
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
    """Reads the directory of a run while a client follows it there; where none does, asks the machine, or each of them.

    Lifecycle: constructing does nothing, a look that needs a machine connects, leaving closes.

    Args:
        workspace: where the run is written down.
        run_id: which.
        note: told where a firewall was changed, so that this computer is let in.

    Attributes:
        patience_s: with a machine that does not answer.
    """

    def __init__(
        self, workspace: Workspace, run_id: str, note: Callable[[str], None] = lambda _: None
    ) -> None:
        self._directory = workspace.directory(run_id)
        self._sessions: tuple[Session, ...] = ()
        self.patience_s = _PATIENCE_S
        self._told: tuple[tuple[Sample, ...], ...] = ()
        self._note, self._has_knocked = note, False

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
        """Leaves the machines alone, if they were asked."""
        sessions, self._sessions = self._sessions, ()
        for session in sessions:
            session.close()

    def look(self) -> Usage:
        """One reading."""
        # One that cannot be read now must not hide the others that are looked at.
        history = journal.read_or_trouble(self._directory)
        if not _is_unattended(history):
            return Usage.of(history, trouble=history.trouble)
        try:
            return self._asked(history)
        except (DayflyError, OSError) as trouble:
            self.close()
            return Usage.of(history, trouble=str(trouble))

    def _asked(self, history: History) -> Usage:
        # Its import takes a quarter of a second, and most looks need none.
        from dayfly.runtime.fleet import side_by_side

        if not any(self._told):
            self._told = samples.read_all(self._directory, history.nodes)
        margin = _secret_bytes(history)
        tail = 0 if margin is None else TAIL_BYTES + margin
        sessions = self._connected(history)
        looks = [
            partial(
                session.look, told[-1].number if told else -1, tail if session is sessions[0] else 0
            )
            for session, told in zip(sessions, self._told, strict=True)
        ]
        found = side_by_side(looks)
        self._told = tuple(
            samples.joined(told, each.samples) for told, each in zip(self._told, found, strict=True)
        )
        return Usage.of(history, self._told, _masked(found[0]) if tail else None)

    def _connected(self, history: History) -> tuple[Session, ...]:
        if not self._sessions:
            from dayfly.runtime.fleet import side_by_side
            from dayfly.runtime.session import Session

            if not self._has_knocked:
                self._has_knocked = True
                admission.knock(history, self._note)
            keys = Keys.of(self._directory)
            self._sessions = tuple(
                Session(
                    machine,
                    keys,
                    connect_timeout_s=self.patience_s,
                    give_up_s=self.patience_s,
                )
                for machine in history.machines
            )
            side_by_side([session.__enter__ for session in self._sessions])
        return self._sessions


def watch(history: History, take: Callable[[Stream, bytes], None]) -> None:
    """Hands over the log of a run that another computer has in hand, from its beginning to the end of its function.

    Of several machines it is that of the first.

    Raises:
        SpecError: the values of its secrets are not set here, so that they could not be masked.
        ConnectFailed: the machine does not answer.
        InstanceLost: it was lost meanwhile.
    """
    if _secret_bytes(history) is None:
        names = ", ".join(history.secrets)
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
    there = len(history.machines) == history.nodes
    on_machine = history.started and there and not history.closed
    return on_machine and not history.client_alive() and ending.known(history) is None


def _secret_bytes(history: History) -> int | None:
    """Has the run's secrets masked, and gives the length of the longest; None where one is not known here, so that the
    log could show it in clear."""
    declared = history.secrets
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
