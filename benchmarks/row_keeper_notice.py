"""Row `keeper_notice`: how long after the death of a client the keeper begins to act for its run."""

from __future__ import annotations

import contextlib
import time

import psutil

from benchmarks import client, place, report
from benchmarks.client import Client
from benchmarks.report import Row, Say
from tests import keepers

_TRIALS = 5
_MOST_S = 2.0
_LIMIT_S = 60.0


def measure(say: Say) -> Row:
    """from SIGKILL of a client, while its function runs, to the process that the keeper starts for its run; each of 5"""
    took: list[float] = []
    problems: list[str] = []
    with client.local(_TRIALS) as clients:
        for each in clients:
            each.await_function()
        for number, each in enumerate(clients):
            took.append(_noticed(each))
            say(f"{number + 1} of {_TRIALS}: {took[-1]:.2f} s")
            each.let_end()
        for each in clients:
            place.wait("the receipt", each.receipt.exists, _LIMIT_S)
            problems += [*each.check_receipt(), *each.left()]
    return report.bound("keeper_notice", took, _MOST_S, problems)


def _noticed(each: Client) -> float:
    keeper, run = keepers.process(each.home), each.run
    if keeper is None:
        raise place.TrialFailed("the client has no keeper")
    killed = time.time()
    each.process.kill()
    # As any shell does: a client that nobody has waited for is not quite gone.
    each.process.wait()
    return place.wait("an act", lambda: _acts(keeper, run), _LIMIT_S) - killed


def _acts(keeper: psutil.Process, run: str) -> bool:
    """Whether the keeper has a child that does something about the run."""
    for child in keeper.children():
        with contextlib.suppress(psutil.Error):
            line = child.cmdline()
            if "dayfly.runtime.tend" in line and run in line:
                return True
    return False
