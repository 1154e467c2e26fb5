"""GPU verification: what passes for the Offer, and every way in which a machine can lie, over a real SSH server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dayfly.errors import GpuUnfit, MachineUnfit
from dayfly.infra.offers import Offer
from dayfly.runtime import gpu
from dayfly.runtime.agent import gpus as agent_gpus
from dayfly.runtime.records import Gpu, GpuFindings
from dayfly.runtime.session import Session
from tests.emulators.gpu import Gpu as Shown
from tests.emulators.gpu import furnish
from tests.sshd import Server, carriers, sshd

A100 = Shown("NVIDIA A100-SXM4-40GB", 2, 40960)
OFFER = Offer(
    "cloud", "us", "gpu_2x_a100", 60, 1 << 38, 3.98, gpus=2, gpu_model="A100", gpu_memory_gb=40
)


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("A10", "NVIDIA A10"),
        ("A10G", "NVIDIA A10G"),
        ("A100", "NVIDIA A100-SXM4-40GB"),
        ("A100-80GB", "NVIDIA A100 80GB PCIe"),
        ("RTX6000", "Quadro RTX 6000"),
        ("RTXPRO6000", "NVIDIA RTX PRO 6000 Blackwell Server Edition"),
        ("A6000", "NVIDIA RTX A6000"),
        ("H100", "NVIDIA H100 80GB HBM3"),
        ("H100 SXM5", "NVIDIA H100 80GB HBM3"),
        ("H100", "NVIDIA H100 PCIe"),
        ("GH200", "NVIDIA GH200 480GB"),
        ("V100", "Tesla V100-SXM2-16GB"),
        ("T4", "Tesla T4"),
        ("L40S", "NVIDIA L40S"),
        ("Tesla T4", "Tesla T4"),
    ],
)
def test_a_model_is_known_by_its_full_name(wanted: str, name: str) -> None:
    """However the driver decorates it."""
    assert gpu.is_model(wanted, name)


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("A10", "NVIDIA A100-SXM4-40GB"),
        ("A10", "NVIDIA A10G"),
        ("H100", "NVIDIA GH200 480GB"),
        ("H100", "NVIDIA H200"),
        ("L4", "NVIDIA L40S"),
        ("RTX6000", "NVIDIA RTX PRO 6000 Blackwell Server Edition"),
        ("A6000", "Quadro RTX 6000"),
        ("A100", "Tesla K80"),
    ],
)
def test_a_model_is_not_taken_for_a_similar_one(wanted: str, name: str) -> None:
    """A part of a word is another word."""
    assert not gpu.is_model(wanted, name)


@pytest.mark.parametrize(
    ("gigabytes", "mib"),
    [(24, 23028), (24, 22731), (40, 40536), (80, 81559), (16, 15109), (96, 97871), (180, 183359)],
)
def test_memory_that_the_tools_report_passes_for_what_is_sold(gigabytes: int, mib: int) -> None:
    """They leave out what the driver takes, and some count in other units."""
    found = Gpu("NVIDIA X1", mib << 20, "GPU-1")
    findings = GpuFindings((found,), "570", "", (found,), "", False)
    offer = replace(OFFER, gpus=1, gpu_model="X1", gpu_memory_gb=gigabytes)
    assert gpu.unfitness(offer, findings) is None
    assert gpu.unfitness(replace(offer, gpu_memory_gb=2 * gigabytes), findings) == (
        "memory",
        f"nvidia-smi lists NVIDIA X1 ({mib} MiB)",
    )


def test_a_size_in_the_models_name_counts() -> None:
    """A price list may say it nowhere else."""
    small = Gpu("NVIDIA A100-SXM4-40GB", 40960 << 20, "GPU-1")
    findings = GpuFindings((small,), "570", "", (small,), "", False)
    offer = replace(OFFER, gpus=1, gpu_model="A100-80GB", gpu_memory_gb=0.0)
    assert gpu.unfitness(offer, findings) is not None
    assert gpu.unfitness(replace(offer, gpu_model="A100"), findings) is None


# -- on a machine


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("card")


@pytest.fixture(scope="module")
def server(card: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = f"{card}/bin:{os.defpath}"
    with sshd(
        tmp_path_factory.mktemp("gpu") / "machine", path=path, libraries=f"{card}/lib"
    ) as running:
        yield running


@pytest.fixture(scope="module")
def session(server: Server) -> Iterator[Session]:
    with Session(server.machine, server.keys) as running:
        yield running


def verify(session: Session, answer_s: float = 30.0) -> GpuFindings:
    return gpu.verify(session, OFFER, "i-1", answer_s=answer_s)


@pytest.mark.sshd
def test_an_honest_machine_passes(card: Path, session: Session) -> None:
    """What was found is known: what the tool lists, and that the driver could use each of them."""
    furnish(card, A100)
    findings = verify(session)
    assert [found.name for found in findings.listed] == [A100.model] * 2
    assert len({found.uuid for found in findings.listed}) == 2
    assert findings.driver == A100.driver
    assert [found.memory_bytes >> 20 for found in findings.usable] == [40960] * 2


@pytest.mark.sshd
@pytest.mark.parametrize(
    ("lie", "check", "words"),
    [
        ("model", "model", "Tesla K80 (40960 MiB), Tesla K80"),
        ("count", "count", "nvidia-smi lists NVIDIA A100-SXM4-40GB (40960 MiB)"),
        ("memory", "memory", "(20480 MiB)"),
        ("smi_missing", "nvidia-smi", "there is no nvidia-smi on the machine"),
        ("smi_fails", "nvidia-smi", "nvidia-smi exited 9: NVIDIA-SMI has failed"),
        ("smi_hangs", "nvidia-smi", "nvidia-smi did not answer in 2 s"),
        ("driver_missing", "driver", "libcuda.so.1 cannot be loaded"),
        ("driver_count", "driver count", "the driver sees NVIDIA A100-SXM4-40GB (40960 MiB)"),
        ("init", "driver", "cuInit: error 802 CUDA_ERROR_SYSTEM_NOT_READY"),
        ("init_hangs", "driver", "cuInit: no answer in 2 s"),
        ("init_crashes", "driver", "cuInit: the process ended by signal 11"),
        ("context", "driver", "cuDevicePrimaryCtxRetain on GPU 0: error 46"),
        ("allocation", "driver", "cuMemAlloc_v2 on GPU 0: error 2 CUDA_ERROR_OUT_OF_MEMORY"),
        ("corrupt", "driver", "memory on GPU 0: it gave back other bytes than were written"),
    ],
)
def test_a_machine_that_lies_is_unfit(
    card: Path, session: Session, lie: str, check: str, words: str
) -> None:
    """The error names the check, what was offered and what was found, within the bound, and leaves no process."""
    furnish(card, A100, lie)
    with pytest.raises(GpuUnfit) as caught:
        verify(session, 2.0 if lie.endswith("hangs") else 30.0)
    assert caught.value.check == check
    assert words in caught.value.found
    assert str(caught.value).startswith(
        f"machine i-1 failed the GPU check {check!r}: 2 x A100 with 40 GB each was offered, found: "
    )
    assert isinstance(caught.value, MachineUnfit)
    assert caught.value.phase == "connect"


@pytest.mark.sshd
def test_what_hangs_is_not_left_behind(card: Path, session: Session, server: Server) -> None:
    """Neither the tool nor the process that asks the driver."""
    before = carriers(server.keys.run_id)
    for lie in ("smi_hangs", "init_hangs"):
        furnish(card, A100, lie)
        with pytest.raises(GpuUnfit):
            verify(session, 0.5)
    assert carriers(server.keys.run_id) <= before


@pytest.mark.sshd
def test_more_gpus_than_were_paid_for_are_no_failure(card: Path, session: Session) -> None:
    """The Offer is what there is at least."""
    furnish(card, replace(A100, count=8))
    assert len(verify(session).usable) == 8


@pytest.mark.process
def test_gpus_that_are_hidden_from_programs_are_seen_by_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login may have a variable that leaves programs without any."""
    furnish(tmp_path, A100)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.defpath}")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{tmp_path}/lib")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert len(agent_gpus.gpu_findings(30.0)["usable"]) == 2


def test_gpus_whose_switches_are_being_set_up_are_waited_for() -> None:
    """Asked again until the service has done, and for so long only: an error that stays is an error."""
    listed = (Gpu("NVIDIA A100-SXM4-40GB", 40960 << 20, "GPU-1"),) * 2
    failing = GpuFindings(listed, "570", "", (), "cuInit: error 802", True)

    class Starting(Session):
        asked, time = 0, 0.0

        def __init__(self, ready_after: int) -> None:
            self.ready_after = ready_after

        def gpu_findings(self, timeout_s: float) -> GpuFindings:
            self.asked += 1
            if self.asked > self.ready_after:
                return replace(failing, usable=listed, driver_failure="", starting=False)
            return failing

        def clock(self) -> float:
            return self.time

        def wait(self, seconds: float) -> None:
            self.time += seconds

    soon, never = Starting(3), Starting(10**6)
    gpu.verify(soon, OFFER, "i-1", clock=soon.clock, sleep=soon.wait)
    assert (soon.asked, soon.time) == (4, 15.0)
    with pytest.raises(GpuUnfit, match="error 802"):
        gpu.verify(never, OFFER, "i-1", clock=never.clock, sleep=never.wait)
    assert never.time == 240.0
