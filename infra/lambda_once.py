"""A creating request that is never sent blindly twice: fenced, on record before and after, and looked for when its answer is lost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dayfly.infra import creations, fence
from dayfly.infra.lambda_errors import ApiError, MaybeCreated, Unanswered

_MOST_REFUSALS = 6
_REFUSED_WAIT_S = 5.0
# Nobody waits for longer than this before anything exists.
_LONGEST_WAIT_S = 120.0
_STEP_S = 1.0


@dataclass(frozen=True)
class Once:
    """Makes one thing of a run at most once.

    Attributes:
        directory: the run's directory, which has its fence and its record.
        deadline: unix time after which nothing is made.
        kind: as `Found.kind`.
        await_turn: waits until a request may be sent; is given a check that may end the wait.
        post: sends the request and returns the id.
        find: ids of what is listed already, by name or tag; the first one is adopted.
        look_for_s: how long to look for what a lost answer may have made: as long as a listing may miss it.
        scale: how many of the API's seconds, in which all waits are told, pass in one of ours.
        now, sleep: time, so that tests need not wait for it.
        node: which machine of the run, for an instance.
    """

    directory: Path
    deadline: float
    kind: str
    await_turn: Callable[[Callable[[], None]], None]
    post: Callable[[], str]
    find: Callable[[], list[str]]
    look_for_s: float
    scale: float = 1.0
    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    node: int = 0

    def make(self) -> str:
        """Makes it, or adopts what an earlier attempt of this run has made.

        Returns:
            Its id.

        Raises:
            MaybeCreated: whether it was made is not known; it may appear late.
            FenceShut: the run is being closed; nothing was asked for.
            ApiError: it was refused.
        """
        made = creations.read(self.directory)
        earlier = [c for c in made if (c.kind, c.node) == (self.kind, self.node)]
        for creation in earlier:
            if creation.outcome == "answered":
                return creation.id
            if creation.outcome == "open":
                return self._look_for(creation, "an earlier attempt was not answered")
        for left in reversed(range(_MOST_REFUSALS)):
            try:
                return self._send()
            except ApiError as refusal:
                # Turned away at the door: nothing was made, and the same request may be sent again.
                if refusal.kind != "rate_limit" or not left:
                    raise
                self._refuse_long(refusal)
                self._wait(refusal.retry_after_s or _REFUSED_WAIT_S / self.scale)
        raise AssertionError("unreachable")

    def _send(self) -> str:
        self.await_turn(self._check)
        with fence.passing(self.directory, self.deadline, self.now):
            creation = creations.begin(self.directory, self.kind, self.node)
            try:
                id = self.post()
            except Unanswered as lost:
                reason = str(lost)
            except ApiError as refusal:
                with contextlib.suppress(OSError):
                    creations.refused(self.directory, creation, str(refusal))
                raise
            else:
                # The answer is worth more than its record: a full disk must not lose the id.
                with contextlib.suppress(OSError):
                    creations.answered(self.directory, creation, id)
                return id
        return self._look_for(creation, reason)

    def _look_for(self, creation: creations.Creation, reason: str) -> str:
        """Looks through listings for what a lost answer may have made; without the fence, so that nobody waits for it."""
        until = self.now() + self.look_for_s / self.scale
        while True:
            # A listing that fails says nothing; the bound holds all the same.
            with contextlib.suppress(ApiError):
                found = self.find()
                if found:
                    with contextlib.suppress(OSError):
                        creations.answered(self.directory, creation, found[0])
                    return found[0]
            if self.now() >= until or fence.is_shut(self.directory):
                raise MaybeCreated(
                    f"making the {self.kind} of run {self.directory.name}",
                    "dayfly/maybe-created",
                    f"maybe it was made, and no listing shows it ({reason})",
                )
            self.sleep(_STEP_S / self.scale)

    def _refuse_long(self, refusal: ApiError) -> None:
        asked_s, most_s = refusal.retry_after_s or 0.0, _LONGEST_WAIT_S / self.scale
        if asked_s > most_s:
            raise ApiError(
                f"making the {self.kind} of run {self.directory.name}",
                refusal.code,
                f"it asks to wait {asked_s:.0f} s, and {most_s:.0f} s is the longest that is waited: try again later",
                asked_s,
            ) from refusal

    def _wait(self, span_s: float) -> None:
        until = self.now() + span_s
        while (left := until - self.now()) > 0:
            self._check()
            self.sleep(min(left, 0.25))

    def _check(self) -> None:
        fence.check(self.directory, self.deadline, self.now)
