"""A machine whose GPU is not the one that is paid for: another is tried, and the function is not to blame."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dayfly import cluster
from dayfly.errors import GpuUnfit
from dayfly.infra import providers
from dayfly.infra.offers import Offer
from dayfly.runtime.context import Context
from dayfly.stacks import journal
from dayfly.stacks.journal import History
from tests.emulators.gpu import Gpu, furnish

pytestmark = [pytest.mark.engine, pytest.mark.sshd]


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """This computer in the part of a cloud that sells two types of machine, each with one A100."""
    local = providers.load("local")
    (own,) = local.offers(cluster(provider="local")(print).spec)
    offered = replace(own, gpus=1, gpu_model="A100", gpu_memory_gb=40)
    offers: list[Offer] = [replace(offered, instance_type=name) for name in ("first", "second")]
    monkeypatch.setattr(type(local), "same_computer", False)
    monkeypatch.setattr(type(local), "offers", lambda _self, _spec: offers)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    yield tmp_path
    assert not local.inventory(Context.open().workspace.owner)


def runs() -> list[History]:
    """Every run of this test, the oldest first."""
    return journal.histories(Context.open().workspace.runs, closed=True)


@pytest.mark.clouds
@pytest.mark.long
def test_the_same_offer_again_then_the_next_and_no_more(card: Path, tmp_path: Path) -> None:
    """Each machine is marked, destroyed and proved gone, and the function is not started on any of them."""
    furnish(card, Gpu("NVIDIA A100-SXM4-40GB", 1, 40960), "model")
    flag = tmp_path / "started"

    @cluster(provider="local", environment=[], time="10m", retries=1)
    def function() -> None:
        flag.touch()

    job = function.submit()
    with pytest.raises(GpuUnfit, match="failed the GPU check 'model'") as caught:
        job.result(timeout=300)
    job.wait_closed()
    assert "3 machines were tried and destroyed" in caught.value.__notes__[0]
    assert not flag.exists()
    tried = runs()
    assert [run.intent["offer"]["instance_type"] for run in tried] == ["first", "first", "second"]
    for run in tried:
        assert run.closed
        assert run.field("machine_unfit", "check") == "model"
        assert "Tesla K80" in run.field("machine_unfit", "found")
        assert run.last("job_started") is None
    assert {run.intent["lineage"] for run in tried[1:]} == {tried[0].id}


def test_as_many_machines_as_were_allowed(card: Path) -> None:
    """One, and it is said of that one what it lacks."""
    furnish(card, Gpu("NVIDIA A100-SXM4-40GB", 1, 40960), "smi_fails")
    function = cluster(provider="local", environment=[], time="10m", max_machines=1)(os.getpid)
    job = function.submit()
    with pytest.raises(GpuUnfit, match="couldn't communicate with the NVIDIA driver"):
        job.result(timeout=300)
    job.wait_closed()
    assert len(runs()) == 1
