"""The story of a run as one HTML file that needs nothing else: its timeline and use as drawings, then what `show` prints."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

from dayfly.infra.units import human_seconds
from dayfly.runtime import wording
from dayfly.runtime.chart import Chart, charts
from dayfly.runtime.phases import Phase
from dayfly.runtime.redact import redact
from dayfly.runtime.samples import Sample
from dayfly.runtime.show import paragraphs

WIDTH, _BAR, _ROW = 800, 14, 22
# By so much the clocks of two computers that are kept may differ.
_CLOCK_S = 60.0
Span = tuple[float, float]

# Nothing is loaded and no script runs, also where something that should be text were taken for more.
_HEAD = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ --ink: #1d2433; --dim: #5b6577; --paper: #fff; --line: #d5dae3; --c0: #2563c9; --c1: #b4540a; --c2: #14804a;
  --c3: #8a3ab9; --c4: #b3261e; --c5: #0f7b8a; --c6: #8a6d00; --c7: #c2317f; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e6e9f0; --dim: #9aa4b5; --paper: #14171f; --line: #363d4b;
  --c0: #7aa7ff; --c1: #f5a05a; --c2: #5fd08f; --c3: #cf9bf0; --c4: #ff8a80; --c5: #5cc8d8; --c6: #e0c04a; --c7: #ff8fc4; }} }}
body {{ font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 860px; margin: 2em auto;
  padding: 0 1em; }}
h1 {{ font-size: 1.2em; overflow-wrap: anywhere; }} h2 {{ font-size: 1em; margin: 1.6em 0 .4em; }}
svg {{ display: block; width: 100%; height: auto; }} svg text {{ font-size: 11px; fill: var(--dim); }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .1em 1.2em; margin: 0; }}
dt {{ color: var(--dim); }} dd {{ margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }}
.grid {{ stroke: var(--line); fill: none; }} .curve {{ fill: none; stroke-width: 1.5; stroke-linejoin: round; }}
{colours}
</style>
</head>
<body>
"""


def page(told: Mapping[str, Any], *samples: Sequence[Sample]) -> str:
    """The whole file.

    Args:
        told: the story, as `show.story` tells it.
        samples: of each of the run's machines, the oldest first.
    """
    phases = [Phase(**values) for values in told["phases"]]
    span, charted = _spans(phases, [sample for each in samples for sample in each])
    parts = [_head(told), f"<h1>{_text(_title(told))}</h1>\n"]
    if phases:
        parts += ["<h2>Timeline</h2>\n", _timeline(phases, span)]
    for node, each in enumerate(samples):
        which = f"machine {node}: " if len(samples) > 1 else ""
        for chart in charts(each):
            titled = replace(chart, title=f"{which}{chart.title}")
            parts += [_heading(titled), titled.svg(charted, WIDTH)]
    for title, rows in paragraphs(told):
        parts.append(f"<h2>{_text(title)}</h2>\n<dl>\n")
        parts += [f"<dt>{_text(label)}</dt><dd>{_text(text)}</dd>\n" for label, text in rows]
        parts.append("</dl>\n")
    return "".join([*parts, "</body>\n</html>\n"])


def _text(words: str) -> str:
    """Words of whatever origin, as text and without what looks like a secret."""
    return escape(redact(words))


def _head(told: Mapping[str, Any]) -> str:
    colours = "\n".join(
        f".c{n} {{ stroke: var(--c{n}); }} .f{n} {{ fill: var(--c{n}); color: var(--c{n}); }}"
        for n in range(8)
    )
    return _HEAD.format(title=_text(_title(told)), colours=colours)


def _title(told: Mapping[str, Any]) -> str:
    name = told["job_name"] or told["function"]
    return f"run {told['id'][:12]}" + (f": {name}" if name else "")


def _heading(chart: Chart) -> str:
    legend = "".join(
        f' <span class="f{curve.colour}">&#9644;</span> {_text(curve.name)}'
        for curve in chart.curves
    )
    return f"<h2>{_text(chart.title)}{legend}</h2>\n"


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
        words = _text(f"{phase.name}  {took}")
        y = row * _ROW
        # Where it has no room behind the bar, it stands before it.
        end = x + width < WIDTH * 0.7
        place = f'x="{x + width + 6:.1f}"' if end else f'x="{x - 6:.1f}" text-anchor="end"'
        if not end and x < WIDTH * 0.3:
            place = f'x="{x + 6:.1f}"'
        yield f'<rect class="f{row % 8}" x="{x:.1f}" y="{y + 3}" width="{width:.1f}" height="{_BAR}" opacity="0.55"/>'
        yield f'<text {place} y="{y + _BAR}" style="fill: var(--ink)">{words}</text>\n'
    yield f'<text x="0" y="{_ROW * len(phases) + 13}">{_text(wording.stamp(begun))}</text>'
    yield f'<text x="{WIDTH}" y="{_ROW * len(phases) + 13}" text-anchor="end">{_text(wording.stamp(ended))}</text>\n'
