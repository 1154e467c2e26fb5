"""Aim: what a seed of the kill matrix kills, when and where; which of all that is tried how often is so known beforehand."""

from __future__ import annotations

from dataclasses import dataclass

from tests.faults.kill_hold import Hold
from tests.faults.moments import POINTS

LOCAL, LAMBDA = "local", "lambda"
# Of the runs on this computer every second one is a plain call; the others are of each other kind in turn.
PLAIN, KEPT, SESSION, RANKS = "", "kept", "session", "ranks"
_KINDS = (PLAIN, KEPT, PLAIN, SESSION, PLAIN, RANKS)
WHOM = ("client", "all", "provider process", "CLI", "program", "keeper")
_PROVIDERS = (LAMBDA, LOCAL)
# Seeds so far apart are for the same.
CELLS = 4 * len(POINTS) * len(WHOM) * 3
# The first seed of all strikes at the worst moment: a machine exists, and nobody knows its id.
_FIRST = POINTS.index("accepted")


# Before the POST: before it is sent; sent, and carried out when its client is dead; on record, and never sent.
_HOLDS: dict[str, tuple[Hold | None, ...]] = {
    "before POST": (
        Hold("list_ssh_keys", "hold"),
        Hold("launch", "hold", late_s=8.0),
        Hold("launch", "hold_drop"),
    ),
    "accepted": (Hold("launch", "hold_answer"),),
    # The first listing is that of the wait for the machine, whose id is known by then.
    "answered": (Hold("list_instances", "hold"),),
    "destroying": (Hold("terminate", "hold"), None, Hold("terminate", "hold_answer")),
}


@dataclass(frozen=True)
class Aim:
    """What one trial is for.

    Attributes:
        seed: of the trial.
        provider: where the machine is.
        point: at which the kill has to come; "" for any moment of the run's life.
        whom: kind of process that dies, where there is one then; another one at any moment.
        hold: what keeps the run at the point.
        kind: of run: a plain call, one whose machine is kept for the next, a session of two calls, or one of two ranks.
    """

    seed: int
    provider: str
    point: str
    whom: str
    hold: Hold | None
    kind: str = PLAIN

    @classmethod
    def of(cls, seed: int) -> Aim:
        """Every second one on Lambda's emulator, of both halves every second one at a named point, each of those in turn;
        and who dies there in turn as well."""
        provider = _PROVIDERS[seed % 2]
        kind = _kind(seed) if provider == LOCAL else PLAIN
        if seed // 2 % 2:
            return cls(seed, provider, "", "", None, kind)
        # Here and there at different ones, so that each has its share of the last, broken round.
        start = _FIRST + (provider == LOCAL) * len(POINTS) // 2
        point = POINTS[(seed // 4 + start) % len(POINTS)]
        time = seed // (4 * len(POINTS))
        holds = _HOLDS.get(point, (None,)) if provider == LAMBDA else (None,)
        hold = holds[(time + time // len(WHOM)) % len(holds)]
        return cls(seed, provider, point, WHOM[time % len(WHOM)], hold, kind)


def _kind(seed: int) -> str:
    """Another one for each point each time that this comes again, and later with another of those who die there."""
    turn, time = seed // 4, seed // (4 * len(POINTS))
    later = time // len(WHOM) % 3
    return _KINDS[(turn + 5 * time + 2 * later) % len(_KINDS)]
