"""Traces: what a run may have left at its provider, from its journal and the provider's own record of what it asked for."""

from __future__ import annotations

from dataclasses import dataclass

from dayfly.infra import creations
from dayfly.infra.creations import Creation
from dayfly.infra.found import GONE, Found
from dayfly.infra.providers.base import Provider
from dayfly.stacks.journal import History

# What only a machine that lives has given cause for.
_SIGNS_OF_LIFE = ("connected", "host_key_rotated", "job_ended", "result_fetched")
# Of these the provider has said that it launched nothing, of the others as well as long as it was the launch that it refused:
# a plugin looks at what it has launched, and that may be refused, too.
_NO_LAUNCH, _NO_LAUNCH_OR_LOOK = ("capacity", "quota"), ("auth", "rate_limit", "invalid")


@dataclass(frozen=True)
class Trace:
    """One thing whose id is known, and which nobody has seen gone."""

    found: Found
    since: float


@dataclass(frozen=True)
class Life:
    """One machine that is billed, or may be.

    Attributes:
        id: of the machine, "" where its launch was not answered.
        begun: unix time at which it began to cost money at the earliest.
        ended: unix time at which it was seen gone, None where nobody has.
        is_guess: whether there was one is not known.
        is_twin: nobody asked for it: a launch was carried out twice.
    """

    id: str
    begun: float
    ended: float | None
    is_guess: bool = False
    is_twin: bool = False


@dataclass(frozen=True)
class Traces:
    """Everything that a teardown has to account for.

    Attributes:
        known: what certainly was made.
        unsettled: kinds of what may have been made without an answer: whether it was is not known.
        unsettled_since: unix time of the latest such request, None without one.
        recorded: True where nothing else can have been asked for: then one listing proves as much as two.
        lives: the machines that are billed, the one that was asked for first.
    """

    known: tuple[Trace, ...]
    unsettled: tuple[str, ...]
    unsettled_since: float | None
    recorded: bool
    lives: tuple[Life, ...]

    @classmethod
    def of(cls, history: History, provider: Provider) -> Traces:
        """What journal and record tell of a run.

        Raises:
            OSError: the record cannot be read now: nothing may be concluded from that.
        """
        if provider.keeps_creations:
            return _recorded(history, creations.read(history.directory))
        return _journaled(history, provider)


def seen_gone(history: History, instance: str) -> float | None:
    """Unix time at which somebody has first seen at the provider that a machine was gone, which ends its bill; None where
    nobody has, or where it has given a sign of life since."""
    gone: float | None = None
    for event in history.events:
        if event.name in _SIGNS_OF_LIFE or (
            event.name == "terminating" and event.fields.get("id") == instance
        ):
            gone = None
        elif (
            event.name == "drift"
            and event.fields.get("instance") == instance
            and event.fields.get("state") in GONE
        ):
            gone = gone or event.time
    return gone


def is_refused(history: History) -> bool:
    """True where the provider has said that it launched nothing, and nothing is known that it did launch."""
    if history.last("launched") is not None:
        return False
    kind, held = history.field("up_failed", "kind"), history.field("state_read", "machines")
    return (kind in _NO_LAUNCH and not held) or (kind in _NO_LAUNCH_OR_LOOK and held == 0)


def _journaled(history: History, provider: Provider) -> Traces:
    launched, begun = history.launched, history.last("up_started")
    missing = 0 if begun is None else max(0, history.nodes - len(launched))
    # An `up` that has ended well has asked for nothing but what its stack holds.
    complete = history.last("up_ended") is not None and not missing
    followed = complete and not provider.same_computer
    lost = 0 if is_refused(history) else missing
    # A vendor's plugin waits until a machine runs, which costs money by then: up to minutes, at Azure.
    asked = begun or (history.last("intent") if history.plain else None)
    lives = [
        Life(id, asked.time if asked else event.time, seen_gone(history, id))
        for id, event in launched.items()
    ]
    if begun is not None:
        lives += [Life("", begun.time, seen_gone(history, ""), is_guess=True)] * missing
    known = (
        Trace(Found("instance", id, _tags(history)), event.time) for id, event in launched.items()
    )
    return Traces(
        known=tuple(known) if followed else (),
        unsettled=("instance",) * lost,
        unsettled_since=_last_asked(history) if lost else None,
        recorded=followed,
        lives=tuple(lives),
    )


def _last_asked(history: History) -> float | None:
    """Unix time after which the engine can have asked for nothing: it may work on when its client is gone."""
    last = history.last("up_started", "up_failed", "engine_ended")
    return None if last is None else last.time


def _recorded(history: History, made: tuple[Creation, ...]) -> Traces:
    open_ones = [c for c in made if c.outcome == "open"]
    known = [
        Trace(Found(c.kind, c.id, _tags(history)), c.begun) for c in made if c.outcome == "answered"
    ]
    explained, own = set[str](), list[Life]()
    for id, launched in history.launched.items():
        if id in {c.id for c in made}:
            continue
        # The engine knows the answer although its record could not be written.
        node = int(launched.fields.get("node") or 0)
        asked = [c for c in open_ones if (c.kind, c.node) == ("instance", node)]
        explained |= {c.token for c in asked}
        known.append(Trace(Found("instance", id, _tags(history)), launched.time))
        begun = min((c.begun for c in asked), default=launched.time)
        own.append(Life(id, begun, seen_gone(history, id)))
    lives = [
        Life(c.id, c.begun, _ended(history, c), c.outcome == "open", c.twin)
        for c in made
        if c.kind == "instance" and c.outcome != "refused" and c.token not in explained
    ]
    open_ones = [c for c in open_ones if c.token not in explained]
    return Traces(
        known=tuple(known),
        unsettled=tuple(c.kind for c in open_ones),
        unsettled_since=max((c.begun for c in open_ones), default=None),
        recorded=True,
        lives=(*own, *lives),
    )


def _ended(history: History, made: Creation) -> float | None:
    """When it was first seen gone, by whoever ended it or by whoever looked."""
    seen = (made.ended, seen_gone(history, made.id))
    return min((moment for moment in seen if moment), default=None)


def _tags(history: History) -> dict[str, str]:
    return {"dayfly-run": history.id, "dayfly-owner": str(history.intent.get("owner", ""))}
