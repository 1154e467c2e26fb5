"""Waiting for Lambda Cloud: until a machine can be logged in to, and until one is gone; bounded, and apart from what creates."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dayfly.infra import port_map
from dayfly.infra.found import GONE
from dayfly.infra.ingress import SSH_PORT
from dayfly.infra.lambda_errors import ApiError
from dayfly.infra.lambda_records import Instance

if TYPE_CHECKING:
    from dayfly.infra.lambda_api import LambdaApi

READY_S = 15 * 60.0
GONE_S = 10 * 60.0
_FIRST_STEP_S, _LONGEST_STEP_S = 1.0, 8.0
# The patience with a twin that is ending, once the machine itself is ready and costs money.
_TWIN_S = 60.0


@dataclass(frozen=True)
class Waiting:
    """How to wait.

    Attributes:
        api: who is asked.
        check: asked between two looks; what it raises ends the wait.
        scale: how many of the API's seconds pass in one of ours.
        now, sleep: time, so that tests need not wait for it.
        record: told at each look which machines of the run are listed, and whether each costs money; says whether a twin does.
        node: which machine of the run is waited for: the others are no twins of it. None where all are to end.
    """

    api: LambdaApi
    check: Callable[[], None] = lambda: None
    scale: float = 1.0
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    record: Callable[[Mapping[str, bool]], bool] = lambda _: False
    node: int | None = None

    def until_ready(self, id: str, run: str, timeout_s: float = READY_S) -> Instance:
        """Waits until a machine is active, has an address, and its SSH server speaks.

        Meanwhile whatever else a launch of this run has made is ended: some launches are carried out twice.

        Raises:
            ApiError: it is unhealthy, was taken back, has ended, or is not ready in time.
        """
        doing, step_s = f"waiting for instance {id}", _FIRST_STEP_S / self.scale
        until, last = self.now() + timeout_s / self.scale, "it is not listed yet"
        ready_at: float | None = None
        while True:
            self.check()
            found, twin = self._look(id, run)
            if found is not None:
                _refuse_ended(found, doing)
                last = _not_ready(found)
                if not last:
                    ready_at = self.now() if ready_at is None else ready_at
                    # Its end has to be seen, else it would be billed until the run's own.
                    if not twin or self.now() >= ready_at + _TWIN_S / self.scale:
                        return found
            if self.now() >= until:
                raise ApiError(
                    doing,
                    "dayfly/not-ready",
                    f"not ready after {timeout_s / 60:.0f} min: {last}",
                )
            self.sleep(step_s)
            step_s = min(step_s * 1.3, _LONGEST_STEP_S / self.scale)

    def until_gone(
        self, id: str, run: str, unseen_until: float = 0.0, timeout_s: float = GONE_S
    ) -> None:
        """Ends a machine, and whatever else its run shows, and waits until the API says that it has ended.

        Args:
            id: of the machine; gone already is success.
            run: whose it is.
            unseen_until: unix time until which "there is none" says nothing, since it was launched so lately.
            timeout_s: of the API's time.

        Raises:
            ApiError: it has not ended in time.
        """
        doing, step_s = f"ending instance {id}", _FIRST_STEP_S / self.scale
        until, last = self.now() + timeout_s / self.scale, "not listed yet"
        while True:
            # Looked at first: whoever closes the run has asked for its end before, as a rule.
            found, _ = self._look(id, run)
            if found is not None:
                last = found.state
                if last in GONE:
                    return
            elif last != "not listed yet" or time.time() >= unseen_until:
                return
            if last != "stopping":
                self._ask_for_the_end(id)
            if self.now() >= until:
                raise ApiError(
                    doing, "dayfly/not-ready", f"still {last} after {timeout_s / 60:.0f} min"
                )
            self.sleep(step_s)
            step_s = min(step_s * 1.3, _LONGEST_STEP_S / self.scale)

    def _ask_for_the_end(self, id: str) -> None:
        try:
            self.api.terminate(id)
        except ApiError as error:
            # Not listed yet, or gone since it was looked at: the next look tells.
            if not error.gone:
                raise

    def until_free(self, delete: Callable[[], None], run: str, timeout_s: float = GONE_S) -> None:
        """Deletes a ruleset as soon as its machines, which are ending, let go of it.

        A launch that was carried out twice holds it as well, unlisted at first: whatever the run shows is ended.

        Raises:
            ApiError: it is in use for longer than that.
        """
        until, step_s = self.now() + timeout_s / self.scale, _FIRST_STEP_S / self.scale
        while True:
            try:
                return delete()
            except ApiError as error:
                if not error.in_use or self.now() >= until:
                    raise
            # What a listing that fails does not tell is looked for again in a moment.
            with contextlib.suppress(ApiError):
                self._end_twins(self.api.instances(), run, id="")
            self.sleep(step_s)

    def _end_twins(self, rows: Sequence[Instance], run: str, id: str) -> bool:
        """Ends whatever else a listing shows of the run, and says whether any of that still costs money."""
        of_run = (row for row in rows if row.tags.get("dayfly-run") == run)
        ours = sorted(
            (row for row in of_run if self.node in (None, row.node)), key=lambda row: row.id != id
        )
        costly = False
        # A full disk must not keep a twin alive.
        with contextlib.suppress(OSError):
            costly = self.record({row.id: row.state not in GONE for row in ours})
        for row in ours:
            if row.id != id and row.state not in ("stopping", *GONE):
                # It is looked for again in a moment, and by whoever closes the run.
                with contextlib.suppress(ApiError):
                    self.api.terminate(row.id)
        return costly

    def _look(self, id: str, run: str) -> tuple[Instance | None, bool]:
        """The machine, and whether another one of its run still costs money."""
        rows = self.api.instances()
        costly_twin = self._end_twins(rows, run, id)
        own = next((row for row in rows if row.id == id), None)
        if own is not None:
            return own, costly_twin
        try:
            return self.api.instance(id), costly_twin
        except ApiError as error:
            if not error.gone:
                raise
            return None, costly_twin


def _refuse_ended(found: Instance, doing: str) -> None:
    words = {
        "unhealthy": ("dayfly/unhealthy", "Lambda calls it unhealthy"),
        "preempted": ("dayfly/preempted", "Lambda has taken it back"),
        "stopping": ("dayfly/ended", "somebody is ending it"),
        "terminated": ("dayfly/ended", "somebody has ended it"),
    }
    if found.state in words:
        code, text = words[found.state]
        raise ApiError(doing, code, text)


def _not_ready(found: Instance) -> str:
    """What is still missing, "" when nothing is."""
    if found.state != "running":
        return f"it is {found.state}"
    if not found.ip:
        return "it is active and has no address"
    host, port = port_map.endpoint(found.id, found.ip, SSH_PORT)
    said = banner(host, port)
    if said.startswith("SSH-"):
        return ""
    return (
        f"port {port} of {host} says {said!r}; where it never answers, a firewall may not know this computer's"
        " address: set allow_cidr"
    )


def banner(host: str, port: int) -> str:
    """What the server says first, or why it says nothing."""
    try:
        with socket.create_connection((host, port), timeout=5) as connection:
            return connection.recv(255).decode(errors="replace").strip() or "nothing"
    except OSError as error:
        return str(error)
