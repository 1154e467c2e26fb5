"""What the supervisor of a job sees of it: samples that stay few, and a GPU that idles."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dayfly.runtime.agent import (
    gpu_watch,
    idle_gpus,
    job_folder,
    meters,
    processes,
    sample_file,
)
from dayfly.runtime.agent import (
    sampler as agent_sampler,
)
from dayfly.runtime.agent import (
    samples as agent_samples,
)
from tests.emulators.gpu import Gpu, furnish
from tests.test_agent import job, place_task, result, supervised

__all__ = ["job"]
H100 = Gpu("NVIDIA H100", 2, 81559, percents=(93, 4), used_mib=40000)


def sample(number: int, **more: Any) -> dict[str, Any]:
    """One sample of 5 s, told apart by its number."""
    made = {
        "n": number,
        "k": 1,
        "t": 1e9 + 5 * number,
        "s": 5.0,
        "cpu": number % 7 / 2,
        "rss": number,
    }
    made |= {
        "processes": 2,
        "busy": 0.5,
        "cores": 8,
        "used": 10,
        "memory": 20,
        "disk": 10**9 - number,
    }
    return {**made, "gpus": [[number % 100, number, 80000]], **more}


def append(file: sample_file.SampleFile, *samples: dict[str, Any]) -> None:
    file.append(b"".join(map(agent_samples.sample_line, samples)))


def covered(samples: list[dict[str, Any]]) -> list[int]:
    """Every number that the samples stand for, in order."""
    return [n for each in samples for n in range(each["n"] - each["k"] + 1, each["n"] + 1)]


# -- the file


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that are reached within hundreds of samples instead of thousands."""
    monkeypatch.setattr(sample_file, "SAMPLES_BYTES_MOST", 16_000)
    monkeypatch.setattr(agent_samples, "SAMPLES_BYTES_LEFT", 10_000)
    monkeypatch.setattr(agent_samples, "SAMPLES_WHOLE", 20)


