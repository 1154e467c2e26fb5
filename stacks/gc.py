"""What dead clients left behind: found in the journal and in every provider's own listing, then destroyed and proved gone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from dayfly.errors import DayflyError
from dayfly.infra import providers
from dayfly.infra.found import Found
from dayfly.infra.units import human_seconds
from dayfly.stacks import isolated, journal
from dayfly.stacks.closer import Closer
from dayfly.stacks.engine import Engine
from dayfly.stacks.journal import History
from dayfly.stacks.receipt import Receipt
from dayfly.stacks.workspace import Workspace

Status = Literal["RUNNING", "CLOSING", "HELD", "EXPIRED", "ORPHAN", "CLOSED"]
# A living client enforces its own deadline and needs a moment for it.
_CLIENT_GRACE_S = 300.0
_CLIENT_LIVES = "its client is alive"
# They outlive this process on purpose; a reference keeps the interpreter from warning about that.
_DETACHED: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class Finding:
    """One run or leftover, and what is to become of it.

    Attributes:
        run: its id.
        status: RUNNING, CLOSING, HELD, EXPIRED or ORPHAN.
        why: one sentence.
        provider: where it is.
        usd_per_hour: what it costs while it lives.
        history: its journal, None where only the provider knows of it.
        found: what the provider lists of it.
    """

    run: str
    status: Status
    why: str
    provider: str
    usd_per_hour: float = 0.0
    history: History | None = None
    found: tuple[Found, ...] = ()


def hold_until(history: History) -> float:
    """Unix time until which the result of a run waits on its machine: never past the deadline."""
    ended = history.last("job_ended")
    if ended is None:
        return history.deadline
    hold_s = float(history.intent.get("spec", {}).get("hold", 0.0))
    return min(history.deadline, float(ended.fields.get("ended", ended.time)) + hold_s)


def standing(history: History, now: float) -> tuple[Status, str]:
    """What a run is, from its journal alone."""
    if history.closed:
        return "CLOSED", "proved gone"
    if not history.intent:
        return "ORPHAN", "its journal has no readable intent"
    return _in_hand(history, now) or _without_client(history, now)


def _in_hand(history: History, now: float) -> tuple[Status, str] | None:
    """What a run is that somebody alive takes care of; None where nobody does."""
    closing = history.last("closing", "leak_risk", "detached")
    overdue = now >= history.deadline + _CLIENT_GRACE_S
    if (
        closing is not None
        and closing.name == "closing"
        and journal.is_alive(closing.fields["by"])
        and not overdue
    ):
        return "CLOSING", f"process {closing.fields['by']['pid']} is destroying it"
    if closing is not None and closing.name == "leak_risk":
        return "EXPIRED", f"its teardown could not prove absence: {closing.fields['reason']}"
    if history.client_alive() and not overdue:
        return "RUNNING", _CLIENT_LIVES
    return None


def _without_client(history: History, now: float) -> tuple[Status, str]:
    if now >= history.deadline:
        return "EXPIRED", "its deadline has passed"
    if history.plain:
        return "RUNNING", f"brought up by the pulumi CLI as stack {history.stack}"
    if not history.started:
        return "ORPHAN", "its client died before the function was started"
    if history.last("acknowledged") is not None:
        return "ORPHAN", "its client died after the result had come back"
    return _held(history, now)


def _held(history: History, now: float) -> tuple[Status, str]:
    until = hold_until(history)
    if now >= until:
        return "EXPIRED", "its result was held as long as was asked for"
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(until))
    hold = human_seconds(float(history.intent["spec"]["hold"]))
    return (
        "HELD",
        f"its client is gone; `dayfly attach {history.id[:12]}` for {hold} after its end, {clock} at the latest",
    )


def survey(workspace: Workspace, now: float | None = None) -> list[Finding]:
    """Every open run of the journal, and everything with this owner's tag that the journal does not know.

    Raises:
        DayflyError: a provider's listing is not complete; nothing may be concluded from it.
    """
    moment = time.time() if now is None else now
    open_runs = journal.histories(workspace.runs)
    listed = _listed(workspace.owner, {history.provider for history in open_runs} | {"local"})
    findings = [_finding(history, listed, moment) for history in open_runs]
    known = {history.id for history in open_runs}
    findings += [
        _stranger(workspace, run, provider, found, moment)
        for run, (provider, found) in listed.items()
        if run not in known
    ]
    return findings


def _stranger(
    workspace: Workspace, run: str, provider: str, found: tuple[Found, ...], now: float
) -> Finding:
    """Something with this owner's tag that was in no open journal a moment ago."""
    history = journal.read(workspace.directory(run))
    if history.intent and not history.closed:
        return _finding(history, {run: (provider, found)}, now)
    deadlines = [
        float(item.tags["dayfly-deadline"]) for item in found if item.tags.get("dayfly-deadline")
    ]
    if history.closed or not deadlines or max(deadlines) <= now:
        why = "no journal of this computer has it open; it carries this owner's tag"
        return Finding(run, "ORPHAN", why, provider, found=found)
    why = "no journal of this computer knows it, and its deadline is to come: another computer of this owner may"
    return Finding(run, "HELD", why, provider, found=found)


