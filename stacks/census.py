"""Census: every run and leftover that shows anywhere: in the journal, the state backend, and each provider's own listing."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from dayfly.errors import DayflyError
from dayfly.infra import providers
from dayfly.infra.found import GONE, Found
from dayfly.stacks import account, journal, state
from dayfly.stacks.engine import Engine
from dayfly.stacks.journal import History
from dayfly.stacks.standing import Status, is_only_seen, standing
from dayfly.stacks.workspace import Workspace

_STACK = "stack"
# Between the intent of a plain `pulumi up` and its first creating request.
_PLAIN_UP_S = 60.0


@dataclass(frozen=True)
class Finding:
    """One run or leftover, and what is to become of it.

    Attributes:
        run: its id.
        status: RUNNING, CLOSING, HELD, KEPT, EXPIRED, ORPHAN or FOREIGN.
        why: one sentence.
        provider: where it is; "" for a stack that only the state backend knows.
        usd_per_hour: what it costs while it lives, 0 where only the provider knows of it.
        history: its journal, None where only the provider or the backend knows of it.
        found: what the provider, or the backend, lists of it.
        owner: whose it is.
        created: unix time at which it was asked for, None where nothing tells.
    """

    run: str
    status: Status
    why: str
    provider: str
    usd_per_hour: float = 0.0
    history: History | None = None
    found: tuple[Found, ...] = ()
    owner: str = ""
    created: float | None = None


@dataclass(frozen=True)
class Census:
    """All that could be found, and where nothing could be.

    Attributes:
        findings: runs and leftovers.
        untagged: how much of each provider's listing carries no tag of ours: never touched.
        failed: whose listing is not complete, and why; nothing may be concluded about what is there.
        unasked: who was not asked, since something for that is missing on this computer.
    """

    findings: tuple[Finding, ...]
    untagged: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    unasked: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Listing:
    """What one provider lists of one run."""

    provider: str
    found: tuple[Found, ...]

    def tag(self, name: str) -> str:
        """The first value of that tag."""
        return next((f.tags[name] for f in self.found if f.tags.get(name)), "")

    def moment(self, name: str) -> float | None:
        """The same as a unix time; None where it is none, for anybody may have written it."""
        try:
            moment = float(self.tag(name))
        except ValueError:
            return None
        return moment if math.isfinite(moment) else None


def survey(workspace: Workspace, now: float | None = None) -> list[Finding]:
    """Every open run of the journal, and everything with this owner's tag that the journal does not know, at the
    providers that these runs are at.

    Raises:
        DayflyError: a provider's listing is not complete; nothing may be concluded from it.
    """
    open_runs = journal.histories(workspace.runs)
    names = _concerned(open_runs) | {"local"}
    # Not by this owner alone: a run belongs to the one that it was launched as, and the setting may have changed.
    found = _census(workspace, open_runs, names, now)
    if found.failed:
        raise DayflyError("; ".join(found.failed.values()))
    return [finding for finding in found.findings if finding.status != "FOREIGN"]


def census(
    workspace: Workspace,
    engine: Engine | None,
    now: float | None = None,
    *,
    only: str = "",
) -> Census:
    """Every open run, everything that carries our tags at any provider that can be asked, whoever owns it, and every
    stack of the backend that no journal knows.

    Args:
        workspace: whose they are.
        engine: the Pulumi CLI, which lists the stacks of a backend that is no folder.
        now: unix time.
        only: the id of one run, or its beginning: no provider is asked that has nothing to do with it.
    """
    open_runs = journal.histories(workspace.runs)
    ours = [history for history in open_runs if history.id.startswith(only)]
    needed = _concerned(ours)
    unasked, unusable = ({}, {}) if only and ours else _unasked(needed)
    names = needed if only and ours else set(providers.names()) - set(unasked) - set(unusable)
    found = _census(workspace, ours, names, now)
    stacks, failed = ([], {}) if only and ours else _stray_stacks(workspace, engine, found)
    findings = [f for f in (*found.findings, *stacks) if f.run.startswith(only)]
    return Census(tuple(findings), found.untagged, {**found.failed, **unusable, **failed}, unasked)


def owned_by(found: Census, owner: str) -> Census:
    """What providers list of one owner, and no journal of this computer knows."""
    findings = [f for f in found.findings if f.owner == owner and f.provider and f.history is None]
    return dataclasses.replace(found, findings=tuple(findings))


def _concerned(open_runs: Iterable[History]) -> set[str]:
    """Those that have to be asked: where runs are that this home has to do with."""
    return {history.provider for history in open_runs if not is_only_seen(history)}


def _unasked(needed: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Providers that no open run is at and that cannot be asked: those that nobody has set up on this computer, and
    those that somebody has, but not as it must be."""
    unasked, unusable = {}, {}
    for name in sorted(set(providers.names()) - set(needed)):
        provider = providers.load(name)
        missing = provider.preflight()
        if missing and provider.is_configured():
            unusable[name] = f"{name}: what is set up for it cannot be used: {missing[0]}"
        elif missing:
            unasked[name] = missing[0]
    return unasked, unusable


def _census(
    workspace: Workspace,
    open_runs: Sequence[History],
    names: Iterable[str],
    now: float | None,
) -> Census:
    moment = time.time() if now is None else now
    listed, untagged, failed = _listed(names)
    findings = [
        _finding(history, listed.get(history.id), moment, sure=history.provider not in failed)
        for history in open_runs
    ]
    known = {history.id for history in open_runs}
    findings += [
        _stranger_or_trouble(workspace, run, listing, moment)
        for run, listing in listed.items()
        if run not in known
    ]
    return Census(tuple(findings), untagged, failed)


