"""Thirty canaries at once through every input of each run: none is found in a file, a command line or a log.

Every third run is on the emulated Lambda Cloud, whose API key is one of them; the others are on this computer. Searched are the
command lines and environments of all processes all the time, and what the client has of files: its DAYFLY_HOME, its home, with
the caches there, and its folder of temporary files.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.emulators.lambda_cloud import Emulator, Options
from tests.faults import left
from tests.faults.canaries import Canaries, Watch, in_files
from tests.faults.canary_call import API_KEY, CLIENT, COUNT, INDEXES, CanaryCall
from tests.faults.family import Family
from tests.faults.index_server import index_server
from tests.faults.own_keys import NAMES, OwnKeys
from tests.faults.place import COMMAND_S, Place
from tests.faults.starts import starts
from tests.faults.trial import Trial

_NAME = "secrets"
_MODES = ("returns", "raises", "killed client", "raises, killed client")
# One of so many runs is on Lambda.
_PLACES = 3
# Its time goes faster than this computer's, so that its delays are not waited for.
_OPTIONS = Options(time_scale=20.0, request_interval_s=0.0, launch_interval_s=0.0)
# For the keeper, which closes what nobody holds; of a function that never started it waits for half a minute.
_KEEPER_S = 90.0


def run(place: Place, seeds: Iterator[int]) -> Iterator[Trial]:
    """Every mode in turn, at each place."""
    script = place.home.with_name(place.home.name + "-client.py")
    script.write_text(CLIENT)
    try:
        with Emulator(_OPTIONS) as cloud, starts() as started:
            for seed in seeds:
                mark = "zq" + hashlib.sha256(str(seed).encode()).hexdigest()[:16]
                canaries = Canaries(mark)
                cloud.replace_key(canaries.value(API_KEY))
                with index_server({canaries.value(name) for name in INDEXES}) as index:
                    mode = _MODES[seed // _PLACES % len(_MODES)]
                    on_lambda = seed % _PLACES == 0
                    scene = CanaryCall(place, canaries, mode, on_lambda, index, cloud, started)
                    yield _trial(scene, script, seed)
    finally:
        script.unlink()
        for name in ("user", "tmp", "project"):
            shutil.rmtree(f"{place.home}-{name}", ignore_errors=True)


def _trial(scene: CanaryCall, script: Path, seed: int) -> Trial:
    home = scene.place.home
    before = left.runs(home)
    asked = scene.asked
    # At no moment, not only afterwards.
    folders = [home / "state", home / "pulumi", scene.tmp]
    engines_own = [scene.canaries.value(API_KEY)] * scene.on_lambda
    with (
        Watch(scene.canaries, scene.foreign, folders, engines_own) as watch,
        OwnKeys(home) as keys,
    ):
        said, problems = _used(scene, script, before, random.Random(seed))
        (run,) = left.runs(home) - before
        problems += _left_to_keeper(home / "runs" / run)
        done = scene.place.dayfly("gc", "--run", run, "--yes", "--held", variables=scene.variables)
        said += done.stdout + done.stderr
        shown = scene.place.dayfly("show", run, "--json", variables=scene.variables)
        said += shown.stdout + shown.stderr
    found = watch.found | keys.found
    found |= {f"{name} in the output" for name in scene.canaries.within(said.encode())}
    searched = in_files(scene.canaries, home, scene.user, scene.tmp)
    found |= {text for text in searched if not _may_be(text, scene.mode)}
    leaked, more = scene.place.broken_promises(run)
    leaked += [f"instance {row['id']}" for row in scene.cloud.live()]
    problems += [*more, *_unused(scene, keys, asked)]
    fault = f"{COUNT} canaries: {scene.mode} on {'Lambda' if scene.on_lambda else 'this computer'}"
    return Trial(_NAME, seed, (fault,), tuple(leaked), (), tuple(sorted(found)), tuple(problems))


def _unused(scene: CanaryCall, keys: OwnKeys, asked: int) -> Iterator[str]:
    """Canaries that went nowhere, so that their absence would say nothing."""
    if scene.asked == asked:
        yield "Lambda was not asked, so that its key was not used"
    if len(scene.index.opened) < len(INDEXES) - 1:
        yield f"the indexes were not used: {scene.index.opened}"
    if missed := set(NAMES) - set(keys.held):
        yield f"the run's own {', '.join(sorted(missed))} were not seen"


def _left_to_keeper(directory: Path) -> list[str]:
    """What a client and whoever attached have left open is the keeper's: `gc`, which is used afterwards, has nothing to close."""
    until = time.monotonic() + _KEEPER_S
    while not (directory / "receipt.json").exists():
        if time.monotonic() > until:
            return [f"the keeper had not closed run {directory.name} after {_KEEPER_S:.0f} s"]
        time.sleep(0.1)
    return []


def _used(
    scene: CanaryCall, script: Path, before: set[str], chance: random.Random
) -> tuple[str, list[str]]:
    """The client's output, and what is wrong with its end."""
    client = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=scene.place.home,
        env=os.environ | scene.variables,
    )
    assert client.stdin is not None
    client.stdin.write(scene.inputs)
    client.stdin.close()
    client.stdin = None
    if "killed" not in scene.mode:
        said = _all_said(client)
        wanted = "raised ValueError" if "raises" in scene.mode else "value 5"
        return said, [f"the client said {said[-600:]}"] * (wanted not in said)
    while not (new := left.runs(scene.place.home) - before) or not any(
        "job_started" in left.events(scene.place.home, run) for run in new
    ):
        if client.poll() is not None:
            said = _all_said(client)
            return said, [f"the client ended: {said[-600:]}"]
        time.sleep(0.005)
    time.sleep(chance.uniform(0.0, 1.2))
    client.send_signal(signal.SIGKILL)
    said = _all_said(client)
    (run,) = new
    attached = scene.place.dayfly("attach", run, variables=scene.variables)
    said += attached.stdout + attached.stderr
    if "raises" in scene.mode:
        came = "ValueError" in attached.stderr
    else:
        came = attached.stdout.strip().rpartition("\n")[2] == "5"
    # A client that was killed before its order had left for the machine has started nothing.
    never = "function was never started" in attached.stderr and not scene.starts.of_run(run)
    return said, [f"attach said {said[-600:]}"] * (not came and not never)


def _all_said(client: subprocess.Popen[bytes]) -> str:
    return "".join(text.decode() for text in client.communicate(timeout=COMMAND_S))


def _may_be(text: str, mode: str) -> bool:
    """The user's own value is the user's: an exception with a secret in it comes home as it is, readable by nobody else."""
    return "raises" in mode and "canaryraised" in text and text.endswith("/result.sealed")


FAMILY = Family(_NAME, trials=50, sample=2, run=run, jobs=3)