def _finding(
    history: History, listed: dict[str, tuple[str, tuple[Found, ...]]], now: float
) -> Finding:
    status, why = standing(history, now)
    found = listed.get(history.id, ("", ()))[1]
    if history.plain and status == "RUNNING" and history.last("launched") and not found:
        status, why = "EXPIRED", "the pulumi CLI has destroyed it"
    if status == "HELD" and not found:
        status, why = "EXPIRED", "its machine has ended itself"
    rate = float(history.field("launched", "usd_per_hour", 0.0))
    return Finding(history.id, status, why, history.provider, rate, history, found)


def _listed(owner: str, names: Iterable[str]) -> dict[str, tuple[str, tuple[Found, ...]]]:
    table: dict[str, tuple[str, tuple[Found, ...]]] = {}
    for name in sorted(set(names) & set(providers.names())):
        for found in providers.load(name).inventory(owner):
            if found.run:
                table[found.run] = (name, (*table.get(found.run, ("", ()))[1], found))
    return table


def doomed(findings: Sequence[Finding], *, held: bool = False) -> list[Finding]:
    """Those that may be destroyed without asking their client: expired and orphaned ones; held ones only if asked."""
    return [
        f for f in findings if f.status in ("EXPIRED", "ORPHAN") or (held and f.status == "HELD")
    ]


def destroy(
    workspace: Workspace, engine: Engine | None, finding: Finding, report: Callable[[str], None]
) -> Receipt | None:
    """Destroys one finding and proves it gone, unless somebody has taken it in hand since it was found.

    Returns:
        The receipt; None for what no journal knows, which leaves no record, and for what is somebody's now.

    Raises:
        LeakRisk: absence could not be proved.
    """
    if finding.history is not None:
        fresh = journal.read(finding.history.directory)
        if not fresh.closed and _in_hand(fresh, time.time()) == ("RUNNING", _CLIENT_LIVES):
            report(f"run {finding.run[:12]} has been taken in hand meanwhile; it is left alone")
            return None
        return Closer(workspace, engine, report).close(finding.run)
    provider = providers.load(finding.provider)
    for found in finding.found:
        provider.terminate(found)
    left = [found for found in provider.inventory(workspace.owner) if found.run == finding.run]
    if left:
        raise DayflyError(
            f"{len(left)} things of run {finding.run} are still listed; run `dayfly gc --yes` again"
        )
    return None


def start_detached(workspace: Workspace, run_id: str, *, at: float | None = None) -> None:
    """Starts one `dayfly gc --run ID` that outlives this process, and journals it; with `at` it waits until that time."""
    command = [sys.executable, "-m", "dayfly.runtime.cli", "gc", "--run", run_id, "--yes", "--held"]
    if at is not None:
        command += ["--at", f"{at:.0f}"]
    environment = os.environ | {"DAYFLY_HOME": str(workspace.home)}
    process: subprocess.Popen[bytes] = isolated.start(
        command,
        cwd=workspace.home,
        log=workspace.directory(run_id) / "gc.log",
        environment=environment,
    )
    _DETACHED.append(process)
    # Whoever comes next sees that this run is seen to.
    by = journal.described(process.pid)
    journal.append(workspace.directory(run_id), "gc_scheduled", by=by, at=at)
