"""Gauges: how readings of runs look on a terminal: bars, sparklines and the last lines of the log, drawn with rich."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dayfly.infra.units import human_bytes, human_seconds
from dayfly.runtime.redact import redact
from dayfly.runtime.samples import Sample, gpu_memory, gpu_percent
from dayfly.runtime.usage import Usage
from dayfly.runtime.wording import dollars, percent

_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH = 40
_LOG_LINES = 12


def sparkline(values: Sequence[float | None], most: float, width: int = _WIDTH) -> str:
    """The last values as a row of blocks, `most` the highest; a gap where a value is not known."""
    return "".join(
        " " if value is None else _BLOCKS[_height(value / most if most else 0.0)]
        for value in values[-width:]
    )


def _height(share: float) -> int:
    return min(len(_BLOCKS) - 1, max(0, int(share * len(_BLOCKS))))


def view(usage: Usage) -> RenderableType:
    """One run in full."""
    parts: list[RenderableType] = [Text(_headline(usage), style="bold cyan")]
    if usage.trouble:
        parts.append(Text(redact(f"not of now: {usage.trouble}"), style="bold red"))
    parts.append(_grid(_timeline(usage)))
    for node, samples in enumerate(usage.machines):
        if usage.others:
            parts.append(Text(f"machine {node}", style="bold"))
        parts.append(_grid(_gauges(samples)))
    parts += [Text(redact(line), style="dim") for line in usage.log[-_LOG_LINES:]]
    return Group(*parts)


def table(usages: Sequence[Usage]) -> RenderableType:
    """Many runs, a row each."""
    if not usages:
        return Text("no run is open")
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("ID", "STATUS", "PHASE", "FUNCTION", "FOR", "CPU", "MEMORY", "GPU", "$/H", "$"):
        made.add_column(column, overflow="fold")
    for usage in usages:
        made.add_row(*(Text(cell) for cell in _row(usage)))
    return made


def _row(usage: Usage) -> list[str]:
    """Of several machines the sums, and the mean of all GPUs."""
    phase = usage.phases[-1] if usage.phases else None
    latest = [samples[-1] for samples in usage.machines if samples]
    told = [gpu.percent for sample in latest for gpu in sample.gpus]
    gpus = [share for share in told if share is not None]
    return [
        usage.run[:12],
        usage.status,
        usage.phase or "-",
        usage.function or "-",
        human_seconds(phase.seconds(usage.taken)) if phase is not None else "-",
        f"{sum(sample.cpu_cores for sample in latest):.1f}" if latest else "-",
        human_bytes(sum(sample.memory_bytes for sample in latest)) if latest else "-",
        percent(sum(gpus) / len(gpus)) if gpus else "-",
        dollars(usage.usd_per_hour),
        dollars(usage.usd),
    ]


def _headline(usage: Usage) -> str:
    money = f"{dollars(usage.usd)} so far, {dollars(usage.usd_per_hour)}/h"
    what = [f"run {usage.run[:12]}", usage.function, usage.phase or usage.status, money]
    return "  ".join(part for part in what if part)


def _grid(rows: Iterator[tuple[str, str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(no_wrap=True)
    for label, figure, drawn in rows:
        grid.add_row(Text(f"  {label}"), Text(figure), Text(drawn, style="green"))
    return grid


def _timeline(usage: Usage) -> Iterator[tuple[str, str, str]]:
    """Each phase where it lies in the whole."""
    if not usage.phases:
        return
    begun = usage.phases[0].start
    ended = usage.phases[-1].end or usage.taken
    scale = _WIDTH / max(ended - begun, 1e-9)
    for phase in usage.phases:
        place = min(_WIDTH - 1, int((phase.start - begun) * scale))
        length = max(1, round(phase.seconds(usage.taken) * scale))
        bar = " " * place + "━" * min(length, _WIDTH - place)
        yield phase.name, human_seconds(phase.seconds(usage.taken)), bar


def _gauges(samples: Sequence[Sample]) -> Iterator[tuple[str, str, str]]:
    if not samples:
        yield "use", "none told yet", ""
        return
    sample = samples[-1]

    def row(value: Callable[[Sample], float | None], most: float) -> str:
        return sparkline([value(each) for each in samples], most)

    cores, memory = sample.cores, sample.machine_memory_total_bytes
    job = f"{sample.cpu_cores:.1f} of {cores} cores"
    yield "CPU", job, row(lambda each: each.cpu_cores, cores)
    yield "CPU, all", percent(100 * sample.machine_share), row(lambda each: each.machine_share, 1)
    job = f"{human_bytes(sample.memory_bytes)} of {human_bytes(memory)}"
    yield "memory", job, row(lambda each: each.memory_bytes, memory)
    whole = human_bytes(sample.machine_memory_bytes)
    yield "memory, all", whole, row(lambda each: each.machine_memory_bytes, memory)
    yield "disk", f"{human_bytes(sample.free_disk_bytes)} free", ""
    for number, gpu in enumerate(sample.gpus):
        figure = "not told" if gpu.percent is None else percent(gpu.percent)
        yield f"GPU {number}", figure, row(gpu_percent(number), 100)
        figure = f"{human_bytes(gpu.memory_bytes)} of {human_bytes(gpu.memory_total_bytes)}"
        yield "  memory", figure, row(gpu_memory(number), gpu.memory_total_bytes)
