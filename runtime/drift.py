"""Drift: how what the provider says of a machine now differs from what the journal has, and what follows from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from dayfly.errors import RunFailed
from dayfly.infra import providers
from dayfly.infra.found import State
from dayfly.infra.machine import Machine
from dayfly.infra.providers.base import Provider
from dayfly.stacks import journal
from dayfly.stacks.journal import History

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

    Raises:
        RunFailed: the run is closed, or has no machine yet.
        DayflyError: the provider cannot be asked.
    """
    machine = history.machine
    if history.closed or machine is None:
        what = "is closed" if history.closed else "has no machine yet"
        raise RunFailed(f"run {history.id} {what}; `dayfly show {history.id[:12]}` tells its story")
    provider = providers.load(history.provider)
    owner = str(history.intent.get("owner", ""))
    listed = [found for found in provider.inventory(owner) if found.run == history.id]
    instances = [found for found in listed if found.kind == "instance"]
    state = provider.instance_state(machine.id)
    kind, action = _told(state, bool(instances))
    address = (machine.host, machine.port)
    if kind == "none":
        kind, action, address = _moved(provider, machine)
    if kind != "none":
        _note(history, machine, kind, action, address)
    kinds = tuple(sorted({found.kind for found in listed}))
    where = f"{address[0]}:{address[1]}"
    return Drift(history.id, machine.id, kind, action, _MEANING[kind], state, kinds, where)


def _told(state: State, is_listed: bool) -> tuple[Kind, Action]:
    if state == "preempted":
        return "preempted", "retry"
    if state == "unhealthy":
        return "unhealthy", "replace"
    # A listing alone may lag, and so may the answer to a single question: together they tell.
    if state in ("terminated", "stopping") or (state == "unknown" and not is_listed):
        return "deleted", "fail"
    return ("not ready", "wait") if state in _COMING else ("none", "keep")


def _moved(provider: Provider, machine: Machine) -> tuple[Kind, Action, tuple[str, int]]:
    known = (machine.host, machine.port)
    now = provider.address(machine.id)
    if now is None or now == known:
        return "none", "keep", known
    return "address changed", "reconnect", now


def _note(
    history: History, machine: Machine, kind: Kind, action: Action, address: tuple[str, int]
) -> None:
    journal.append(history.directory, "drift", kind=kind, action=action, instance=machine.id)
    if kind == "address changed":
        moved = asdict(machine) | {"host": address[0], "port": address[1]}
        journal.append(history.directory, "machine", **moved)
