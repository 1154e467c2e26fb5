"""Samples on this computer: kept whole and bounded, added up, and a GPU that idles warned of once a stretch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dayfly.runtime import samples
from dayfly.runtime.agent import samples as agent_samples
from dayfly.runtime.display import Display
from dayfly.runtime.idle_watch import Idle, IdleWatch
from dayfly.runtime.sample_log import SampleLog
from dayfly.runtime.samples import GpuUse, Level, Sample, Use
from tests.test_agent_samples import sample, small

__all__ = ["small"]


def lines(*told: dict[str, Any]) -> bytes:
    """As the machine sends them."""
    return b"".join(map(agent_samples.sample_line, told))


def busy(number: int, *percents: float | None, seconds: float = 60.0) -> Sample:
    """A minute in which the GPUs were so much in use."""
    return Sample.of(sample(number, s=seconds, gpus=[[percent, 1, 2] for percent in percents]))


# -- read


def test_the_machine_s_words_become_a_sample_with_units() -> None:
    """Bytes, cores, a share and percent."""
    found = Sample.of(sample(3, gpus=[[97.5, 2, 80], [None, 0, 80]]))
    assert (found.number, found.seconds, found.cpu_cores, found.memory_bytes) == (3, 5.0, 1.5, 3)
    assert (found.machine_share, found.cores) == (0.5, 8)
    assert found.gpus == (GpuUse(97.5, 2 << 20, 80 << 20), GpuUse(None, 0, 80 << 20))
    assert found.as_dict()["gpus"][0]["percent"] == 97.5


@pytest.mark.parametrize("wrong", [{"cpu": "much"}, {"gpus": [[1, 2]]}, {"rss": None}, {"t": {}}])
def test_what_is_no_sample_is_passed_over(wrong: dict[str, Any]) -> None:
    """Whatever a machine tells, reading it does not fail."""
    told = lines(sample(0), {**sample(1), **wrong}, sample(2)) + b"\xff{\n[]\n7\n"
    assert [found.number for found in samples.parse(told)] == [0, 2]


def test_a_directory_without_samples_has_none(tmp_path: Path) -> None:
    """A run of a moment, or one of before there were any."""
    assert samples.read(tmp_path) == ()
    assert Use.of(()) is None


def test_use_is_the_mean_over_the_time_and_the_most() -> None:
    """A sample of a minute weighs as much as twelve of five seconds; what was never told is not 0."""
    known = [
        busy(0, 90.0, None, seconds=60.0),
        busy(1, 30.0, None, seconds=20.0),
        busy(2, seconds=5.0),
    ]
    use = Use.of(known)
    assert use is not None
    assert use.seconds == 85.0
    assert use.gpus[0].percent == Level(75.0, 90.0)
    assert use.gpus[1].percent == Level(None, None)
    assert use.gpus[1].memory_total_bytes == 2 << 20
    assert use.cpu_cores == Level(round((0.5 * 20 + 1.0 * 5) / 85, 3), 1.0)


# -- kept


class Told(Display):
    """A display whose warnings are kept."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)


@pytest.mark.usefixtures("small")
def test_a_log_of_samples_goes_on_where_another_client_stopped_and_stays_small(
    tmp_path: Path,
) -> None:
    """What was here is seen again, but not as new."""
    seen: list[tuple[int, bool]] = []
    first = SampleLog(tmp_path, Told(), lambda found, new: seen.append((found.number, new)))
    assert first.last == -1
    first.take(2, lines(*(sample(n) for n in range(3))))
    second = SampleLog(tmp_path, Told(), lambda found, new: seen.append((found.number, new)))
    assert second.last == 2
    for number in range(3, 300):
        second.take(number, lines(sample(number)))
    assert second.last == 299
    assert seen[:7] == [
        (0, True),
        (1, True),
        (2, True),
        (0, False),
        (1, False),
        (2, False),
        (3, True),
    ]
    assert (tmp_path / samples.FILE).stat().st_size <= agent_samples.SAMPLES_BYTES_MOST
    assert sum(found.seconds for found in samples.read(tmp_path)) == 300 * 5.0


def test_what_is_no_sample_is_not_kept(tmp_path: Path) -> None:
    """It would be in the way when the file is thinned."""
    log = SampleLog(tmp_path, Told())
    log.take(2, lines(sample(0), {"n": 1, "k": 1}, sample(2)))
    assert (tmp_path / samples.FILE).read_bytes() == lines(sample(0), sample(2))


def test_a_disk_without_room_is_told_once_and_the_run_goes_on(tmp_path: Path) -> None:
    """The warnings of idle GPUs go on, too."""
    seen: list[int] = []
    display = Told()
    log = SampleLog(tmp_path, display, lambda found, _new: seen.append(found.number))
    (tmp_path / samples.FILE).mkdir()
    log.take(0, lines(sample(0)))
    log.take(1, lines(sample(1)))
    assert len(display.warnings) == 1
    assert "no room" in display.warnings[0]
    assert seen == [0, 1]


# -- idle


def warned(watch_of: float, *taken: Sample, new: bool = True) -> list[Idle]:
    found: list[Idle] = []
    watch = IdleWatch(watch_of, found.append)
    for each in taken:
        watch.take(each, new)
    return found


def test_a_gpu_under_80_percent_for_ten_minutes_is_warned_of_once_with_its_price() -> None:
    """The price is the GPU's part of the machine's; the one that works is not named."""
    found = warned(8.0, *(busy(n, 95.0, 20.0, 95.0, 95.0) for n in range(60)))
    assert [(idle.gpu, idle.percent) for idle in found] == [(1, 20.0)]
    assert "GPU 1 of 4 was in use for 20 % of the last 10 min, and costs $2.00/h" in found[0].text
    assert warned(8.0, *(busy(n, 20.0) for n in range(9))) == []


def test_another_stretch_is_warned_of_again() -> None:
    """It begins when the GPU has been at work in between."""
    low, high = [10.0] * 12, [100.0] * 12
    taken = [busy(n, percent) for n, percent in enumerate([*low, *high, *low, *low])]
    assert len(warned(1.0, *taken)) == 2


def test_a_mean_counts_and_not_a_moment() -> None:
    """Between two batches a GPU rests."""
    assert warned(1.0, *(busy(n, 100.0 if n % 10 else 0.0) for n in range(60))) == []


def test_what_another_client_has_warned_of_is_not_warned_of_again() -> None:
    """And what is not told is not idle."""
    assert warned(1.0, *(busy(n, 5.0) for n in range(60)), new=False) == []
    assert warned(1.0, *(busy(n, None) for n in range(60))) == []
