"""One run on the real Compute Engine, on its cheapest machine with a GPU; the plan and what it can cost at most are printed first.

Needs Google Cloud's credentials and project (docs/gcp.md), quota for a GPU, and DAYFLY_REAL_WORLD=1:

    DAYFLY_REAL_WORLD=1 GOOGLE_CLOUD_PROJECT=... make real-world
"""

from __future__ import annotations

import os
import platform
import subprocess
from typing import Any

import pytest

from dayfly import cluster
from dayfly.infra import gcp_account, providers
from dayfly.runtime.gpu import is_model
from dayfly.stacks import journal
from tests.real_world.story import told

# Asked when this file is read: the tests' own environment has none of these.
_WANTED = os.environ.get("DAYFLY_REAL_WORLD") == "1"
_MISSING = gcp_account.missing()
_REHEARSAL = gcp_account.URL_VARIABLE in os.environ
_MOST_USD = 5.0

pytestmark = [
    pytest.mark.engine,
    pytest.mark.network,
    pytest.mark.tried("gcp", "emulator" if _REHEARSAL else "real"),
    pytest.mark.skipif(
        not _WANTED, reason="costs money on Compute Engine: set DAYFLY_REAL_WORLD=1"
    ),
    pytest.mark.skipif(bool(_MISSING), reason="; ".join(_MISSING)),
]


def _where() -> dict[str, Any]:
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, check=True)
    rows = [line.rsplit(", ", 1) for line in done.stdout.splitlines()]
    return {"host": platform.node(), "gpus": [(name, float(mib)) for name, mib in rows]}


def test_a_function_runs_on_the_cheapest_machine_with_a_gpu_and_nothing_is_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Host and GPU are the machine's; the bill is the plan's rate for the time that it lived; nothing carries the run's labels."""
    function = cluster(
        provider="gcp",
        gpu="16GB..",
        environment=[],
        time="45m",
        max_cost=_MOST_USD,
        job_name="real-world",
    )(_where)
    story = told(function, capsys, _MOST_USD)
    job, value, receipt, offer = story.job, story.value, story.receipt, story.offer
    assert value["host"] not in ("", platform.node())
    assert len(value["gpus"]) == offer.gpus > 0
    for name, mib in value["gpus"]:
        assert is_model(offer.gpu_model, name), (offer.gpu_model, name)
        assert mib * (1 << 20) > 0.9e9 * offer.gpu_memory_gb
    assert (receipt.left, receipt.at_most, receipt.destroyed) == (0, False, receipt.declared)
    assert receipt.usd_per_hour == pytest.approx(offer.usd_per_hour)
    assert receipt.usd <= story.plan.worst_case_usd
    found = providers.load("gcp").inventory(str(journal.read(job.directory).intent["owner"]))
    assert [each for each in found if each.run == job.id] == []
