"""`min_gpu_utilization=`: refused where it cannot be kept, told in the plan, and the end of a run that is not tried again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dayfly.errors import GpuIdle, GpuUnfit, SpecError
from dayfly.infra.listing import Listing
from dayfly.infra.offers import Offer
from dayfly.infra.planning import make_plan
from dayfly.infra.spec import Spec
from dayfly.runtime import ending, idle_floor, wording
from dayfly.runtime.job import _worth_another
from dayfly.runtime.records import JobEnd
from dayfly.runtime.session import Session
from tests.emulators.gpu import furnish
from tests.sshd import sshd
from tests.test_agent_samples import H100

FLOOR = Spec(min_gpu_utilization=10, gpu_utilization_window="30m")
WITHOUT = Offer("local", "here", "this-computer", 2, 8 * 10**9, 0.0)
WITH = dataclasses.replace(WITHOUT, gpus=2, gpu_model="H100")


def test_an_offer_without_a_gpu_is_refused_before_anything_is_spent() -> None:
    """One with a GPU is not, and none is where nothing was asked for."""
    with pytest.raises(
        SpecError, match="min_gpu_utilization=10, but this-computer of local has no GPU"
    ):
        idle_floor.check_offer(FLOOR, WITHOUT)
    idle_floor.check_offer(FLOOR, WITH)
    idle_floor.check_offer(Spec(), WITHOUT)


def test_the_plan_says_that_the_machine_ends_the_run() -> None:
    """With percent and window; nothing where it was not asked for."""

    def rows(spec: Spec) -> dict[str, str]:
        plan = make_plan(
            spec, [WITH], [Listing(source="engine")], function="m:f", environment_source="live"
        )
        assert plan.as_dict()["min_gpu_utilization"] == spec.min_gpu_utilization
        return dict(wording.plan_rows(plan))

    assert (
        rows(FLOOR)["idle GPU"]
        == "the machine ends the run where a GPU stays under 10 % for 30 min"
    )
    assert "idle GPU" not in rows(Spec())


def test_an_idle_run_ends_in_an_error_of_its_own_that_is_not_tried_again(tmp_path: Path) -> None:
    """It names the GPU; another machine would idle too."""
    end = JobEnd("idle", 0, 15, False, 1.0, 2.0, detail="GPU 1 of 2 did not reach 10 % in 30 min")
    error = ending.failure(tmp_path, end)
    assert isinstance(error, GpuIdle)
    assert "GPU 1 of 2 did not reach 10 % in 30 min" in str(error)
    assert not _worth_another(error)


@pytest.mark.sshd
@pytest.mark.parametrize("lie", ["", "smi_fails", "smi_missing"])
def test_a_machine_that_does_not_tell_what_its_gpus_do_is_unfit(tmp_path: Path, lie: str) -> None:
    """Nobody there could keep what was asked for; where nothing was, it is as good as any."""
    furnish(tmp_path / "gpu", H100, lie)
    path = f"{tmp_path}/gpu/bin:/usr/bin:/bin"
    with (
        sshd(tmp_path / "machine", path=path) as server,
        Session(server.machine, server.keys) as session,
    ):
        idle_floor.check_machine(Spec(), session)
        if not lie:
            idle_floor.check_machine(FLOOR, session)
            return
        with pytest.raises(GpuUnfit, match="min_gpu_utilization=10 cannot be kept there") as caught:
            idle_floor.check_machine(FLOOR, session)
        assert caught.value.check == "utilisation"
