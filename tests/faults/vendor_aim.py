"""Aim at a vendor's cloud: what a seed kills, when and where."""

from __future__ import annotations

from dataclasses import dataclass

from tests.faults.vendor_worlds import WORLDS

CLOUDS = tuple(WORLDS)


# The plugin has been asked for the machine, and the engine does not know its id yet.
ASKED = "machine asked for"


@dataclass(frozen=True)
class Window:
    """A part of a call's life.

    Attributes:
        after: the journal's event that opens it, or ASKED.
        width_s: the kill comes at a random moment of so long.
    """

    after: str
    width_s: float


# Most of them while the engine creates and while it destroys: there something may be that is in no state.
WINDOWS = (
    Window("up_started", 1.5),
    Window("closing", 0.5),
    Window("intent", 0.5),
    Window("launched", 0.3),
    Window(ASKED, 0.3),
    Window("job_started", 0.6),
    Window("closing", 2.0),
    Window("machine", 0.5),
    Window("job_ended", 0.2),
    Window(ASKED, 1.0),
)
# Its client in every one; in half of them its keeper as well, and in half of those the engine and all else of ours.
WHOM = ("client", "client and keeper", "client", "all")
# Seeds so far apart are for the same.
CELLS = 2 * len(WINDOWS) * len(WHOM) * len(CLOUDS)


@dataclass(frozen=True)
class Aim:
    """What one trial is for.

    Attributes:
        seed: of the trial.
        cloud: where the machine is.
        window: in which the kill has to come; None for any moment from the start of the client to its end.
        whom: who dies.
    """

    seed: int
    cloud: str
    window: Window | None
    whom: str

    @classmethod
    def of(cls, seed: int) -> Aim:
        """Each cloud in turn, of each every second one in a window, each of those in turn, and who dies in it in turn as well."""
        turn = seed // len(CLOUDS)
        time, number = divmod(turn // 2, len(WINDOWS))
        # Not the same one for windows that are as far apart as there are kinds of those who die.
        whom = WHOM[(number + number // len(WHOM) + time) % len(WHOM)]
        window = None if turn % 2 else WINDOWS[number]
        return cls(seed, CLOUDS[seed % len(CLOUDS)], window, whom)