@pytest.mark.usefixtures("small")
def test_a_file_of_samples_stays_small_and_loses_no_mean_and_no_peak(tmp_path: Path) -> None:
    """What is old is told more coarsely, all of it at about one resolution; the newest stay as they were."""
    path = tmp_path / "samples.jsonl"
    file, count, largest = sample_file.SampleFile(str(path)), 3000, 0
    for number in range(count):
        append(file, sample(number))
        largest = max(largest, path.stat().st_size)
    left = file.read()
    assert largest <= 16_000 + 300
    assert covered(left) == list(range(count))
    assert [each["k"] for each in left[-20:]] == [1] * 20
    assert left[0]["k"] <= 4 * (count // len(left))
    cores_s = sum(sample(number)["cpu"] * 5.0 for number in range(count))
    assert sum(each["s"] for each in left) == pytest.approx(5.0 * count)
    assert sum(each["cpu"] * each["s"] for each in left) == pytest.approx(cores_s, rel=1e-3)
    assert left[0]["rss"] == left[0]["n"], "the most of what it stands for"
    assert left[0]["disk"] == 10**9 - left[0]["n"], "the least"
    share = sum(each["gpus"][0][0] * each["s"] for each in left) / sum(each["s"] for each in left)
    assert share == pytest.approx(49.5, rel=1e-3)


def test_a_week_of_eight_gpus_is_under_a_megabyte() -> None:
    """With the real limits: what a file may grow to, and what thinning leaves of that."""
    gpus = [[99.5, 81000, 81559]] * 8
    lines = [sample(number, gpus=gpus, t=1e9 + 5 * number, rss=10**11) for number in range(3000)]
    left = agent_samples.thin_samples(lines)
    size = sum(len(agent_samples.sample_line(each)) for each in left)
    assert size <= agent_samples.SAMPLES_BYTES_LEFT < agent_samples.SAMPLES_BYTES_MOST < 1_000_000
    assert len(left) > agent_samples.SAMPLES_WHOLE
    assert covered(left) == list(range(3000))


def test_an_unknown_share_is_not_taken_for_none() -> None:
    """What is known of two stands for both."""
    one, other = sample(0, gpus=[[None, 5, 9]]), sample(1, gpus=[[40, 3, 9]])
    assert agent_samples.merge_samples(one, other)["gpus"] == [[40, 5, 9]]
    assert agent_samples.merge_samples(other, {**one, "n": 2})["gpus"] == [[40, 5, 9]]
    assert agent_samples.merge_samples(one, sample(1, gpus=[]))["gpus"] == [[None, 5, 9]]


def test_a_torn_line_spoils_no_other(tmp_path: Path) -> None:
    """A full disk takes a part of a line; what comes when there is room again stands on its own."""
    path = tmp_path / "samples.jsonl"
    file = sample_file.SampleFile(str(path))
    append(file, sample(0))
    with path.open("ab") as output:
        output.write(agent_samples.sample_line(sample(1))[:30])
    append(file, sample(2))
    assert [each["n"] for each in file.read()] == [0, 2]


@pytest.mark.usefixtures("small")
def test_a_reader_gets_each_number_once_also_when_the_file_is_thinned_meanwhile(
    tmp_path: Path,
) -> None:
    """And one that begins again goes on behind the last number that it knows."""
    file, known = sample_file.SampleFile(str(tmp_path / "samples.jsonl")), b""
    reader, since, thinned = sample_file.SampleReader(str(tmp_path / "samples.jsonl"), -1), -1, 0
    assert list(reader.unread()) == []
    for number in range(400):
        append(file, sample(number))
        if number % 7 == 0:
            for last, data in reader.unread():
                since, known = last, known + data
        if number == 200:
            # As after a broken connection, in the middle of what is thinned later.
            reader = sample_file.SampleReader(str(tmp_path / "samples.jsonl"), since)
    thinned = max(each["k"] for each in file.read())
    for last, data in reader.unread():
        since, known = last, known + data
    assert thinned > 1
    assert since == 399
    assert [json.loads(line)["n"] for line in known.splitlines()] == list(range(400))


@pytest.mark.usefixtures("small")
def test_who_was_away_for_long_gets_blocks_which_take_the_place_of_what_is_known(
    tmp_path: Path,
) -> None:
    """No number twice, wherever it stopped."""
    file = sample_file.SampleFile(str(tmp_path / "samples.jsonl"))
    lines = b"".join(agent_samples.sample_line(sample(number)) for number in range(400))
    file.append(lines)
    for stopped in range(100):
        known = b"".join(agent_samples.sample_line(sample(number)) for number in range(stopped + 1))
        for _, data in sample_file.SampleReader(str(tmp_path / "samples.jsonl"), stopped).unread():
            known += data
        assert covered(agent_samples.read_samples(known)) == list(range(400))


# -- the meters

BURN = "import time; t = time.process_time()\nwhile time.process_time() < t + %s: pass"


@pytest.mark.process
@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no /proc here")
def test_a_tree_of_processes_is_measured_with_those_that_have_ended(tmp_path: Path) -> None:
    """What a grandchild took counts when it has ended; who is not below the root does not."""
    inner = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {BURN % 0.2!r}]); print(flush=True)"
    script = f"{inner}; block = bytearray(50 << 20); print(flush=True); time.sleep(60)"
    began = time.monotonic()
    meter = meters.ProcMeter(os.getpid(), -1, str(tmp_path))
    # What this process and its earlier children have taken is not of this tree.
    before = meter.read(set())
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
        found = meter.read(set())
        span_s = time.monotonic() - began
        without = meter.read({process.pid})
        process.kill()
    assert found["cpu"] * span_s >= 0.19
    assert found["rss"] - before["rss"] > 50 << 20
    assert found["processes"] == before["processes"] + 1
    assert without["rss"] == before["rss"]
    assert found["cores"] == os.cpu_count()
    assert 0 <= found["busy"] <= 1
    assert 0 < found["used"] < found["memory"]
    assert found["disk"] > 0


# As macOS prints it: `ps -axo pid=,ppid=,pgid=,rss=,time=,pcpu=,state=` and `vm_stat`.
PS = """\
    1     0     1  12000   1:02.50   0.0 Ss
  700     1   700   9000   0:00.10   0.0 S
  701   700   701 204800   {time}  98.5 R+
  702   701   701   1024   0:01.00   1,5 S
  703     1   701   1024   0:00.00   0.0 Z
  900     1   900 999999   9:09.09  50.0 R
"""
VM_STAT = """\
Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               10000.
Pages active:                            200000.
Pages inactive:                           30000.
Pages speculative:                         5000.
"""


def test_where_there_is_no_proc_ps_and_vm_stat_tell(tmp_path: Path) -> None:
    """The tree is what is below the root and in the job's group; the machine's share that of all processes."""
    meter = meters.PsMeter(700, 701, str(tmp_path))
    meter._cores, meter._memory = 4, 16 << 30
    first = meter.in_listing(PS.format(time="2:03.00"), set())
    meter._at -= 10.0
    second = meter.in_listing(PS.format(time="2:18.00"), set())
    assert (second["rss"], second["processes"], second["cores"]) == ((204800 + 2048) << 10, 2, 4)
    assert second["cpu"] == pytest.approx(1.5, rel=0.01)
    assert first["busy"] == second["busy"] == 0.375
    assert meter._used(VM_STAT) == (16 << 30) - 45000 * 16384
    assert meters._ps_seconds("1-02:03:04") == 93784


