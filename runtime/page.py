"""The story of a run as one HTML file that needs nothing else: its timeline and use as drawings, then what `show` prints."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dayfly.infra.units import human_seconds
from dayfly.runtime import wording
from dayfly.runtime.chart import Chart, charts
from dayfly.runtime.document import END, WIDTH, escaped, head
from dayfly.runtime.phases import Phase
from dayfly.runtime.samples import Sample
from dayfly.runtime.show import paragraphs

_BAR, _ROW = 14, 22
# By so much the clocks of two computers that are kept may differ.
_CLOCK_S = 60.0
Span = tuple[float, float]


def page(told: Mapping[str, Any], *samples: Sequence[Sample]) -> str:
    """The whole file.

    Args:
        told: the story, as `show.story` tells it.
        samples: of each of the run's machines, the oldest first.
    """
    phases = [Phase(**values) for values in told["phases"]]
    span, charted = _spans(phases, [sample for each in samples for sample in each])
    parts = [head(_title(told))]
    if phases:
        parts += ["<h2>Timeline</h2>\n", _timeline(phases, span)]
    for node, each in enumerate(samples):
        which = f"machine {node}: " if len(samples) > 1 else ""
        for chart in charts(each):
            titled = replace(chart, title=f"{which}{chart.title}")
            parts += [_heading(titled), titled.svg(charted, WIDTH)]
    for title, rows in paragraphs(told):
        parts.append(f"<h2>{escaped(title)}</h2>\n<dl>\n")
        parts += [f"<dt>{escaped(label)}</dt><dd>{escaped(text)}</dd>\n" for label, text in rows]
        parts.append("</dl>\n")
    return "".join([*parts, END])


def _title(told: Mapping[str, Any]) -> str:
    name = told["job_name"] or told["function"]
    return f"run {told['id'][:12]}" + (f": {name}" if name else "")


def _heading(chart: Chart) -> str:
    legend = "".join(
        f' <span class="f{curve.colour}">&#9644;</span> {escaped(curve.name)}'
        for curve in chart.curves
    )
    return f"<h2>{escaped(chart.title)}{legend}</h2>\n"


def _spans(phases: Sequence[Phase], samples: Sequence[Sample]) -> tuple[Span, Span]:
    """Unix times of the first and the last thing to be drawn, of the timeline and of the curves.

    One span for both, unless the machine's clock, which the samples have, is another than ours.
    """
    now = time.time()
    lived = _span([moment for phase in phases for moment in (phase.start, phase.end or now)])
    used = _span(
        [moment for sample in samples for moment in (sample.time - sample.seconds, sample.time)]
    )
    if lived[0] - _CLOCK_S <= used[0] and used[1] <= lived[1] + _CLOCK_S:
        both = _span([*lived, *used])
        return both, both
    return lived, used


def _span(moments: Sequence[float]) -> Span:
    begun = min(moments, default=0.0)
    return begun, max(max(moments, default=0.0), begun + 1e-3)


def _timeline(phases: Sequence[Phase], span: Span) -> str:
    height = _ROW * len(phases) + 18
    return "".join(
        [
            f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="timeline">\n',
            *_bars(phases, span),
            "</svg>\n",
        ]
    )


def _bars(phases: Sequence[Phase], span: Span) -> Iterator[str]:
    begun, ended = span
    scale = WIDTH / (ended - begun)
    now = time.time()
    for row, phase in enumerate(phases):
        took = human_seconds(phase.seconds(now))
        x, width = (phase.start - begun) * scale, max(1.5, phase.seconds(now) * scale)
        words = escaped(f"{phase.name}  {took}")
        y = row * _ROW
        # Where it has no room behind the bar, it stands before it.
        end = x + width < WIDTH * 0.7
        place = f'x="{x + width + 6:.1f}"' if end else f'x="{x - 6:.1f}" text-anchor="end"'
        if not end and x < WIDTH * 0.3:
            place = f'x="{x + 6:.1f}"'
        yield f'<rect class="f{row % 8}" x="{x:.1f}" y="{y + 3}" width="{width:.1f}" height="{_BAR}" opacity="0.55"/>'
        yield f'<text {place} y="{y + _BAR}" style="fill: var(--ink)">{words}</text>\n'
    yield f'<text x="0" y="{_ROW * len(phases) + 13}">{escaped(wording.stamp(begun))}</text>'
    yield f'<text x="{WIDTH}" y="{_ROW * len(phases) + 13}" text-anchor="end">{escaped(wording.stamp(ended))}</text>\n'