def _listed(
    names: Iterable[str],
) -> tuple[dict[str, _Listing], dict[str, int], dict[str, str]]:
    """Every provider's listing by run, what carries no tag of ours by provider, and the listings that failed."""
    table: dict[str, _Listing] = {}
    untagged: Counter[str] = Counter()
    failed = {}
    for name in sorted(set(names) & set(providers.names())):
        try:
            everything = providers.load(name).inventory(None)
        except Exception as error:  # noqa: BLE001  # a provider's SDK raises what it likes
            failed[name] = f"{name}: its listing is not complete: {error}"
            continue
        for found in everything:
            if found.run:
                held = table.get(found.run, _Listing(name, ()))
                table[found.run] = _Listing(name, (*held.found, found))
            else:
                untagged[name] += 1
    return table, dict(untagged), failed


def _finding(history: History, listing: _Listing | None, now: float, *, sure: bool) -> Finding:
    status, why = standing(history, now)
    found = listing.found if listing else ()
    # Nothing but a journal can tell of what is only seen here, or is closed.
    reason = "" if found or is_only_seen(history) or history.closed else account.trouble(history)
    why, sure = f"{why}; {reason}" if reason else why, sure and not reason
    if sure and history.plain and status == "RUNNING" and not found:
        status, why = _plain_unlisted(history, now) or (status, why)
    if sure and status in ("HELD", "KEPT") and not found and has_ended(history, now):
        status, why = "EXPIRED", "its machine has ended itself"
    rate = float(history.field("launched", "usd_per_hour", 0.0))
    intent = history.intent
    owner, created = str(intent.get("owner", "")), intent.get("created")
    return Finding(history.id, status, why, history.provider, rate, history, found, owner, created)


def has_ended(history: History, now: float) -> bool:
    """Whether the provider itself says that all of its machines have ended; a listing that misses one may lag.

    That it knows none of the id counts once that cannot be a lag either; that it cannot be asked counts for nothing.
    """
    launched, provider = history.launched, providers.load(history.provider)
    if not launched or "" in launched:
        return False
    try:
        account.check(history)
        states = {id: provider.instance_state(id) for id in launched}
    except Exception:  # noqa: BLE001  # a provider's SDK raises what it likes
        return False
    lag_s = provider.limits.listing_lag_s
    return all(
        states[id] in GONE or (states[id] == "unknown" and now >= event.time + lag_s)
        for id, event in launched.items()
    )


def _plain_unlisted(history: History, now: float) -> tuple[Status, str] | None:
    """What a run of the plain CLI is that its provider does not list; None while it may still be on its way."""
    if history.last("launched"):
        ended = has_ended(history, now)
        return ("EXPIRED", "the pulumi CLI has destroyed it") if ended else None
    since_s = now - float(history.intent.get("created", now))
    if since_s > providers.load(history.provider).limits.late_create_s + _PLAIN_UP_S:
        return "EXPIRED", "the pulumi CLI has not brought it up"
    return None


def _stranger_or_trouble(workspace: Workspace, run: str, listing: _Listing, now: float) -> Finding:
    """One that cannot be judged must not hide the others."""
    try:
        return _stranger(workspace, run, listing, now)
    except Exception as error:  # noqa: BLE001  # whatever can stand in a tag or a folder
        why = f"what is known of it cannot be read ({type(error).__name__}: {error})"
        return Finding(run, "UNREADABLE", why, listing.provider, found=listing.found)


def _stranger(workspace: Workspace, run: str, listing: _Listing, now: float) -> Finding:
    """Something with our tags that was in no open journal a moment ago."""
    history = journal.read(workspace.directory(run))
    if history.intent and not history.closed:
        return _finding(history, listing, now, sure=True)
    status, why = _of_nobody(workspace, history, listing, now)
    return Finding(
        run,
        status,
        why,
        listing.provider,
        found=listing.found,
        owner=listing.tag("dayfly-owner"),
        created=listing.moment("dayfly-created"),
    )


def _of_nobody(
    workspace: Workspace, history: History, listing: _Listing, now: float
) -> tuple[Status, str]:
    owner, deadline = listing.tag("dayfly-owner"), listing.moment("dayfly-deadline")
    if owner != workspace.owner:
        return "FOREIGN", f"it is {owner or 'nobody'}'s"
    if history.closed or deadline is None or deadline <= now:
        return "ORPHAN", "no journal of this computer has it open; it carries this owner's tag"
    return (
        "HELD",
        "no journal of this computer knows it, and its deadline is to come: another computer of this owner may",
    )


def _stray_stacks(
    workspace: Workspace, engine: Engine | None, found: Census
) -> tuple[list[Finding], dict[str, str]]:
    """Stacks with a run's name that neither a journal nor a listing knows."""
    try:
        names = state.stacks(workspace, engine)
    except state.StateUnusable as error:
        return [], {"state": f"the state backend cannot be listed: {error}"}
    known = {finding.run for finding in found.findings}
    alone = state.is_own(workspace)
    status: Status = "ORPHAN" if alone else "FOREIGN"
    why = "its stack is in the state backend, and no journal of this computer knows it"
    why += "" if alone else ": another computer that shares the backend may"
    return [
        Finding(
            name,
            status,
            why,
            "",
            found=(Found(_STACK, name, {"dayfly-run": name}),),
            owner=workspace.owner if alone else "",
        )
        for name in names
        if name not in known and not workspace.directory(name).exists()
    ], {}
