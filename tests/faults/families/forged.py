"""Wrong host keys, frames and results that are not the run's own, edited provider blobs: nothing is believed or unpickled."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import secrets
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paramiko

from dayfly.errors import ConnectFailed, DayflyError, Forged, HostKeyMismatch
from dayfly.runtime import stored
from dayfly.runtime.agent import frames as agent_frames
from dayfly.runtime.session import Session
from tests.faults import tampering, unpickled
from tests.faults.dead_runs import DeadRuns, dead_runs
from tests.faults.family import Family
from tests.faults.impostor import Impostor, impostor
from tests.faults.machine_job import Log, MachineJob
from tests.faults.place import Place
from tests.faults.trial import Trial
from tests.proxy import proxy
from tests.sshd import Server, sshd, write_key

_NAME = "forged"
_FRAMES = ("forged", "cross-run", "flipped", "replayed", "truncated", "repeated", "longer")
_SECRET = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270"}


@dataclass(frozen=True)
class _Scene:
    """What all trials share.

    Attributes:
        place: where they happen.
        server: a machine.
        stranger: another that pretends to be it.
        stock: runs of the engine.
        frames: what another run's agent said, frame by frame.
    """

    place: Place
    server: Server
    stranger: Impostor
    stock: DeadRuns
    frames: Path

    @property
    def plan(self) -> Path:
        """What the tampering program is to do with the next connection."""
        return self.place.home / "plan.json"

    def job(self, seed: int, chance: random.Random) -> MachineJob:
        """A new run on the machine."""
        folder = self.place.home / "jobs" / str(seed)
        return MachineJob.new(self.server, folder, seed, chance.randrange(5, 40), 20_000)


@dataclass(frozen=True)
class _Found:
    """What came of one trial."""

    fault: str
    run: str
    problems: list[str]
    lost: list[str]
    counted: bool = True


def run(place: Place, seeds: Iterator[int]) -> Iterator[Trial]:
    """Every kind in turn."""
    key_file = place.home / "impostor_key"
    write_key(key_file)
    key = paramiko.Ed25519Key.from_private_key_file(str(key_file))
    with (
        sshd(place.home / "server") as server,
        impostor(key) as stranger,
        dead_runs(place) as stock,
    ):
        scene = _Scene(place, server, stranger, stock, place.home / "frames")
        _record_frames(scene)
        for seed in seeds:
            yield _trial(scene, seed)


def _trial(scene: _Scene, seed: int) -> Trial:
    chance = random.Random(seed)
    sentinel = scene.place.home / f"unpickled.{seed}"
    scene.stranger.attempts.clear()
    with unpickled.watched() as globals_seen:
        found = _WAYS[seed % len(_WAYS)](scene, seed, chance, sentinel)
        problems = [f"unpickled: {name}" for name in globals_seen] + found.problems
    problems += [f"login sent to a wrong host: {each}" for each in scene.stranger.attempts]
    problems += ["what was forged was unpickled: its file is there"] * sentinel.exists()
    leaked = scene.place.settled(found.run, wait_s=15.0)
    shutil.rmtree(scene.server.home / f"job-{found.run}", ignore_errors=True)
    shutil.rmtree(scene.place.home / "jobs" / str(seed), ignore_errors=True)
    faults = (found.fault,) * found.counted
    return Trial(
        _NAME, seed, faults, tuple(leaked), tuple(found.lost), (), tuple(problems), found.counted
    )


# -- host keys


def _wrong_host(scene: _Scene, seed: int, chance: random.Random, _: Path) -> _Found:
    """Somebody else answers at the machine's address."""
    job = scene.job(seed, chance)
    problems = []
    try:
        machine = scene.server.through(scene.stranger.port)
        with Session(machine, job.keys, connect_timeout_s=2):
            problems.append("a session with a wrong host came about")
    except HostKeyMismatch:
        pass
    except DayflyError as error:
        problems.append(f"{type(error).__name__} instead of HostKeyMismatch: {error}")
    return _Found("wrong host key at the first connection", job.keys.run_id, problems, [])


