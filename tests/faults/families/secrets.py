"""Thirty canaries at once through every input of a run: none is found in a file, a command line or a log."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.emulators.lambda_cloud import Emulator, Options
from tests.faults import left
from tests.faults.canaries import Canaries, Watch, in_files
from tests.faults.family import Family
from tests.faults.index_server import USER, IndexServer, index_server
from tests.faults.place import COMMAND_S, Place
from tests.faults.trial import Trial

_NAME = "secrets"
_DECLARED = tuple(f"CANARY_{number}" for number in range(6))
_PRINTED = tuple(f"CANARY_PRINTED_{number}" for number in range(3))
_RAISED = tuple(f"CANARY_RAISED_{number}" for number in range(3))
# Neither the engine nor the machine of this provider has any business with them.
_ENVIRONMENT = (
    "AWS_SECRET_ACCESS_KEY",
    "LAMBDA_API_KEY",
    "HF_TOKEN",
    "PULUMI_ACCESS_TOKEN",
    "DATABASE_PASSWORD",
    "SOME_SETTING",
)
_ARGUMENTS = ("first", "second", "third", "nested", "listed", "global")
_INDEXES = ("index", "extra", "direct")
_MODES = ("returns", "raises", "killed client", "raises, killed client")
# With those of the product itself: user key, host key, the key of its frames.
COUNT = sum(map(len, (_DECLARED, _PRINTED, _RAISED, _ENVIRONMENT, _ARGUMENTS, _INDEXES))) + 3

_CLIENT = """
import json, os, sys, time
from dayfly import cluster

given = json.load(sys.stdin)
GLOBAL = given["global"]


@cluster(provider="local", environment=given["environment"], secrets=given["names"])
def work(mode, first, second, *, third, nested):
    held = [first, second, third, nested, GLOBAL]
    one, two, three = (os.environ[f"CANARY_PRINTED_{number}"] for number in range(3))
    print("connecting with", one, flush=True)
    print("to", two[:7], end="", flush=True)
    time.sleep(0.3)
    print(two[7:], flush=True)
    print(f"url=https://me:{three}@example.org/", file=sys.stderr, flush=True)
    time.sleep(0.7)
    if "raises" in mode:
        raised = " ".join(os.environ[f"CANARY_RAISED_{number}"] for number in range(3))
        raise ValueError(f"could not log in with {raised}")
    return len(held)


try:
    print("value", work(given["mode"], given["first"], given["second"], third=given["third"], nested=given["nested"]))
except ValueError as error:
    print("raised", type(error).__name__)
"""


@dataclass(frozen=True)
class _Scene:
    """One trial's inputs."""

    place: Place
    canaries: Canaries
    mode: str
    index: IndexServer
    with_index: bool
    cloud: Emulator

    @property
    def variables(self) -> dict[str, str]:
        """What the user has exported; Lambda's key is one that opens an account, since `gc` asks there too."""
        names = (*_DECLARED, *_PRINTED, *_RAISED, *_ENVIRONMENT)
        held = {name: self.canaries.value(name) for name in names}
        return {**held, "LAMBDA_API_URL": self.cloud.url}

    @property
    def asked(self) -> int:
        """How often Lambda was asked what there is."""
        return int(self.cloud.health()["calls"].get("list_instances", 0))

    @property
    def inputs(self) -> bytes:
        """What the client reads from its standard input."""
        value = self.canaries.value
        return json.dumps(
            {
                "mode": self.mode,
                "names": [*_DECLARED, *_PRINTED, *_RAISED],
                "environment": str(self._requirements()) if self.with_index else [],
                "first": value("first"),
                "second": {"deep": [value("second")]},
                "third": value("third"),
                "nested": {value("nested"): [value("listed")]},
                "global": value("global"),
            }
        ).encode()

    def _requirements(self) -> Path:
        """A file of the user's with the passwords of three indexes; it is theirs, and outside of what is searched."""
        folder = self.place.home.with_name(self.place.home.name + "-project")
        folder.mkdir(exist_ok=True)
        index, extra, direct = (
            f"http://{USER}:{self.canaries.value(name)}@127.0.0.1:{self.index.port}"
            for name in _INDEXES
        )
        file = folder / "requirements.txt"
        file.write_text(
            f"--index-url {index}/simple\n--extra-index-url {extra}/other\ncanaryone\n"
            f"canarytwo @ {direct}/files/canarytwo-1.0-py3-none-any.whl\n"
        )
        return file


