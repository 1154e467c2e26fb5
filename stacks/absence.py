"""Absence: ends whatever a provider still shows of a run, and reads until it is proved that nothing is left.

Known ids are followed until the provider itself says that they have ended; a request without an answer is waited for; what
carries the run's tag is ended wherever it comes from.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from dayfly.infra import creations
from dayfly.infra.found import GONE, Found
from dayfly.infra.providers.base import Provider
from dayfly.stacks import late_look
from dayfly.stacks.journal import History
from dayfly.stacks.traces import Traces

_GIVE_UP_S = 600.0
_FIRST_STEP_S, _LONGEST_STEP_S = 0.05, 5.0
_LOOK_EVERY_S = 15.0


class StillThere(Exception):
    """Something is listed however often it was ended."""


@dataclass
class Absence:
    """One proof, of one run.

    Attributes:
        provider: who is asked.
        history: the run's journal.
        owner: whose it is, by tag.
        note_down: told of everything that is ended.
        report: told each step in a sentence.
        now, sleep: time, so that tests need not wait for it.
        linger: told how long a late launch has to be waited for, before that begins; what it raises leaves it to others.
        asked: ids of machines whose end was asked for before; those that nobody has seen gone count as ended here.
    """

    provider: Provider
    history: History
    owner: str
    note_down: Callable[[Found], None]
    report: Callable[[str], None]
    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    linger: Callable[[float], None] = lambda _: None
    asked: frozenset[str] = frozenset()
    _ended: set[str] = field(default_factory=set, init=False)

    def prove(self, traces: Traces) -> int:
        """Returns when nothing is left.

        Args:
            traces: what the run may have left.

        Returns:
            How many machines had to be ended here.

        Raises:
            StillThere: something does not end.
            DayflyError, OSError: the provider cannot be asked; nothing is proved.
        """
        lag_s = self.provider.limits.listing_lag_s
        self._end_known(traces)
        self._end_listed()
        if traces.unsettled_since is not None:
            self._await_late(traces, traces.unsettled_since)
        if not traces.recorded or traces.unsettled:
            self._until_silent(lag_s)
        self._see_to_twins(traces)
        return len(self._ended)

    def _see_to_twins(self, traces: Traces) -> None:
        """A launch that was carried out twice holds its ruleset, so that a ruleset that is gone has no twin; without one
        only a listing shows it, which may lag. The keeper looks then: to wait here would be a minute for nothing.
        """
        launched_at = max((life.begun for life in traces.lives), default=0.0)
        visible_at = launched_at + self.provider.limits.listing_lag_s
        made = creations.read(self.history.directory) if self.provider.keeps_creations else ()
        if made and self.now() < visible_at and not any(c.kind == "network" and c.id for c in made):
            at = time.strftime("%H:%M:%S", time.localtime(visible_at))
            self.report(
                f"had its launch been carried out twice, no listing showed it before {at}: the keeper looks again then,"
                " and so does any `dayfly gc`"
            )
            # A full disk must not keep what is proved from being signed; `gc` looks everywhere.
            with contextlib.suppress(OSError):
                late_look.put(self.history.directory, visible_at)

    def _end_known(self, traces: Traces) -> None:
        """Follows each machine whose id is known to its end, then what it was using."""
        for trace in traces.known:
            if trace.found.kind == "instance":
                self._end_instance(trace.found, trace.since)
                self._ended |= self.asked & {trace.found.id}
                self._forget(trace.found)
        for trace in traces.known:
            if trace.found.kind != "instance":
                self._end(trace.found)
                self._forget(trace.found)

    def _end_instance(self, found: Found, since: float) -> None:
        """Until the provider says that it has ended; that it knows none of the id counts once a listing cannot lag."""
        visible_at = since + self.provider.limits.listing_lag_s
        for _ in self._rounds(found.id):
            state = self.provider.instance_state(found.id)
            if state in GONE:
                return
            if state == "unknown" and self.now() >= visible_at:
                return
            if state != "stopping":
                self._end(found)

    def _end_listed(self) -> None:
        """Until a listing shows nothing of the run."""
        for _ in self._rounds(f"whatever carries dayfly-run={self.history.id}"):
            listed = self._listed()
            if not listed:
                for id in self._ended:
                    self._forget(Found("instance", id))
                return
            for found in listed:
                if found.state != "stopping":
                    self._end(found)

    def _await_late(self, traces: Traces, since: float) -> None:
        """A request whose answer was never seen may still be carried out; no listing proves anything before that time."""
        limits = self.provider.limits
        until = since + limits.late_create_s
        if until > self.now():
            wait_s = until - self.now()
            self.report(f"waiting {wait_s:.0f} s, for so long a lost launch may still appear")
            self.linger(wait_s)
        while not self._is_settled(traces) and (left := until - self.now()) > 0:
            self.sleep(min(left, max(limits.listing_lag_s / 4, 1.0), _LOOK_EVERY_S))
            self._end_listed()

    def _is_settled(self, traces: Traces) -> bool:
        """True once something has turned up for every machine that was asked for without an answer."""
        machines = sum(kind == "instance" for kind in traces.unsettled)
        others = len(traces.unsettled) - machines
        answered = {trace.found.id for trace in traces.known} | set(self.history.launched)
        found = self._ended - answered
        return not others and len(found) >= machines

    def _until_silent(self, lag_s: float) -> None:
        """Two listings have to agree, as far apart as a listing may lag."""
        ids = [id for id in self.history.launched if id]
        for _ in self._rounds(", ".join(ids) or self.history.id):
            self.sleep(lag_s)
            alive = [id for id in ids if self._lives(id)]
            for id in alive:
                self._end(Found("instance", id, {"dayfly-run": self.history.id}))
            if alive:
                continue
            if not self._listed():
                return
            self._end_listed()

    def _lives(self, id: str) -> bool:
        return self.provider.instance_state(id) not in (*GONE, "unknown")

    def _listed(self) -> Sequence[Found]:
        return self.provider.left_of(self.history.id, self.owner, places_of(self.history))

    def _end(self, found: Found) -> None:
        self.note_down(found)
        if found.kind == "instance" and self.provider.keeps_creations:
            # A full disk must not keep a machine alive; its bill alone is lost then.
            with contextlib.suppress(OSError):
                creations.found(self.history.directory, found.id, _node_of(found))
        self.provider.terminate(found)
        if found.kind == "instance":
            self._ended.add(found.id)

    def _forget(self, found: Found) -> None:
        if not self.provider.keeps_creations:
            return
        with contextlib.suppress(OSError):
            creations.deleted(self.history.directory, found.id)

    def _rounds(self, what: str) -> Iterator[None]:
        """Looks at ever longer intervals, for as long as a machine may take to end."""
        until, step_s = self.now() + _GIVE_UP_S, _FIRST_STEP_S
        while True:
            yield
            if self.now() >= until:
                raise StillThere(f"{what} is still there {_GIVE_UP_S:.0f} s after it was ended")
            self.sleep(step_s)
            step_s = min(step_s * 2, _LONGEST_STEP_S)


def places_of(history: History) -> tuple[str, ...]:
    """Where all that the run may have asked for is; empty where an intent does not say."""
    offers = [event.fields.get("offer") or {} for event in history.events if event.name == "intent"]
    places = tuple(dict.fromkeys(str(offer.get("region") or "") for offer in offers))
    return () if history.trouble or "" in places else places


def _node_of(found: Found) -> int | None:
    number = found.tags.get("dayfly-node")
    if number is None:
        # The first carries none; what is known by its id alone may be any.
        return 0 if found.tags.get("dayfly-created") else None
    return int(number) if number.isdecimal() else None
