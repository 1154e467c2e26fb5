"""Charts: curves of what a run has used, each chart a drawing in SVG of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from dayfly.infra.units import human_bytes
from dayfly.runtime import wording
from dayfly.runtime.samples import Sample, gpu_memory, gpu_percent

_HEIGHT = 110
# More points than pixels only make the file larger.
_POINTS = 800

Point = tuple[float, float | None]


@dataclass(frozen=True)
class Curve:
    """One line: its name, the number of its colour, and values at unix times; None where a value is not known."""

    name: str
    colour: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Chart:
    """Curves over one axis, `most` its upper end and `words` what that is called."""

    title: str
    most: float
    words: str
    curves: tuple[Curve, ...]

    def svg(self, span: tuple[float, float], width: int) -> str:
        """The drawing, over these unix times."""
        begun, ended = span
        across, up = width / (ended - begun), (_HEIGHT - 20) / (self.most or 1.0)

        def place(moment: float, value: float) -> str:
            return f"{(moment - begun) * across:.1f} {_HEIGHT - 5 - min(value, self.most) * up:.1f}"

        lines = [
            f'<svg viewBox="0 0 {width} {_HEIGHT}" role="img" aria-label="{escape(self.title)}">\n',
            f'<path class="grid" d="M0 15H{width}M0 {_HEIGHT - 5}H{width}"/>\n',
            f'<text x="0" y="11">{escape(self.words)}</text>\n',
        ]
        for curve in self.curves:
            path = _path(curve.points, place)
            lines.append(f'<path class="curve c{curve.colour}" d="{path}"/>\n')
        return "".join([*lines, "</svg>\n"])


def _path(points: Sequence[Point], place: Callable[[float, float], str]) -> str:
    """The commands of a line with gaps."""
    parts, drawing = [], False
    for moment, value in points:
        if value is None:
            drawing = False
            continue
        # A point that stands alone is drawn too.
        parts.append(f"L{place(moment, value)}" if drawing else f"M{place(moment, value)}h0.1")
        drawing = True
    return "".join(parts)


def charts(samples: Sequence[Sample]) -> Iterator[Chart]:
    """What there is to draw: nothing without samples, nothing of GPUs without GPUs."""
    if not samples:
        return
    cores = max(sample.cores for sample in samples)
    memory = max(sample.machine_memory_total_bytes for sample in samples)
    yield Chart(
        "CPU",
        cores,
        f"{cores} cores",
        (
            _curve("the job", 0, samples, lambda s: s.cpu_cores),
            _curve("all of the machine", 1, samples, lambda s: s.machine_share * s.cores),
        ),
    )
    yield Chart(
        "Memory",
        memory,
        human_bytes(memory),
        (
            _curve("the job", 0, samples, lambda s: s.memory_bytes),
            _curve("all of the machine", 1, samples, lambda s: s.machine_memory_bytes),
        ),
    )
    yield from _of_gpus(samples)


def _of_gpus(samples: Sequence[Sample]) -> Iterator[Chart]:
    count = max(len(sample.gpus) for sample in samples)
    if not count:
        return
    memory = max(gpu.memory_total_bytes for sample in samples for gpu in sample.gpus)
    shares, sizes = [], []
    for number in range(count):
        name = f"GPU {number}"
        shares.append(_curve(name, number % 8, samples, gpu_percent(number)))
        sizes.append(_curve(name, number % 8, samples, gpu_memory(number)))
    yield Chart("GPU", 100.0, wording.percent(100), tuple(shares))
    yield Chart("GPU memory", memory, human_bytes(memory), tuple(sizes))


def _curve(
    name: str, colour: int, samples: Sequence[Sample], value: Callable[[Sample], float | None]
) -> Curve:
    """At most so many points as can be seen: of more the means of neighbours."""
    size = -(-len(samples) // _POINTS)
    groups = [samples[place : place + size] for place in range(0, len(samples), size)]
    return Curve(name, colour, tuple((group[-1].time, _mean(group, value)) for group in groups))


def _mean(samples: Sequence[Sample], value: Callable[[Sample], float | None]) -> float | None:
    known = [found for sample in samples if (found := value(sample)) is not None]
    return sum(known) / len(known) if known else None
