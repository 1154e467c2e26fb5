"""Runs on several providers at once from one process: neither waits for, nor disturbs, the other."""

from __future__ import annotations

import os

import pytest

from dayfly import cluster
from dayfly.runtime.context import Context
from dayfly.stacks import journal
from tests.emulators.lambda_cloud.emulator import Emulator

pytestmark = [pytest.mark.engine, pytest.mark.sshd]


def test_two_submits_on_two_providers_are_under_way_together(cloud: Emulator) -> None:
    """Each has its own machine, its own provenance and its own receipt, and nothing is left of either."""

    @cluster(environment=[], time="30m")
    def where(number: int) -> tuple[int, str, str]:
        return number, os.uname().nodename, os.environ["DAYFLY_RUN"]

    there = where.with_options(provider="lambda", instance_type="gpu_1x_a100", region="us-east-1")
    here = where.with_options(provider="local")
    jobs = [there.submit(1), here.submit(2)]
    values = [job.result(timeout=300) for job in jobs]
    receipts = [job.receipt(timeout=300) for job in jobs]
    assert [number for number, _, _ in values] == [1, 2]
    assert [run for _, _, run in values] == [job.id for job in jobs]
    assert values[1][1] == os.uname().nodename != values[0][1]
    assert [(receipt.provider, receipt.left) for receipt in receipts] == [
        ("lambda", 0),
        ("local", 0),
    ]
    histories = {
        each.provider: each
        for each in journal.histories(Context.open().workspace.runs, closed=True)
    }
    began = {name: each.last("intent") for name, each in histories.items()}
    ended = {name: each.last("job_ended") for name, each in histories.items()}
    for one, other in (("lambda", "local"), ("local", "lambda")):
        first, last = began[one], ended[other]
        assert first is not None and last is not None
        assert first.time < last.time, "one has waited for the end of the other"
    assert cloud.live() == []
