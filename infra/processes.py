"""The processes of local machines, found by their tags alone, and their end."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Sequence

from dayfly.errors import ProvisionFailed
from dayfly.infra.found import Found

_TIMEOUT_S = 15.0


def tagged() -> list[Found]:
    """Every process of this user that carries a run's tag: guardians by their command line, others by environment."""
    # A plan that asks nobody has no use for what this loads.
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if process.uids().real != os.getuid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            tags = _guardian_tags(process.cmdline())
            if tags is not None:
                found.append(Found("instance", str(process.pid), tags))
                continue
            variables = process.environ()
        except psutil.Error:
            continue
        if variables.get("DAYFLY_RUN"):
            tags = {
                "dayfly-run": variables["DAYFLY_RUN"],
                "dayfly-owner": variables.get("DAYFLY_OWNER", ""),
            }
            found.append(Found("process", str(process.pid), tags))
    return found


def _guardian_tags(command: Sequence[str]) -> dict[str, str] | None:
    if not any(part.endswith("loopback.py") for part in command[:4]) or "--run" not in command:
        return None
    options = dict(itertools.pairwise(command))
    return {
        f"dayfly-{name}": options.get(f"--{name}", "")
        for name in ("run", "owner", "deadline", "created", "node")
    }


def listening_port(pid: int) -> int | None:
    """The port on which a process accepts connections, None where that cannot be seen."""
    import psutil

    try:
        connections = psutil.Process(pid).net_connections(kind="tcp4")
    except psutil.Error:
        return None
    listening = (c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN)
    return next(listening, None)


def end_run(run: str) -> None:
    """Ends every process of the run; the guardian first, since it knows its whole tree.

    Raises:
        ProvisionFailed: some do not end; names them.
    """
    until = time.monotonic() + _TIMEOUT_S
    asked: set[str] = set()
    while alive := [
        found for found in tagged() if found.run == run and int(found.id) != os.getpid()
    ]:
        if time.monotonic() > until:
            raise ProvisionFailed(
                f"processes {', '.join(f.id for f in alive)} of run {run} do not end; kill -9 them"
            )
        guardians = [found for found in alive if found.kind == "instance" and found.id not in asked]
        for found in guardians or alive:
            _signal(int(found.id), signal.SIGTERM if guardians else signal.SIGKILL)
        asked |= {found.id for found in guardians}
        time.sleep(0.05 if guardians else 0.02)


def _signal(pid: int, number: signal.Signals) -> None:
    from dayfly.infra import loopback  # a plan has no use for what it loads

    targets = [pid] if number == signal.SIGTERM else [pid, *loopback.descendants(pid)]
    for target in targets:
        try:
            os.kill(target, number)
        except ProcessLookupError:
            continue
