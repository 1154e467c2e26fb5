"""Connection faults while a function runs, by a proxy between session and machine: nothing of log or result suffers."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Iterator

from dayfly.runtime import session as sessions
from dayfly.runtime.session import Session
from dayfly.runtime.ssh import link
from tests.faults.family import Family
from tests.faults.faulty_proxy import KINDS, Harm, faulty_proxy
from tests.faults.machine_job import Log, MachineJob
from tests.faults.place import Place
from tests.faults.trial import Trial
from tests.sshd import Server, sshd

_NAME = "connection"


def run(place: Place, seeds: Iterator[int]) -> Iterator[Trial]:
    """One server serves all trials."""
    # Silence counts after three of these, so that a trial with a dead link takes seconds; a link of 1 byte/s stays.
    link.PING_EVERY_S = 0.5
    sessions._ATTEMPT_S = 5.0
    with sshd(place.home / "server") as server:
        for seed in seeds:
            yield _trial(place, server, seed)


def _trial(place: Place, server: Server, seed: int) -> Trial:
    chance = random.Random(seed)
    lines = chance.randrange(50, 150)
    size = chance.choice([0, 1, 1000, 65536, 300_000, chance.randrange(1 << 20)])
    job = MachineJob.new(server, place.home / "jobs" / str(seed), seed, lines, size)
    # Every harm of every kind in turn, some trials with several: as many connections are harmed, one after the other.
    first = KINDS[seed % len(KINDS)]
    kinds = [first, *(chance.choice(KINDS) for _ in range(chance.choice([0, 0, 1, 2])))]
    plan = [Harm.draw(chance, kind, 12_000 + 190 * lines + size) for kind in kinds]
    with faulty_proxy(server.machine.port, plan) as between:
        lost = _used(job, between.port)
        faults = tuple(str(harm) for harm in between.done)
    leaked = tuple(place.settled(job.keys.run_id, wait_s=15.0))
    problems = [f"the function was started {job.starts} times"] * (job.starts != 1)
    problems += place.touched_strangers()
    shutil.rmtree(job.on_machine, ignore_errors=True)
    shutil.rmtree(job.folder)
    return Trial(_NAME, seed, faults, leaked, tuple(lost), (), tuple(problems), bool(faults))


def _used(job: MachineJob, port: int) -> list[str]:
    """Runs it through the proxy.

    Returns:
        Why its result or its log counts as lost.
    """
    log, result = Log(), job.folder / "result.sealed"
    try:
        with Session(
            job.server.through(port), job.keys, connect_timeout_s=60, give_up_s=60
        ) as session:
            session.start(job.task())
            end = session.follow(log)
            session.fetch_result(result)
            session.acknowledge()
    except Exception as error:  # noqa: BLE001  # whatever it is, the user has neither log nor value
        return [f"{type(error).__name__}: {error}"]
    found = list(log.wrong)
    for stream, text in job.log.items():
        if bytes(log.held[stream]) != text:
            found.append(f"{stream} has {len(log.held[stream])} bytes of {len(text)}, or others")
    header, value = job.value(result)
    if (end.how, header["outcome"]) != ("finished", "value"):
        found.append(f"the job {end.how}, {header}")
    elif hashlib.sha256(value).hexdigest() != job.digest:
        found.append("the value is another one")
    return found


FAMILY = Family(_NAME, trials=300, sample=4, run=run, engine=False, jobs=8)
