"""The same function on every real cloud whose credentials are here, side by side; plans and worst costs are printed first.

Needs DAYFLY_REAL_WORLD=1 and the credentials of two clouds or more, as docs/providers.md tells of them:

    DAYFLY_REAL_WORLD=1 make real-world

DAYFLY_TEST_CLOUDS_GPU=T4:1 asks for that GPU, for which each account needs a quota.
"""

from __future__ import annotations

import os
import platform
import time
from typing import Any

import pytest

from dayfly import cluster
from dayfly.infra import providers
from dayfly.runtime import wording
from tests.real_world.story import show_plan

_GPU = os.environ.get("DAYFLY_TEST_CLOUDS_GPU")
_MOST_USD = 2.0

pytestmark = [
    pytest.mark.engine,
    pytest.mark.network,
    pytest.mark.skipif(
        os.environ.get("DAYFLY_REAL_WORLD") != "1",
        reason="costs money at several clouds: set DAYFLY_REAL_WORLD=1 and their credentials",
    ),
]


def _clouds() -> list[str]:
    """Those that are somewhere else, are set up, and lack nothing."""
    found = [providers.load(name) for name in providers.names()]
    elsewhere = [each for each in found if not each.same_computer and "host" not in each.takes]
    return [each.name for each in elsewhere if each.is_configured() and not each.preflight()]


def _work(number: int) -> dict[str, Any]:
    return {"twice": 2 * number, "host": platform.node()}


def test_the_same_function_on_every_cloud(capsys: pytest.CaptureFixture[str]) -> None:
    """Equal results; how long each took from the call to the value, and what it cost, are printed side by side."""
    clouds = _clouds()
    if len(clouds) < 2:
        pytest.skip(
            f"credentials of two clouds are needed, and these have them: {clouds or 'none'}"
        )
    function = cluster(gpu=_GPU, environment=[], time="30m", max_cost=_MOST_USD)(_work)
    calls = {name: function.with_options(provider=name) for name in clouds}
    with capsys.disabled():
        for name, call in calls.items():
            print(f"\n{name}")
            show_plan(call.plan(21))
        begun, jobs = time.monotonic(), {name: call.submit(21) for name, call in calls.items()}
        took, values = {}, {}
        for name, job in jobs.items():
            values[name] = job.result()
            took[name] = time.monotonic() - begun
        receipts = {name: job.receipt() for name, job in jobs.items()}
        for name, receipt in receipts.items():
            print(f"  {name:<8}{took[name]:6.0f} s  {wording.receipt_line(receipt)}", flush=True)
    assert {value["twice"] for value in values.values()} == {42}
    assert len({value["host"] for value in values.values()}) == len(clouds)
    assert [receipt.left for receipt in receipts.values()] == [0] * len(clouds)
    assert all(receipt.usd <= _MOST_USD for receipt in receipts.values())
