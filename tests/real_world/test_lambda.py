"""One run on the real Lambda Cloud, on its cheapest machine with a GPU; the plan and what it can cost at most are printed first.

Needs LAMBDA_API_KEY (or `lambda_api_key` in Dayfly's configuration folder, 0600) and DAYFLY_REAL_WORLD=1:

    DAYFLY_REAL_WORLD=1 LAMBDA_API_KEY=... make real-world

With LAMBDA_API_URL it is a rehearsal on an emulator, which costs nothing: `tests/engine/test_rehearsal.py`.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dayfly import cluster
from dayfly.infra import lambda_endpoint, lambda_key, providers
from dayfly.infra.found import GONE
from dayfly.infra.lambda_api import LambdaApi
from dayfly.infra.lambda_records import TypeRow
from dayfly.infra.offers import Offer
from dayfly.runtime import wording
from dayfly.runtime.context import Context
from dayfly.runtime.gpu import is_model
from dayfly.stacks import journal
from dayfly.stacks.receipt import Receipt
from tests.real_world.story import show_plan

# Asked when this file is read: the tests' own environment has none of these.
_WANTED = os.environ.get("DAYFLY_REAL_WORLD") == "1"
_KEY = lambda_key.is_there()
_REHEARSAL = lambda_endpoint.URL_VARIABLE in os.environ
_MOST_USD = 5.0
_LOOK_EVERY_S = 5.0

pytestmark = [
    pytest.mark.engine,
    pytest.mark.network,
    pytest.mark.tried("lambda", "emulator" if _REHEARSAL else "real"),
    pytest.mark.skipif(
        not _WANTED,
        reason="costs money on Lambda Cloud: set DAYFLY_REAL_WORLD=1 and LAMBDA_API_KEY",
    ),
    pytest.mark.skipif(not _KEY, reason="LAMBDA_API_KEY is not set"),
]


def _where() -> dict[str, Any]:
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, check=True)
    rows = [line.rsplit(", ", 1) for line in done.stdout.splitlines()]
    print("on", platform.node(), "with", done.stdout.strip(), flush=True)
    gpus = [(name, float(mib)) for name, mib in rows]
    return {"host": platform.node(), "pid": os.getpid(), "gpus": gpus}


def _cheapest(api: LambdaApi) -> TypeRow:
    """The cheapest machine that has a GPU and that some region says it has."""
    free = [row for row in api.instance_types() if row.gpus and row.regions]
    if not free:
        pytest.skip("Lambda has no machine with a GPU free just now")
    return min(free, key=lambda row: (row.price_cents_per_hour, row.name))


@dataclass
class Seen:
    """When the API itself has shown that a run's machine costs money, in unix time."""

    first: float
    last: float


def _costly(api: LambdaApi, runs: Path) -> list[str]:
    """The runs of this test whose machines cost money, by the API's own listing."""
    ours = {directory.name for directory in runs.iterdir()}
    rows = [row for row in api.instances() if row.state not in GONE]
    return [run for row in rows if (run := row.tags.get("dayfly-run", "")) in ours]


@contextlib.contextmanager
def _watched(api: LambdaApi, runs: Path) -> Iterator[dict[str, Seen]]:
    """Looks at the API's listing every few seconds, beside everything else."""
    seen: dict[str, Seen] = {}
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(_LOOK_EVERY_S / lambda_endpoint.time_scale()):
            asked = time.time()
            for run in _costly(api, runs):
                seen.setdefault(run, Seen(time.time(), 0.0)).last = asked

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def test_a_function_runs_on_the_cheapest_machine_with_a_gpu_and_nothing_is_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Host, GPU and pid are the machine's; the bill is the API's price for the time in which the API showed it; nothing is left."""
    api, runs = LambdaApi.from_environment(), Context.open().workspace.runs
    row = _cheapest(api)
    remote = cluster(
        provider="lambda",
        instance_type=row.name,
        environment=[],
        time="45m",
        max_cost=_MOST_USD,
        job_name="real-world",
    )
    function = remote(_where)
    with capsys.disabled():
        print()
        plan = function.plan()
        show_plan(plan)
        with _watched(api, runs) as seen:
            begun = time.time()
            job = function.submit()
            value = job.result()
            receipt = job.receipt()
            ended = time.time()
        print(f"  {value}\n  {wording.receipt_line(receipt)}", flush=True)
    story = journal.read(job.directory)
    offer = Offer(**story.intent["offer"])
    assert (offer.instance_type, plan.worst_case_usd <= _MOST_USD) == (row.name, True)
    assert value["host"] not in ("", platform.node())
    assert value["pid"] != os.getpid()
    assert story.field("connected", "host") == value["host"]
    _check_gpus(value["gpus"], offer)
    _check_bill(receipt, row, seen[job.id], ended - begun)
    assert receipt.usd <= plan.worst_case_usd
    assert _costly(api, runs) == []
    assert not [key for key in api.ssh_keys() if job.id in key.name]
    assert not [ruleset for ruleset in api.rulesets() if job.id in ruleset.name]


def _check_gpus(found: list[tuple[str, float]], offer: Offer) -> None:
    """As many as were paid for, of that model, with its memory but for what the driver takes and a price list rounds."""
    assert len(found) == offer.gpus > 0
    for name, mib in found:
        assert is_model(offer.gpu_model, name), (offer.gpu_model, name)
        assert mib * (1 << 20) > 0.9e9 * offer.gpu_memory_gb, (offer.gpu_memory_gb, mib)


def _check_bill(receipt: Receipt, row: TypeRow, seen: Seen, waited_s: float) -> None:
    """The API's own price, for no less than the time in which it has shown the machine, and no more than all of this took."""
    increment_s = providers.load("lambda").limits.billing_increment_s
    assert (receipt.left, receipt.at_most, receipt.destroyed) == (0, False, receipt.declared)
    assert receipt.usd_per_hour == pytest.approx(row.price_cents_per_hour / 100)
    assert seen.first < seen.last, "the API has not shown the machine twice"
    assert seen.last - seen.first <= receipt.lived_s <= waited_s
    billed_s = math.ceil(receipt.lived_s / increment_s) * increment_s
    assert receipt.minutes * 60 == pytest.approx(billed_s)
    assert receipt.usd == pytest.approx(billed_s / 3600 * row.price_cents_per_hour / 100)
