"""One run on the real Lambda Cloud, on its cheapest machine; the plan and what it can cost at most are printed first.

Needs LAMBDA_API_KEY (or `lambda_api_key` in Dayfly's configuration folder, 0600) and DAYFLY_REAL_WORLD=1:

    DAYFLY_REAL_WORLD=1 LAMBDA_API_KEY=... make real-world
"""

from __future__ import annotations

import os
import platform
import subprocess
from typing import Any

import pytest

from dayfly import cluster
from dayfly.infra import lambda_key
from dayfly.infra.lambda_api import LambdaApi
from dayfly.infra.lambda_endpoint import URL_VARIABLE
from dayfly.runtime import wording
from dayfly.runtime.context import Context
from dayfly.stacks import journal

# Asked when this file is read: the tests' own environment has no DAYFLY_* variable.
_WANTED = os.environ.get("DAYFLY_REAL_WORLD") == "1"
_KEY = lambda_key.is_there()

pytestmark = [
    pytest.mark.engine,
    pytest.mark.network,
    pytest.mark.tried("lambda", "real"),
    pytest.mark.skipif(
        not _WANTED,
        reason="costs money on Lambda Cloud: set DAYFLY_REAL_WORLD=1 and LAMBDA_API_KEY",
    ),
    pytest.mark.skipif(not _KEY, reason="LAMBDA_API_KEY is not set"),
]


def _where() -> dict[str, Any]:
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=True)
    print("on", platform.node(), "with", done.stdout.strip(), flush=True)
    return {"host": platform.node(), "pid": os.getpid(), "gpu": done.stdout.strip()}


def test_a_function_runs_on_the_cheapest_machine_and_nothing_is_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Host, GPU and pid are the machine's; the receipt is what the API says: no instance, no key, no ruleset."""
    assert URL_VARIABLE not in os.environ, "this test is for the real API, not for an emulator"
    remote = cluster(
        provider="lambda", environment=[], time="45m", max_cost=5, job_name="real-world"
    )
    function = remote(_where)
    with capsys.disabled():
        print()
        for label, text in wording.plan_rows(function.plan()):
            print(f"  {label:<24}{text}")
        job = function.submit()
        value = job.result()
        receipt = job.receipt()
        print(f"  {value}\n  {wording.receipt_line(receipt)}")
    assert value["host"] != platform.node()
    assert value["gpu"]
    story = journal.read(job.directory)
    assert value["pid"] != os.getpid()
    assert story.field("connected", "host") == value["host"]
    assert receipt.left == 0
    assert 0 < receipt.usd <= 5
    api, owner = LambdaApi.from_environment(), Context.open().workspace.owner
    alive = [row for row in api.instances() if row.tags.get("dayfly-owner") == owner]
    assert all(row.state in ("terminated", "stopping") for row in alive)
    assert not [key for key in api.ssh_keys() if job.id in key.name]
    assert not [ruleset for ruleset in api.rulesets() if job.id in ruleset.name]
