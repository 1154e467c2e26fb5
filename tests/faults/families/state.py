"""The engine's state truncated, emptied, deleted, edited or locked under a run: the next command still ends it in time."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults import left
from tests.faults.dead_runs import dead_runs
from tests.faults.family import Family
from tests.faults.place import Place
from tests.faults.trial import Trial

_NAME = "state"
# On a computer with a free core; on a busy one so much longer as more processes want to run than there are cores, up to twice.
_WITHIN_S, _MOST_LOAD = 10.0, 2.0


@dataclass(frozen=True)
class _Spoiled:
    """One run's state file, and the chance that decides what becomes of it."""

    file: Path
    run: str
    chance: random.Random

    def truncated(self) -> str:
        size = self.file.stat().st_size
        kept = self.chance.randrange(1, size)
        os.truncate(self.file, kept)
        return f"state truncated to {kept} of {size} bytes"

    def emptied(self) -> str:
        os.truncate(self.file, 0)
        return "state emptied"

    def deleted(self) -> str:
        self.file.unlink()
        return "state deleted"

    def flipped(self) -> str:
        data = bytearray(self.file.read_bytes())
        places = sorted(self.chance.sample(range(len(data)), self.chance.randrange(1, 20)))
        for place in places:
            data[place] ^= 1 << self.chance.randrange(8)
        self.file.write_bytes(data)
        return f"bits flipped in bytes {places}"

    def zeroed(self) -> str:
        """What a crash leaves of a file whose blocks were never written."""
        size = self.file.stat().st_size
        self.file.write_bytes(bytes(size))
        return "state turned into zeros"

    def without_resources(self) -> str:
        return self._edited("resources removed", lambda latest: latest.pop("resources"))

    def without_instance(self) -> str:
        def edit(latest: dict[str, Any]) -> None:
            latest["resources"] = [r for r in latest["resources"] if "Instance" not in r["type"]]

        return self._edited("the instance removed", edit)

    def with_pending(self) -> str:
        """The instance as an operation that was begun and never ended."""

        def edit(latest: dict[str, Any]) -> None:
            found = [r for r in latest["resources"] if "LocalInstance" in r["type"]]
            latest["resources"] = [r for r in latest["resources"] if r not in found]
            latest["pending_operations"] = [{"resource": r, "type": "creating"} for r in found]

        return self._edited("the instance turned into a pending operation", edit)

    def other_id(self) -> str:
        def edit(latest: dict[str, Any]) -> None:
            for resource in latest["resources"]:
                if resource.get("id"):
                    resource["id"] = "local-000000000000"

        return self._edited("other ids", edit)

    def other_run(self) -> str:
        """The inputs of all resources name a machine of somebody else."""

        def edit(latest: dict[str, Any]) -> None:
            for resource in latest["resources"]:
                for side in ("inputs", "outputs"):
                    if "run" in resource.get(side, {}):
                        resource[side]["run"] = "f" * 32

        return self._edited("the id of somebody else's run", edit)

    def locked_by_the_dead(self) -> str:
        ended = subprocess.Popen(["true"])
        ended.wait()
        return self._locked(ended.pid, "a dead process")

    def locked_by_a_number_used_again(self) -> str:
        """The process that has the number now was started after the lock was made."""
        return self._locked(os.getppid(), "a process whose number is another's now")

    def _locked(self, pid: int, whose: str) -> str:
        folder = self.file.parents[2] / "locks/organization/dayfly" / self.run
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "pid": pid,
            "username": "root",
            "hostname": socket.gethostname(),
            "timestamp": "2001-01-01T00:00:00.000000000Z",
        }
        (folder / "7f3b0c2e-0000-4000-8000-000000000000.json").write_text(json.dumps(content))
        return f"state locked by {whose}"

    def _edited(self, what: str, edit: Callable[[dict[str, Any]], object]) -> str:
        held = json.loads(self.file.read_text())
        edit(held["checkpoint"]["latest"])
        self.file.write_text(json.dumps(held))
        return f"state edited: {what}"


_WAYS: tuple[Callable[[_Spoiled], str], ...] = (
    _Spoiled.truncated,
    _Spoiled.emptied,
    _Spoiled.deleted,
    _Spoiled.locked_by_the_dead,
    _Spoiled.flipped,
    _Spoiled.without_resources,
    _Spoiled.truncated,
    _Spoiled.with_pending,
    _Spoiled.zeroed,
    _Spoiled.locked_by_a_number_used_again,
    _Spoiled.without_instance,
    _Spoiled.flipped,
    _Spoiled.other_id,
    _Spoiled.other_run,
)


def run(place: Place, seeds: Iterator[int], at_once: int = 2) -> Iterator[Trial]:
    """Every way in turn."""
    with dead_runs(place, at_once) as stock:
        for seed in seeds:
            yield _trial(place, stock.take(), seed)


def _trial(place: Place, run: str, seed: int) -> Trial:
    (file,) = (place.home / "state").rglob(f"stacks/**/{run}.json")
    done = _WAYS[seed % len(_WAYS)](_Spoiled(file, run, random.Random(seed)))
    began = time.monotonic()
    command = place.dayfly("gc", "--run", run, "--yes", "--held")
    took_s = time.monotonic() - began
    at_once = left.machines(run)
    leaked, problems = place.broken_promises(run)
    if command.returncode:
        problems.append(f"gc ended with {command.returncode}: {command.stderr.strip()[-400:]}")
    elif at_once:
        problems.append("gc said that the machine is gone while it was alive")
    allowed_s = allowed(os.getloadavg()[0] / (os.cpu_count() or 1))
    if took_s > allowed_s:
        problems.append(f"the next command took {took_s:.1f} s, allowed are {allowed_s:.1f} s")
    used = f"{took_s:.1f} s of {allowed_s:.1f} s, allowed for the load"
    measured = (used,) * (took_s > _WITHIN_S)
    return Trial(_NAME, seed, (done,), tuple(leaked), (), (), tuple(problems), measured=measured)


def allowed(load: float) -> float:
    """Seconds that the next command may take.

    Args:
        load: processes that want to run, for each core.
    """
    return _WITHIN_S * min(max(1.0, load), _MOST_LOAD)


FAMILY = Family(_NAME, trials=200, sample=1, run=run, jobs=3, small=partial(run, at_once=1))