def run(place: Place, seeds: Iterator[int]) -> Iterator[Trial]:
    """Every mode in turn, every second time with an environment from password-protected indexes."""
    script = place.home.with_name(place.home.name + "-client.py")
    script.write_text(_CLIENT)
    options = Options(machines=False, request_interval_s=0.0)
    try:
        with Emulator(options) as cloud:
            for seed in seeds:
                mark = "zq" + hashlib.sha256(str(seed).encode()).hexdigest()[:16]
                canaries = Canaries(mark)
                cloud.replace_key(canaries.value("LAMBDA_API_KEY"))
                with index_server({canaries.value(name) for name in _INDEXES}) as index:
                    mode = _MODES[seed // 2 % len(_MODES)]
                    scene = _Scene(place, canaries, mode, index, bool(seed % 2), cloud)
                    yield _trial(scene, script, seed)
    finally:
        script.unlink()


def _trial(scene: _Scene, script: Path, seed: int) -> Trial:
    home = scene.place.home
    before = left.runs(home)
    foreign = [scene.canaries.value(name) for name in _ENVIRONMENT]
    asked = scene.asked
    # At no moment, not only afterwards.
    folders = [home / "state", home / "pulumi"]
    with Watch(scene.canaries, foreign, folders) as watch:
        said, problems = _used(scene, script, before, random.Random(seed))
        (run,) = left.runs(home) - before
        own = _own_secrets(home / "runs" / run, home)
        done = scene.place.dayfly("gc", "--run", run, "--yes", "--held", variables=scene.variables)
        said += done.stdout + done.stderr
        shown = scene.place.dayfly("show", run, "--json", variables=scene.variables)
        said += shown.stdout + shown.stderr
    found = set(watch.found) | {
        f"{name} in the output" for name in scene.canaries.within(said.encode())
    }
    found |= {text for text in in_files(scene.canaries, home) if not _may_be(text, scene.mode)}
    found |= set(own)
    leaked, more = scene.place.broken_promises(run)
    problems += more + ["gc did not ask Lambda, so that its key was not used"] * (
        scene.asked == asked
    )
    if scene.with_index and len(scene.index.opened) < len(_INDEXES) - 1:
        problems.append(f"the indexes were not used: {scene.index.opened}")
    indexes = ", with indexes" if scene.with_index else ""
    fault = f"{COUNT} canaries: {scene.mode}{indexes}"
    return Trial(_NAME, seed, (fault,), tuple(leaked), (), tuple(sorted(found)), tuple(problems))


def _used(
    scene: _Scene, script: Path, before: set[str], chance: random.Random
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
    # A client that was killed before its order had left for the machine has started nothing.
    ways = ("ValueError" if "raises" in scene.mode else "5", "function was never started")
    return said, [f"attach said {said[-600:]}"] * (not any(each in said for each in ways))


def _all_said(client: subprocess.Popen[bytes]) -> str:
    return "".join(text.decode() for text in client.communicate(timeout=COMMAND_S))


def _may_be(text: str, mode: str) -> bool:
    """The user's own value is the user's: an exception with a secret in it comes home as it is, readable by nobody else."""
    return "raises" in mode and "canaryraised" in text and text.endswith("/result.sealed")


def _own_secrets(directory: Path, home: Path) -> list[str]:
    """Where the product's own secrets are that have no business there: in anything but their own files."""
    found = []
    for name in ("user_key", "host_key", "hmac_key", "../../passphrase"):
        file = directory / name
        if not file.exists():
            continue
        secret = file.read_bytes().strip()
        forms = [secret[40:100] if b"PRIVATE" in secret else secret, secret.hex().encode()]
        for other in [*home.glob("state/**/*"), *directory.glob("*"), *home.glob("pulumi/**/*")]:
            if other.is_file() and other.name != file.name:
                content = other.read_bytes()
                found += [f"{file.name} in {other}"] * any(form in content for form in forms)
    return found


FAMILY = Family(_NAME, trials=50, sample=2, run=run, jobs=3)
