"""Destroys one run and proves that nothing of it is left, from its journal alone: no SSH, no readable state needed."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dayfly.errors import DayflyError, LeakRisk, RunBusy
from dayfly.infra import cost, providers
from dayfly.infra.providers.base import Provider
from dayfly.stacks import journal
from dayfly.stacks.engine import Engine
from dayfly.stacks.engine_teardown import EngineTeardown
from dayfly.stacks.journal import Event, History
from dayfly.stacks.receipt import Receipt
from dayfly.stacks.run_lock import locked
from dayfly.stacks.workspace import Workspace

# What a closed run has no more use for: keys first of all. The HMAC key stays beside the result that it vouches for.
_SPENT = (
    "user_key",
    "user_key.pub",
    "host_key",
    "host_key.pub",
    "machine",
    "project",
    "task.sealed",
    "request.json",
)

Report = Callable[[str], None]


class Closer:
    """Closes one run: destroy, prove, forget.

    Args:
        workspace: where the run is kept.
        engine: the Pulumi CLI; None when there is none, and the provider's API alone does it.
        report: told each step in a sentence.
        now, sleep: time, so that tests need not wait for it.
    """

    def __init__(
        self,
        workspace: Workspace,
        engine: Engine | None,
        report: Report = lambda _: None,
        *,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._workspace = workspace
        self._report = _never_failing(report)
        self._now = now
        self._sleep = sleep
        self._notes: list[str] = []
        self._engine_part = EngineTeardown(
            workspace, engine, self._report, self._notes, now=now, sleep=sleep
        )

    def close(self, run_id: str) -> Receipt:
        """Destroys what is left of a run, waits for the proof, and writes the receipt. Closed already is success.

        Raises:
            LeakRisk: absence could not be proved; the run stays open.
            RunBusy: another process is closing it.
        """
        directory = self._workspace.directory(run_id)
        receipt = Receipt.of(directory)
        if receipt is not None:
            return receipt
        self._workspace.free_reserve()
        with locked(directory):
            receipt = Receipt.of(directory)
            if receipt is not None:
                return receipt
            history = journal.read(directory)
            try:
                return self._close(history)
            except (LeakRisk, RunBusy):
                raise
            except Exception as error:  # whatever it was, nothing is proved
                raise self._leak(history, "", f"{type(error).__name__}: {error}") from error

    def _close(self, history: History) -> Receipt:
        self._note_down(history, "closing", by=journal.myself())
        self._engine_part.end_processes(history)
        history = journal.read(history.directory)
        if not history.provider:
            return self._close_unknown(history)
        if history.provider not in providers.names():
            reason = f"this version of dayfly has no provider {history.provider!r}"
            raise self._leak(history, "the provider's own page", reason)
        how, declared, destroyed = self._engine_part.destroy(history)
        provider = providers.load(history.provider)
        terminated = self._prove(history, provider)
        if terminated and how == "pulumi":
            self._notes.append(f"{terminated} more found by tag and ended through the provider")
        self._engine_part.remove(history, forced=how != "pulumi" or bool(terminated))
        return self._sign(
            history, provider, how, max(declared, destroyed + terminated), destroyed + terminated
        )

    def _close_unknown(self, history: History) -> Receipt:
        """A directory without a readable intent: whatever carries its tag, at any provider that can be asked."""
        ended = 0
        for provider in map(providers.load, providers.names()):
            if provider.same_computer or not provider.preflight():
                ended += self._prove(history, provider)
        self._engine_part.remove(history, forced=True)
        receipt = Receipt(
            history.id,
            "",
            ended,
            ended,
            0,
            self._now(),
            0.0,
            0.0,
            0.0,
            "provider",
            ("its journal had no readable intent",),
        )
        return self._store(history, receipt)

    def _prove(self, history: History, provider: Provider) -> int:
        """Ends by tag whatever is still listed, then reads until two listings agree that nothing is left.

        Returns:
            How many things were still there.
        """
        owner, limits = history.intent.get("owner", self._workspace.owner), provider.limits
        ended = 0
        try:
            for _ in range(20):
                left = [found for found in provider.inventory(owner) if found.run == history.id]
                for found in left:
                    self._note_down(history, "terminating", kind=found.kind, id=found.id)
                    provider.terminate(found)
                ended += sum(found.kind == "instance" for found in left)
                if left:
                    self._sleep(min(limits.listing_lag_s, 1.0))
                    continue
                begun = _launched(history, ended)
                if begun is not None and begun.name == "up_started":
                    self._wait_for_late_create(history, provider)
                self._sleep(limits.listing_lag_s)
                if self._seems_alive(history, provider):
                    continue
                if not [found for found in provider.inventory(owner) if found.run == history.id]:
                    return ended
        except (DayflyError, OSError) as error:
            raise self._leak(history, limits.console, str(error)) from error
        raise self._leak(
            history, limits.console, "it is still listed after 20 rounds of termination"
        )

    def _seems_alive(self, history: History, provider: Provider) -> bool:
        """What the provider says of the very instance, where its id is known: a listing alone may lag."""
        id = history.field("launched", "id")
        if not id:
            return False
        alive = provider.instance_state(str(id)) not in ("terminated", "preempted", "unknown")
        if alive:
            self._sleep(max(provider.limits.listing_lag_s, 0.1))
        return alive

    def _note_down(self, history: History, event: str, **fields: Any) -> None:
        """Journals, if that can be: a teardown goes on without a record rather than leave a machine for one."""
        try:
            journal.append(history.directory, event, **fields)
        except OSError as error:
            self._notes.append(f"the journal could not take {event!r}: {error}")

    def _wait_for_late_create(self, history: History, provider: Provider) -> None:
        """A launch whose answer was never seen may still appear; no listing proves anything before that time."""
        started = history.last("up_started")
        assert started is not None
        wait_s = started.time + provider.limits.late_create_s - self._now()
        if wait_s > 0:
            self._report(f"waiting {wait_s:.0f} s, for so long a lost launch may still appear")
            self._sleep(wait_s)

    def _leak(self, history: History, console: str, reason: str) -> LeakRisk:
        command = f"dayfly gc --run {history.id} --yes"
        rate = _rate(history)
        machine = history.field("launched", "id", "") or f"whatever carries dayfly-run={history.id}"
        self._note_down(history, "leak_risk", reason=reason, id=machine)
        return LeakRisk(
            f"run {history.id}: it is not proved that {machine} is gone ({reason}). It costs ${rate:g}/h while it"
            f" lives. Look: {console}. Finish: {command}",
            run=history.id,
            resources=(machine,),
            usd_per_hour=rate,
            console=console,
            command=command,
        )

    def _sign(
        self, history: History, provider: Provider, how: str, declared: int, destroyed: int
    ) -> Receipt:
        launched, now = _launched(history, destroyed), self._now()
        lived_s = max(0.0, now - launched.time) if launched else 0.0
        rate, increment_s = _rate(history), provider.limits.billing_increment_s
        usd = cost.billed_usd(rate, lived_s, increment_s)
        receipt = Receipt(
            history.id,
            provider.name,
            destroyed,
            declared,
            0,
            now,
            lived_s,
            rate,
            usd,
            how,
            tuple(self._notes),
            cost.billed_s(lived_s, increment_s),
            at_most=launched is not None and launched.name == "up_started",
        )
        return self._store(history, receipt)

    def _store(self, history: History, receipt: Receipt) -> Receipt:
        for name in _SPENT:
            _remove(history.directory / name)
        journal.append(history.directory, "closed", **receipt.as_dict())
        journal.write_receipt(history.directory, receipt.as_dict())
        return receipt


# Of these the provider has said that it launched nothing.
_REFUSALS = ("capacity", "quota", "auth", "rate_limit", "invalid")


def _launched(history: History, destroyed: int) -> Event | None:
    """From when on it cost: the launch, or where its answer was lost, its beginning; None where nothing was launched."""
    refused = history.field("up_failed", "kind") in _REFUSALS and not destroyed
    return history.last("launched") or (None if refused else history.last("up_started"))


def _rate(history: History) -> float:
    """Dollars an hour: as launched, else, where the launch's answer was lost, as offered."""
    intent = history.intent
    offered = float(intent.get("offer", {}).get("usd_per_hour", 0.0))
    nodes = int(intent.get("spec", {}).get("nodes", 1))
    return float(history.field("launched", "usd_per_hour", offered * nodes))


def _never_failing(report: Report) -> Report:
    """Someone who can no longer be told is no reason to leave a machine."""

    def told(text: str) -> None:
        with contextlib.suppress(Exception):
            report(text)

    return told


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
