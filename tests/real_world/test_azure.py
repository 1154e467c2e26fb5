"""One run on the real Azure, on its cheapest machine with a GPU; the plan and what it can cost at most are printed first.

Needs a log-in that azure-identity finds (`az login`, or AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET),
AZURE_SUBSCRIPTION_ID with a quota for Standard_NC4as_T4_v3, and DAYFLY_REAL_WORLD=1:

    DAYFLY_REAL_WORLD=1 AZURE_SUBSCRIPTION_ID=... make real-world

AZURE_REGION names a region in which there is a quota; without it the cheapest is tried first. With the variables that
`python -m tests.emulators.azure` prints it is a rehearsal, which costs nothing.
"""

from __future__ import annotations

import os
import platform
import subprocess
from typing import Any

import pytest

from dayfly import cluster
from dayfly.infra import azure_account, azure_endpoint, providers
from dayfly.runtime.gpu import is_model
from tests.real_world.story import told

# Asked when this file is read: the tests' own environment has none of these.
_WANTED = os.environ.get("DAYFLY_REAL_WORLD") == "1"
_MISSING = "; ".join(azure_account.missing())
_REGION = os.environ.get("AZURE_REGION")
_REHEARSAL = azure_endpoint.URL_VARIABLE in os.environ
_MOST_USD = 5.0

pytestmark = [
    pytest.mark.engine,
    pytest.mark.network,
    pytest.mark.tried("azure", "emulator" if _REHEARSAL else "real"),
    pytest.mark.skipif(
        not _WANTED,
        reason="costs money on Azure: set DAYFLY_REAL_WORLD=1 and AZURE_SUBSCRIPTION_ID",
    ),
    pytest.mark.skipif(bool(_MISSING), reason=_MISSING or "set up"),
]


def _where() -> dict[str, Any]:
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=True)
    return {"host": platform.node(), "pid": os.getpid(), "gpus": done.stdout.split("\n")[:-1]}


def test_a_function_runs_on_the_cheapest_machine_with_a_gpu_and_nothing_is_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Host, GPU and pid are the machine's; the bill is within the plan's; Azure itself lists nothing of the run afterwards."""
    azure = providers.load("azure")
    remote = cluster(
        provider="azure",
        gpu="T4:1",
        region=_REGION,
        environment=[],
        time="45m",
        max_cost=_MOST_USD,
        job_name="real-world",
    )
    story = told(remote(_where), capsys, _MOST_USD)
    job, value, receipt, offer = story.job, story.value, story.receipt, story.offer
    assert value["host"] == f"dayfly-{job.id[:12]}"
    assert value["pid"] != os.getpid()
    assert len(value["gpus"]) == offer.gpus == 1
    assert is_model(offer.gpu_model, value["gpus"][0])
    assert (receipt.left, receipt.at_most, receipt.how) == (0, False, "pulumi")
    assert receipt.usd <= story.plan.worst_case_usd
    assert [found for found in azure.inventory(None) if found.run == job.id] == []
