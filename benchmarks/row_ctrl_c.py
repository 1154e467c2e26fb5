"""Row `ctrl_c`: how long after Ctrl-C the machine is destroyed, and that is confirmed."""

from __future__ import annotations

import signal
import time

from benchmarks import client, place, report
from benchmarks.client import Client
from benchmarks.report import Row, Say
from tests.emulators.lambda_cloud import Options

_TRIALS = 3
_MOST_S = 10.0
_LIMIT_S = 120.0


def measure(say: Say) -> Row:
    """from SIGINT while the function runs to the receipt; an emulated Lambda Cloud in real time, with its default delays"""
    took: list[float] = []
    problems: list[str] = []
    # In real time: that the API allows one request a second is a part of what is waited for.
    with client.emulated([Options()] * _TRIALS) as clients:
        for each in clients:
            each.await_function()
        for number, each in enumerate(clients):
            took.append(_interrupted(each))
            problems += [*each.check_receipt(), *_ended(each), *each.ended_by_interrupt()]
            say(f"{number + 1} of {_TRIALS}: {took[-1]:.2f} s")
        problems += [left for each in clients for left in each.left()]
    return report.bound("ctrl_c", took, _MOST_S, problems)


def _interrupted(each: Client) -> float:
    receipt, began = each.receipt, time.time()
    each.process.send_signal(signal.SIGINT)
    return place.wait("the receipt", receipt.exists, _LIMIT_S) - began


def _ended(each: Client) -> list[str]:
    """What the cloud's own log says that should not be."""
    assert each.cloud is not None
    confirmed = each.receipt.stat().st_mtime
    ended = [event for event in each.cloud.events("status") if event["now"] == "terminated"]
    early = len(ended) != 1 or ended[0]["at"] > confirmed
    return ["the receipt is older than the machine's end"] if early else []