def _wrong_host_later(scene: _Scene, seed: int, chance: random.Random, _: Path) -> _Found:
    """Somebody else answers when the connection is made again; the right machine still has the result."""
    job, problems = scene.job(seed, chance), []
    with proxy(scene.server.machine.port) as between:
        try:
            with Session(scene.server.through(between.port), job.keys) as session:
                session.start(job.task())
                between.target = scene.stranger.port
                between.cut()
                session.follow(Log())
                problems.append("a session with a wrong host went on")
        except HostKeyMismatch:
            pass
        except DayflyError as error:
            problems.append(f"{type(error).__name__} instead of HostKeyMismatch: {error}")
    return _Found("wrong host key at a reconnect", job.keys.run_id, problems, _fetched(job))


# -- frames


def _record_frames(scene: _Scene) -> None:
    """Lets another run speak, and keeps what its agent says."""
    scene.frames.mkdir()
    keys = scene.server.home.parent / "authorized_keys"
    command = shlex.join([sys.executable, "-I", "-S", tampering.__file__, str(scene.plan)])
    scene.plan.write_text(json.dumps({"record": str(scene.frames)}))
    login = keys.read_text()
    keys.write_text(f'command="{command}" {login}')
    lost = _fetched(scene.job(-1, random.Random(0)), start=True)
    assert not lost, lost
    scene.plan.write_text("{}")


def _frame(scene: _Scene, seed: int, chance: random.Random, sentinel: Path) -> _Found:
    """One frame of the agent is not what it was."""
    job = scene.job(seed, chance)
    kind, number = _FRAMES[seed % len(_FRAMES)], chance.randrange(6)
    foreign, done = job.folder / "foreign", job.folder / "done"
    if kind == "cross-run":
        foreign.write_bytes((scene.frames / str(number)).read_bytes())
    else:
        body = unpickled.bomb(sentinel)
        frame = agent_frames.seal(secrets.token_bytes(32), job.keys.run_id, number, body)
        foreign.write_bytes(frame)
    plan = {"kind": kind, "frame": number, "at": chance.randrange(1 << 20)}
    scene.plan.write_text(json.dumps({**plan, "foreign": str(foreign), "done": str(done)}))
    problems = []
    try:
        with Session(scene.server.machine, job.keys, connect_timeout_s=5) as session:
            session.start(job.task())
            session.follow(Log())
            session.fetch_result(job.folder / "result.sealed")
        problems += ["a frame that is not authentic was taken"] * done.exists()
    except Forged:
        pass
    except DayflyError as error:
        # The agent says nothing after its first frame: what is missing of that is waited for in vain.
        unfinished = (kind, number, type(error)) == ("truncated", 0, ConnectFailed)
        problems += [f"{type(error).__name__} instead of Forged: {error}"] * (not unfinished)
    finally:
        scene.plan.write_text("{}")
    lost = _fetched(job, start=True)
    return _Found(f"frame {number} {kind}", job.keys.run_id, problems, lost, done.exists())


# -- results


def _spoiled(
    sealed: bytes, job: MachineJob, chance: random.Random, sentinel: Path
) -> tuple[str, bytes]:
    """A result that is not the run's own."""
    bomb = json.dumps({"outcome": "value", "type": "int", "text": ""}).encode() + b"\n"
    bomb += unpickled.bomb(sentinel)
    at, keys = chance.randrange(len(sealed)), job.keys
    key, run = keys.hmac_key, keys.run_id
    return chance.choice(
        [
            (
                "sealed with another key",
                agent_frames.seal(secrets.token_bytes(32), run, agent_frames.RESULT_SEQ, bomb),
            ),
            ("with another pickle under its header", sealed[: agent_frames.HEADER_BYTES] + bomb),
            (
                "of another run",
                agent_frames.seal(key, secrets.token_hex(16), agent_frames.RESULT_SEQ, bomb),
            ),
            ("that is the task", agent_frames.seal(key, run, agent_frames.TASK_SEQ, bomb)),
            (f"truncated to {at} bytes", sealed[:at]),
            (f"with byte {at} flipped", sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]),
            ("with bytes after its end", sealed + bomb),
        ]
    )


