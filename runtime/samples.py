"""Samples: what a run's job and machine have used over time, as the machine has told it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from dayfly.runtime import ranks
from dayfly.runtime.agent import samples as agent_samples

FILE = agent_samples.SAMPLES


@dataclass(frozen=True)
class GpuUse:
    """One GPU at one time.

    Attributes:
        percent: of the time in which something ran on it; None where the driver does not tell, as for a part of a GPU.
        memory_bytes: in use, by whomever.
        memory_total_bytes: all that it has.
    """

    percent: float | None
    memory_bytes: int
    memory_total_bytes: int


@dataclass(frozen=True)
class Sample:
    """The use in the seconds before a time.

    Attributes:
        number: counts from 0; of a thinned sample the last that it stands for.
        time: unix time, of the machine's clock.
        seconds: for how long.
        cpu_cores: cores in use by the job's processes, 1.5 for one and a half.
        memory_bytes: resident, of the job's processes; what several share counts for each.
        processes: of the job.
        machine_share: of all cores in use, by whomever, 0 to 1.
        cores: of the machine.
        machine_memory_bytes: in use, by whomever.
        machine_memory_total_bytes: all that it has.
        free_disk_bytes: where the job works.
        gpus: in the order of nvidia-smi; none where there are none, or none is told.
    """

    number: int
    time: float
    seconds: float
    cpu_cores: float
    memory_bytes: int
    processes: int
    machine_share: float
    cores: int
    machine_memory_bytes: int
    machine_memory_total_bytes: int
    free_disk_bytes: int
    gpus: tuple[GpuUse, ...]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """From the machine's own words.

        Raises:
            ValueError: they are no sample.
        """
        try:
            gpus = tuple(
                GpuUse(None if share is None else float(share), int(used) << 20, int(total) << 20)
                for share, used, total in told["gpus"]
            )
            return cls(
                number=int(told["n"]),
                time=float(told["t"]),
                seconds=float(told["s"]),
                cpu_cores=float(told["cpu"]),
                memory_bytes=int(told["rss"]),
                processes=int(told["processes"]),
                machine_share=float(told["busy"]),
                cores=int(told["cores"]),
                machine_memory_bytes=int(told["used"]),
                machine_memory_total_bytes=int(told["memory"]),
                free_disk_bytes=int(told["disk"]),
                gpus=gpus,
            )
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"no sample: {error!r}") from error

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)


def gpu_percent(number: int) -> Callable[[Sample], float | None]:
    """Reads how much a GPU is in use out of a sample; None where it is not told."""
    return lambda sample: sample.gpus[number].percent if number < len(sample.gpus) else None


def gpu_memory(number: int) -> Callable[[Sample], float | None]:
    """Reads the bytes in use of a GPU out of a sample; None where they are not told."""
    return lambda sample: sample.gpus[number].memory_bytes if number < len(sample.gpus) else None


@dataclass(frozen=True)
class Level:
    """Mean over the time and the most of one thing; None where it was never told."""

    mean: float | None
    peak: float | None


@dataclass(frozen=True)
class GpuLevels:
    """What one GPU did over a run: percent in use, bytes in use, and the bytes that it has."""

    percent: Level
    memory_bytes: Level
    memory_total_bytes: int


@dataclass(frozen=True)
class Use:
    """What a run has used: mean and peak over the seconds that its samples cover."""

    seconds: float
    cpu_cores: Level
    memory_bytes: Level
    machine_share: Level
    machine_memory_bytes: Level
    gpus: tuple[GpuLevels, ...]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Self | None:
        """The use that samples tell of; None where there are none."""
        if not samples:
            return None
        count = max(len(sample.gpus) for sample in samples)
        return cls(
            sum(sample.seconds for sample in samples),
            _level(samples, lambda sample: sample.cpu_cores),
            _level(samples, lambda sample: sample.memory_bytes),
            _level(samples, lambda sample: sample.machine_share),
            _level(samples, lambda sample: sample.machine_memory_bytes),
            tuple(_gpu_levels(samples, number) for number in range(count)),
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)


def _gpu_levels(samples: Sequence[Sample], number: int) -> GpuLevels:
    told = [sample.gpus[number] for sample in samples if number < len(sample.gpus)]
    return GpuLevels(
        _level(samples, gpu_percent(number)),
        _level(samples, gpu_memory(number)),
        max((gpu.memory_total_bytes for gpu in told), default=0),
    )


def _level(samples: Iterable[Sample], value: Callable[[Sample], float | None]) -> Level:
    known = [(sample.seconds, found) for sample in samples if (found := value(sample)) is not None]
    seconds = sum(span for span, _ in known)
    if not known:
        return Level(None, None)
    mean = sum(span * found for span, found in known) / seconds if seconds else known[-1][1]
    return Level(round(mean, 3), max(found for _, found in known))


def parse(lines: bytes) -> tuple[Sample, ...]:
    """The samples of some lines; what is no sample is passed over."""
    return tuple(sample for _, sample in told(lines))


def told(lines: bytes) -> tuple[tuple[dict[str, Any], Sample], ...]:
    """The samples of some lines, each with the machine's own words for it."""
    found = []
    for words in agent_samples.read_samples(lines):
        try:
            found.append((words, Sample.of(words)))
        except ValueError:
            continue
    return tuple(found)


def joined(known: tuple[Sample, ...], lines: bytes) -> tuple[Sample, ...]:
    """Samples and those of lines that came later; a thinned one among these takes the place of its parts."""
    later = told(lines)
    if not later:
        return known
    first = later[0][0]["n"] - later[0][0]["k"] + 1
    return (*(s for s in known if s.number < first), *(sample for _, sample in later))


def read_all(directory: Path, nodes: int) -> tuple[tuple[Sample, ...], ...]:
    """The samples of each of a run's machines, in their order, that its directory holds, the oldest first."""
    return tuple(read(ranks.log_folder(directory, node)) for node in range(nodes))


def read(directory: Path) -> tuple[Sample, ...]:
    """The samples that a run's directory holds of its first machine, the oldest first."""
    try:
        return parse((directory / FILE).read_bytes())
    except FileNotFoundError:
        return ()
