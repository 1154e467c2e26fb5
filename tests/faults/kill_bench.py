"""Bench: what the kills of one process share, each thing made when the first of them needs it."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.emulators.lambda_cloud import Options
from tests.faults import left, moments
from tests.faults.kill_aim import KEPT, LAMBDA, LOCAL, PLAIN, RANKS, SESSION, Aim
from tests.faults.lambda_world import World, world
from tests.faults.place import COMMAND_S, Place
from tests.faults.starts import Starts, starts
from tests.faults.victim import Victim
from tests.faults.warm_victims import KeptVictim, RanksVictim, SessionVictim

_ASKED = {
    LOCAL: 'provider="local"',
    LAMBDA: 'provider="lambda", instance_type="gpu_1x_a10", region="us-east-1", time="1h"',
}
_LINES, _PAUSE_S, _SIZE = 40, 0.02, 1 << 20
VICTIMS: dict[tuple[str, str], Victim] = {
    (provider, PLAIN): Victim(_LINES, _PAUSE_S, _SIZE, asked, by_port=True)
    for provider, asked in _ASKED.items()
} | {
    (LOCAL, KEPT): KeptVictim.of(_LINES, _PAUSE_S, _SIZE),
    (LOCAL, SESSION): SessionVictim.of(_LINES, _PAUSE_S, _SIZE),
    (LOCAL, RANKS): RanksVictim.of(_LINES, _PAUSE_S, _SIZE),
}
# What a run of that kind takes of a plain call's time: a second call, and two seconds in which its machine is kept; two machines.
_LONGER = {KEPT: 1.8, RANKS: 1.1}
# As fast as engines and SSH servers on two busy cores can follow.
_OPTIONS = Options(time_scale=20, listing_lag_s=20.0)


@dataclass
class Bench:
    """Where one kill after the other is made.

    Attributes:
        place: where all of it is.
        starts: what functions have said of themselves.
    """

    place: Place
    starts: Starts
    _stack: contextlib.ExitStack
    _cloud: World | None = None

    def cloud(self, provider: str) -> World | None:
        """An account of Lambda's emulator for one run, with nothing in it but a stranger's; None for this computer."""
        if provider != LAMBDA:
            return None
        if self._cloud is None:
            self._cloud = self._stack.enter_context(world(self.place.home, _OPTIONS))
        self._cloud.renew(_OPTIONS)
        return self._cloud

    def client(self, provider: str, kind: str, seed: int) -> subprocess.Popen[bytes]:
        """A client that begins a run of that kind."""
        script = self.place.home / f"victim_{provider}{kind}.py"
        if not script.exists():
            script.write_text(VICTIMS[provider, kind].code)
        return self.place.client(script, seed, self.starts.port)

    def lasts_s(self, aim: Aim) -> float:
        """How long a run of that kind takes that nobody kills, from its first file to its client's end."""
        return self._call_lasts_s(aim.provider) * _LONGER.get(aim.kind, 1.0)

    def lasted(self, aim: Aim, took_s: float) -> None:
        """Takes note of how long one has taken that ended before its kill: the first of all takes longer than most."""
        known_s = self._call_lasts_s(aim.provider)
        self._note(aim.provider, (known_s + took_s / _LONGER.get(aim.kind, 1.0)) / 2)

    def _call_lasts_s(self, provider: str) -> float:
        """The same of a plain call."""
        with contextlib.suppress(FileNotFoundError):
            return float(self._noted(provider).read_text())
        self.cloud(provider)
        before = left.runs(self.place.home)
        client = self.client(provider, PLAIN, 0)
        try:
            assert moments.wait_for_run(self.place.home, before, client, COMMAND_S)
            began = time.monotonic()
            assert client.wait(COMMAND_S) == 0, self.place.said(0)
        finally:
            client.kill()
            client.wait()
        took_s = time.monotonic() - began
        self._note(provider, took_s)
        return took_s

    def _noted(self, provider: str) -> Path:
        return self.place.shared / f"lasts.{provider}"

    def _note(self, provider: str, lasts_s: float) -> None:
        """For all processes of the campaign."""
        whole = self.place.home / f"lasts.{provider}.new"
        whole.write_text(str(lasts_s))
        whole.replace(self._noted(provider))


@contextlib.contextmanager
def bench(place: Place) -> Iterator[Bench]:
    """One for as long as the block lasts."""
    with starts() as told, contextlib.ExitStack() as stack:
        yield Bench(place, told, stack)