def _result_there(scene: _Scene, seed: int, chance: random.Random, sentinel: Path) -> _Found:
    """The result is exchanged on the machine, after the function has ended."""
    job, problems = scene.job(seed, chance), []
    home = job.folder / "result.sealed"
    with Session(scene.server.machine, job.keys) as session:
        session.start(job.task())
        session.follow(Log())
        there = job.on_machine / "result.sealed"
        sealed = there.read_bytes()
        what, spoiled = _spoiled(sealed, job, chance, sentinel)
        there.write_bytes(spoiled)
        try:
            session.fetch_result(home)
            problems.append("a result that is not authentic was taken")
        except Forged:
            problems += ["a result that is not authentic is there"] * home.exists()
        there.write_bytes(sealed)
    return _Found(f"a result {what}", job.keys.run_id, problems, _fetched(job))


def _result_here(scene: _Scene, seed: int, chance: random.Random, sentinel: Path) -> _Found:
    """The result is exchanged on the client's disk."""
    job, problems = scene.job(seed, chance), []
    lost = _fetched(job, start=True)
    directory = job.folder / job.keys.run_id
    directory.mkdir()
    (directory / "hmac_key").write_bytes(job.keys.hmac_key)
    sealed = (job.folder / "result.sealed").read_bytes()
    what, spoiled = _spoiled(sealed, job, chance, sentinel)
    (directory / stored.RESULT).write_bytes(spoiled)
    try:
        stored.value(directory)
        problems.append("a stored result that is not authentic was taken")
    except Forged:
        pass
    return _Found(f"a stored result {what}", job.keys.run_id, problems, lost)


def _fetched(job: MachineJob, *, start: bool = False) -> list[str]:
    """Takes the job's log and result over a connection that nobody tampers with.

    Returns:
        Why they count as lost.
    """
    home, log = job.folder / "result.sealed", Log()
    try:
        with Session(job.server.machine, job.keys) as session:
            if start:
                session.start(job.task())
            session.follow(log)
            session.fetch_result(home)
            session.acknowledge()
    except DayflyError as error:
        return [f"{type(error).__name__}: {error}"]
    lost = [f"the function was started {job.starts} times"] * (job.starts != 1)
    lost += ["the log is another one"] * (
        log.wrong != [] or bytes(log.held["stdout"]) != job.log["stdout"]
    )
    value = job.value(home)[1]
    return lost + ["the value is another one"] * (hashlib.sha256(value).hexdigest() != job.digest)


# -- the provider that the state names


def _blob(scene: _Scene, seed: int, chance: random.Random, sentinel: Path) -> _Found:
    """Whoever can write the state names a provider of their own, which the engine would unpickle."""
    run = scene.stock.take()
    (file,) = (scene.place.home / "state").rglob(f"stacks/**/{run}.json")
    held = json.loads(file.read_text())
    what = _edit(held["checkpoint"]["latest"], chance, unpickled.bomb(sentinel))
    file.write_text(json.dumps(held))
    done = scene.place.dayfly("gc", "--run", run, "--yes", "--held")
    leaked, problems = scene.place.broken_promises(run)
    problems += [f"alive: {line}" for line in leaked]
    if done.returncode:
        problems.append(f"gc ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    return _Found(f"the provider of the state exchanged {what}", run, problems, [])


def _edit(latest: dict[str, Any], chance: random.Random, bomb: bytes) -> str:
    text = base64.b64encode(bomb).decode()
    how, value = chance.choice(
        [("in clear", text), ("as a secret", {**_SECRET, "plaintext": json.dumps(text)})]
    )
    sides = chance.choice([("inputs", "outputs"), ("inputs",), ("outputs",)])
    edited = chance.choice(["Instance", "Ready"])
    for resource in latest["resources"]:
        if edited in resource["type"]:
            for side in sides:
                resource[side]["__provider"] = value
            if chance.random() < 0.3:
                operation = {"resource": resource, "type": "deleting"}
                latest["pending_operations"] = [operation]
    return f"{how} in {' and '.join(sides)} of {edited}"


_Way = Callable[[_Scene, int, random.Random, Path], _Found]
_WAYS: tuple[_Way, ...] = (
    _frame,
    _wrong_host,
    _frame,
    _result_there,
    _frame,
    _wrong_host_later,
    _frame,
    _result_here,
    _frame,
    _blob,
)

FAMILY = Family(_NAME, trials=150, sample=9, run=run)