# -- the GPUs


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with two GPUs, of which its nvidia-smi tells."""
    furnish(tmp_path / "gpu", H100)
    monkeypatch.setenv("PATH", f"{tmp_path}/gpu/bin:{os.defpath}")
    return tmp_path / "gpu"


@pytest.fixture
def watch(smi: Path) -> Iterator[gpu_watch.GpuWatch]:
    made = gpu_watch.GpuWatch(0.05)
    yield made
    made.close()


def until_told(watch: gpu_watch.GpuWatch, wanted: list[list[Any]], now: float = 0.0) -> None:
    while watch.read(now) != wanted:
        time.sleep(0.01)


@pytest.mark.process
def test_one_nvidia_smi_tells_of_every_gpu_as_long_as_it_lives(
    watch: gpu_watch.GpuWatch, smi: Path
) -> None:
    """What it tells changes, the process stays; one that ends is started again, but not at once."""
    until_told(watch, [[93.0, 40000, 81559], [4.0, 40000, 81559]])
    (pid,) = watch.processes
    furnish(smi, Gpu("NVIDIA H100", 2, 81559, percents=(50, "[N/A]"), used_mib=7))
    until_told(watch, [[50.0, 7, 81559], [None, 7, 81559]])
    assert watch.processes == {pid}
    os.kill(pid, 9)
    while watch.processes:
        watch.read(1.0)
    watch.read(watch.AGAIN_S - 1)
    assert not watch.processes
    watch.read(watch.AGAIN_S + 1)
    assert watch.processes not in (set(), {pid})


@pytest.mark.process
def test_readings_between_two_looks_are_a_mean_and_old_ones_are_not_told(
    watch: gpu_watch.GpuWatch,
) -> None:
    """As long as nothing new comes the last one stands, and then nothing does: what is unknown is not idle."""
    for share in ("10", "20", "[N/A]", "60"):
        watch._take(f"0, {share}, 1, 2", 0.0)
    watch._command = ["/nowhere"]
    assert watch.read(1.0) == [[30.0, 1, 2]]
    assert watch.read(watch.PATIENCE_S) == [[30.0, 1, 2]]
    assert watch.read(watch.PATIENCE_S + 1) == []


@pytest.mark.process
def test_a_tool_that_lives_and_says_nothing_is_ended_and_asked_anew_without_a_loop(
    smi: Path,
) -> None:
    """A driver that hangs, or a tool that keeps its words back: neither holds up the look."""
    furnish(smi, H100, "smi_hangs")
    watch = gpu_watch.GpuWatch(0.05)
    assert watch.read(0.0) == []
    hung = watch.processes
    furnish(smi, H100)
    assert watch.read(watch.PATIENCE_S + 1) == []
    assert watch.processes > hung
    until_told(watch, [[93.0, 40000, 81559], [4.0, 40000, 81559]], watch.PATIENCE_S + 1)
    while watch.processes:
        watch.read(watch.PATIENCE_S + 1)
    watch.close()


def test_a_machine_without_the_tool_has_no_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is started to find that out."""
    monkeypatch.setenv("PATH", str(tmp_path))
    watch = gpu_watch.GpuWatch(5.0)
    assert watch.read(0.0) == []
    assert not watch.processes


# -- idle


def taken(
    idle: idle_gpus.IdleGpus, *shares: Sequence[float | None], every_s: float = 5.0
) -> list[str]:
    """What is said at readings that follow each other; each is the shares of all GPUs."""
    return [
        idle.idle(1000 + n * every_s, [[share, 0, 1] for share in reading])
        for n, reading in enumerate(shares)
    ]


def test_a_gpu_that_stays_under_the_floor_for_the_window_is_named() -> None:
    """Not before, and the one that works does not hide it."""
    said = taken(idle_gpus.IdleGpus(10, 60), *([[90.0, 3.0], *[[90.0, 2.0]] * 12]))
    assert said[:12] == [""] * 12
    assert said[12] == ("GPU 1 of 2 did not reach 10 % in 1 min (its best reading was 3 %)")


@pytest.mark.parametrize(
    "between", [[10.0], [None], []], ids=["it reached it", "it is not told", "nothing is told"]
)
def test_one_reading_that_is_not_low_begins_the_window_anew(between: list[float | None]) -> None:
    """A doubt is the run's."""
    low: list[list[float | None]] = [[0.0]] * 12
    assert taken(idle_gpus.IdleGpus(10, 60), *low, between, *low) == [""] * 25


