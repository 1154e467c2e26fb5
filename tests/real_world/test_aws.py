"""One run at the real AWS, on a small machine without a GPU; the plan and what it can cost at most are printed first.

Needs credentials as AWS's own tools find them, the permissions of docs/policies/aws.json, and DAYFLY_REAL_WORLD=1:

    DAYFLY_REAL_WORLD=1 AWS_PROFILE=... make real-world

DAYFLY_TEST_AWS_GPU=T4:1 runs it on a machine with that GPU, for which the account needs a quota.
"""

from __future__ import annotations

import os
import platform
import subprocess
from typing import Any

import pytest

from dayfly import cluster
from dayfly.infra import aws_endpoint, aws_inventory
from dayfly.infra.aws_session import CREDENTIALS, PLACES
from dayfly.infra.providers.aws import PROVIDER
from dayfly.runtime.context import Context
from dayfly.runtime.gpu import is_model
from tests.real_world.story import told

# Read when this file is: the tests' own environment has none of these.
_GIVEN = {name: os.environ[name] for name in (*CREDENTIALS, *PLACES) if name in os.environ}
_WANTED = os.environ.get("DAYFLY_REAL_WORLD") == "1"
# boto3 takes a second to be loaded.
_MISSING = "; ".join(PROVIDER.preflight()) if _WANTED else ""
_GPU = os.environ.get("DAYFLY_TEST_AWS_GPU")
_REHEARSAL = bool(aws_endpoint.given())
_MOST_USD = 2.0

pytestmark = [
    pytest.mark.engine,
    pytest.mark.network,
    pytest.mark.tried("aws", "emulator" if _REHEARSAL else "real"),
    pytest.mark.skipif(
        not _WANTED,
        reason="costs money at AWS: set DAYFLY_REAL_WORLD=1 and AWS credentials",
    ),
    pytest.mark.skipif(bool(_MISSING), reason=_MISSING),
]


@pytest.fixture(autouse=True)
def account(monkeypatch: pytest.MonkeyPatch) -> None:
    """The account that is meant."""
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name)
    for name, value in _GIVEN.items():
        monkeypatch.setenv(name, value)


def _where() -> dict[str, Any]:
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        shown = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        shown = ""
    print("on", platform.node(), "with", shown.strip() or "no GPU", flush=True)
    return {"host": platform.node(), "pid": os.getpid(), "gpus": shown.splitlines()}


def test_a_function_runs_on_ec2_and_nothing_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    """Host, GPU and pid are the machine's; the bill is that of its time at the offer's price; EC2 shows nothing of it in any region."""
    function = cluster(
        provider="aws",
        gpu=_GPU,
        environment=[],
        time="30m",
        max_cost=_MOST_USD,
        job_name="real-world",
    )(_where)
    story = told(function, capsys, _MOST_USD)
    value, receipt, offer = story.value, story.receipt, story.offer
    assert value["host"] not in ("", platform.node())
    assert value["pid"] != os.getpid()
    assert len(value["gpus"]) == offer.gpus
    assert all(is_model(offer.gpu_model, name) for name in value["gpus"])
    assert (receipt.left, receipt.destroyed) == (0, receipt.declared)
    assert receipt.usd_per_hour == pytest.approx(offer.usd_per_hour)
    assert receipt.usd <= story.plan.worst_case_usd
    owner = Context.open().workspace.owner
    assert [found for found in aws_inventory.inventory(owner) if found.run == story.job.id] == []
