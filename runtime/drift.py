"""Drift: how what the provider says of a machine now differs from what the journal has, and what follows from it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dayfly.errors import DayflyError, RunFailed
from dayfly.infra import providers
from dayfly.infra.found import GONE, Found, State
from dayfly.infra.machine import Machine
from dayfly.infra.providers.base import Provider
from dayfly.stacks import account, journal
from dayfly.stacks.absence import places_of
from dayfly.stacks.journal import History
from dayfly.stacks.traces import seen_gone

Kind = Literal["none", "not ready", "deleted", "preempted", "unhealthy", "address changed"]
Action = Literal["keep", "wait", "fail", "retry", "replace", "reconnect"]
_COMING = ("pending", "booting")
_MEANING = {
    "none": "it is as the journal has it",
    "not ready": "it is still coming up",
    "deleted": "somebody has deleted it at the provider, or its deadline has ended it: the run has failed",
    "preempted": "the provider has taken it back: another attempt may go well, and with retries= there is one by itself",
    "unhealthy": "the provider calls it unhealthy: cancel it and call again, for another machine",
    "address changed": "it answers elsewhere now: the journal has the new address, and the next attach connects there",
}


@dataclass(frozen=True)
class Drift:
    """What has become of a machine.

    Attributes:
        run: the run's id.
        instance: the provider's id of the machine.
        kind: what is different.
        action: what follows: "fail", "retry", "replace", "reconnect"; "keep" and "wait" where nothing does.
        meaning: the same in a sentence.
        state: the provider's word for it, in the standard ones.
        listed: kinds of things of the run that the provider lists.
        address: where it answers, as far as is known.
    """

    run: str
    instance: str
    kind: Kind
    action: Action
    meaning: str
    state: State
    listed: tuple[str, ...]
    address: str

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def refresh(history: History) -> Drift:
    """Asks the provider, and never the engine, whose refresh forgets what a listing misses; a new address is journaled.

    Of several machines it tells of the first that is not as the journal has it.

    Raises:
        RunFailed: the run is closed, or has no machine yet.
        DayflyError: the provider cannot be asked.
    """
    machines = history.machines
    if history.closed or not machines:
        what = "is closed" if history.closed else "has no machine yet"
        raise RunFailed(f"run {history.id} {what}; `dayfly show {history.id[:12]}` tells its story")
    account.check(history)
    provider = providers.load(history.provider)
    owner = str(history.intent.get("owner", ""))
    listed = provider.left_of(history.id, owner, places_of(history))
    found = [_of(history, machine, provider, listed) for machine in machines]
    return next((drift for drift in found if drift.kind != "none"), found[0])


def _of(history: History, machine: Machine, provider: Provider, listed: Sequence[Found]) -> Drift:
    """What has become of one machine."""
    state = _state(history, machine, provider, lambda: listed)
    kind, action = _told(state)
    address = (machine.host, machine.port)
    if kind == "none":
        kind, action, address = _moved(provider, machine)
    if kind != "none":
        _note(history, machine.id, kind, action, state)
    if kind == "address changed":
        moved = asdict(machine) | {"host": address[0], "port": address[1]}
        journal.append(history.directory, "machine", **moved)
    kinds = tuple(sorted({found.kind for found in listed}))
    where = f"{address[0]}:{address[1]}"
    return Drift(history.id, machine.id, kind, action, _MEANING[kind], state, kinds, where)


def state_now(history: History, id: str = "") -> State:
    """The provider's word for a run's machine, the first or the one with that id; "terminated" also where it knows none of its id. That it is gone is journaled
    when it is first seen: who follows the run heeds it, and the bill ends there.

    Raises:
        DayflyError: the provider cannot be asked, and nobody has seen the machine gone.
    """
    machine = next((each for each in history.machines if each.id == id), history.machine)
    assert machine is not None
    provider = providers.load(machine.provider)
    owner = str(history.intent.get("owner", ""))
    known = seen_gone(history, machine.id) is not None
    try:
        state = _state(
            history,
            machine,
            provider,
            lambda: provider.left_of(history.id, owner, places_of(history)),
        )
    except DayflyError:
        if not known:
            raise
        return "terminated"
    if state == "unknown" and known:
        return "terminated"
    if state in GONE and not known:
        kind, action = _told(state)
        # Whoever asks has to act on it in any case; without the note the bill is a little longer.
        with contextlib.suppress(OSError):
            _note(history, machine.id, kind, action, state)
    return state


def _state(
    history: History,
    machine: Machine,
    provider: Provider,
    listed: Callable[[], Sequence[Found]],
) -> State:
    """A listing alone may lag, and so may the answer to a single question: together, and when it was launched longer ago than
    that, they tell that a machine is gone."""
    account.check(history)
    state = provider.instance_state(machine.id)
    launched = history.last("launched", "machine")
    if state != "unknown" or launched is None:
        return state
    if time.time() < launched.time + provider.limits.listing_lag_s:
        return state
    is_listed = any(found.id == machine.id for found in listed())
    return state if is_listed else "terminated"


def _told(state: State) -> tuple[Kind, Action]:
    if state == "preempted":
        return "preempted", "retry"
    if state == "unhealthy":
        return "unhealthy", "replace"
    if state in ("terminated", "stopping"):
        return "deleted", "fail"
    return ("not ready", "wait") if state in _COMING else ("none", "keep")


def _moved(provider: Provider, machine: Machine) -> tuple[Kind, Action, tuple[str, int]]:
    known = (machine.host, machine.port)
    now = provider.address(machine.id)
    if now is None or now == known:
        return "none", "keep", known
    return "address changed", "reconnect", now


def _note(history: History, instance: str, kind: Kind, action: Action, state: State) -> None:
    journal.append(
        history.directory, "drift", kind=kind, action=action, instance=instance, state=state
    )