def test_a_machine_that_slept_begins_the_window_anew() -> None:
    """What is between two readings far apart is not known."""
    idle = idle_gpus.IdleGpus(10, 60)
    assert taken(idle, *[[0.0]] * 12) == [""] * 12
    assert idle.idle(99_000.0, [[0.0, 0, 1]]) == ""


def test_without_a_floor_nothing_is_idle_and_readings_come_as_usual() -> None:
    """With one there are four of them in a window at least."""
    assert taken(idle_gpus.IdleGpus(0, 60), *[[0.0]] * 20) == [""] * 20
    assert idle_gpus.IdleGpus(0, 1).every_s(5.0) == 5.0
    assert idle_gpus.IdleGpus(10, 3600).every_s(5.0) == 5.0
    assert idle_gpus.IdleGpus(10, 8).every_s(5.0) == 2.0


@pytest.mark.process
@pytest.mark.usefixtures("smi")
def test_the_machine_itself_ends_a_job_whose_gpu_idles(
    job: job_folder.JobFolder,
) -> None:
    """Nobody is connected; the end names the GPU, the samples tell what it did, and its nvidia-smi has ended."""
    place_task(job, lambda: time.sleep(60))
    end = supervised(job, gpu_floor_percent=10, gpu_window_s=0.8, grace_s=60)
    assert (end["how"], end["signal"]) == ("idle", 0)
    assert end["detail"].startswith("GPU 1 of 2 did not reach 10 % in 0.0133333 min")
    found = sample_file.SampleFile(job.file(agent_samples.SAMPLES)).read()
    assert [[gpu[0] for gpu in each["gpus"]] for each in found[-2:]] == [[93.0, 4.0]] * 2
    assert not processes.carriers(job.mark())


@pytest.mark.process
@pytest.mark.usefixtures("smi")
def test_a_value_that_an_idle_function_returns_when_asked_to_end_is_kept(
    job: job_folder.JobFolder,
) -> None:
    """As at the deadline."""

    def function() -> str:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            return "checkpoint"
        return "never"

    place_task(job, function)
    assert supervised(job, gpu_floor_percent=10, gpu_window_s=0.8, grace_s=60)["how"] == "finished"
    assert b"checkpoint" in result(job)[1]


def test_a_machine_that_cannot_be_measured_is_watched_for_idle_gpus_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As where /proc may not be read; that is told once, and the job's guard has to know nothing of it."""
    furnish(tmp_path / "gpu", H100)
    monkeypatch.setenv("PATH", f"{tmp_path}/gpu/bin:{os.defpath}")
    monkeypatch.setattr(agent_sampler, "meter", lambda *_: Path("/nowhere").read_text())
    roused = threading.Event()
    order = {"gpu_floor_percent": 10, "gpu_window_s": 0.2}
    sampler = agent_sampler.Sampler(job_folder.JobFolder(str(tmp_path)), order, roused.set)
    sampler.start(os.getpid())
    assert roused.wait(60)
    sampler.stop()
    assert "GPU 1 of 2" in sampler.idle
    assert not sampler.own
    assert capfd.readouterr().err.count("dayfly: no sample: FileNotFoundError") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is full is Linux's")
def test_a_disk_that_is_full_ends_no_watch_over_the_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has room neither for a sample nor for the words that there is none."""
    furnish(tmp_path / "gpu", H100)
    monkeypatch.setenv("PATH", f"{tmp_path}/gpu/bin:{os.defpath}")
    roused = threading.Event()
    order = {"gpu_floor_percent": 10, "gpu_window_s": 0.2}
    (tmp_path / agent_samples.SAMPLES).symlink_to("/dev/full")
    sampler = agent_sampler.Sampler(job_folder.JobFolder(str(tmp_path)), order, roused.set)
    full, stderr = os.open("/dev/full", os.O_WRONLY), os.dup(2)
    os.dup2(full, 2)
    try:
        sampler.start(os.getpid())
        assert roused.wait(60)
        sampler.stop()
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(full)
    assert "GPU 1 of 2" in sampler.idle


@pytest.mark.process
def test_samples_that_cannot_be_written_cost_the_job_nothing(
    job: job_folder.JobFolder,
) -> None:
    """It is said once on the supervisor's own log."""
    Path(job.file(agent_samples.SAMPLES)).mkdir()
    place_task(job, lambda: time.sleep(1.2))
    assert supervised(job)["how"] == "finished"
    assert (
        Path(job.file("supervisor.log")).read_text().count("dayfly: no sample: IsADirectoryError")
        <= 1
    )
