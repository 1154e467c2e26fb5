"""The story of a run as one HTML file: whole, well formed, and nothing in it that could load or run."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from dayfly.infra.spec import Spec
from dayfly.runtime import redact, samples, show
from dayfly.runtime.chart import charts
from dayfly.runtime.page import page
from dayfly.stacks import journal
from dayfly.stacks.workspace import Workspace
from tests import runs
from tests.test_agent_samples import sample
from tests.test_cli import dayfly
from tests.test_samples import lines

_VOID = {"meta", "path", "rect"}


class Reader(HTMLParser):
    """Takes a page apart, and refuses one whose elements do not close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def drawn(workspace: Workspace, count: int = 50, **details: Any) -> tuple[str, Reader]:
    """The page of a closed run with two GPUs, one of which the driver tells nothing of."""
    run_id = runs.opened(workspace, **details)
    runs.launched(workspace, run_id)
    runs.closed(workspace, run_id)
    history = journal.read(workspace.directory(run_id))
    told = (
        sample(n, t=history.events[0].time + n, gpus=[[n % 100, 7, 9], [None, 8, 9]])
        for n in range(count)
    )
    (history.directory / samples.FILE).write_bytes(lines(*told))
    text = page(show.story(history), samples.read(history.directory))
    return text, read(text)


def test_a_page_has_the_timeline_the_curves_and_the_whole_story(workspace: Workspace) -> None:
    """What `dayfly show` prints is in it, too."""
    text, reader = drawn(workspace)
    for words in (
        "Timeline",
        "CPU",
        "Memory",
        "GPU memory",
        "receipt",
        "provision",
        "GPU 1",
        "8 cores",
    ):
        assert words in reader.text
    assert "destroyed 2 of 2, local confirms 0 left" in reader.text
    drawings = [tag for tag, _ in reader.elements if tag == "svg"]
    assert len(drawings) == 5
    assert "prefers-color-scheme: dark" in text


def test_the_curves_of_several_machines_are_drawn_for_each(workspace: Workspace) -> None:
    """Named by its number; one of which nothing is known has none."""
    run_id = runs.opened(workspace, spec=Spec(nodes=3))
    runs.launched(workspace, run_id)
    told = show.story(journal.read(workspace.directory(run_id)))
    begun = told["phases"][0]["start"]
    known = samples.parse(lines(*(sample(n, t=begun + n) for n in range(9))))
    reader = read(page(told, known, (), known))
    named = [f"machine {node}: {title}" for node in (0, 2) for title in ("CPU", "Memory")]
    assert [title for title in named if title in reader.text] == named
    assert "machine 1: " not in reader.text


def test_nothing_in_a_page_is_loaded_or_run(workspace: Workspace) -> None:
    """It can be mailed, and opened anywhere."""
    text, reader = drawn(workspace)
    for tag, attributes in reader.elements:
        assert tag not in ("script", "link", "img", "iframe", "object", "use", "foreignobject", "a")
        assert not [
            name
            for name in attributes
            if name.startswith("on") or name in ("href", "src", "xlink:href")
        ]
    assert "http" not in text.replace('http-equiv="Content-Security-Policy"', "")
    assert "url(" not in text
    assert (
        "meta",
        {
            "http-equiv": "Content-Security-Policy",
            "content": "default-src 'none'; style-src 'unsafe-inline'",
        },
    ) in reader.elements


def test_what_a_run_is_called_stays_text(workspace: Workspace) -> None:
    """And a secret is as little in it as in what `show` prints."""
    redact.remember(["canary-in-a-name"])
    name = "<script>alert(1)</script>&\"'</title><svg onload=x>"
    text, reader = drawn(workspace, function=name, environment="canary-in-a-name token=abcdefgh")
    assert name in reader.text
    assert "<script" not in text
    assert "canary-in-a-name" not in text
    assert "abcdefgh" not in text


def test_curves_have_gaps_and_not_more_points_than_can_be_seen(workspace: Workspace) -> None:
    """What is not known is not drawn as 0; thousands of samples are drawn as means."""
    known = samples.parse(
        lines(*(sample(n, gpus=[] if n % 10 == 5 else [[80, 1, 2]]) for n in range(40)))
    )
    gpu = next(chart for chart in charts(known) if chart.title == "GPU")
    drawing = gpu.svg((1e9, 1e9 + 200), 800)
    assert drawing.count("M") - 2 == 5, "two of the grid, and a line between each two gaps"
    assert drawing.count("L") == 40 - 4 - 5
    many = samples.parse(lines(*(sample(n) for n in range(3001))))
    curve = next(iter(charts(many))).curves[0]
    assert len(curve.points) <= 800
    assert list(charts(())) == []


def test_a_machine_that_lives_in_another_year_squeezes_nothing(workspace: Workspace) -> None:
    """Its curves have a span of their own."""
    run_id = runs.opened(workspace)
    runs.launched(workspace, run_id)
    runs.closed(workspace, run_id)
    history = journal.read(workspace.directory(run_id))
    told = show.story(history)
    far = samples.parse(lines(*(sample(n, t=1e9 + 5 * n) for n in range(100))))
    paths = [
        each["d"] or ""
        for tag, each in read(page(told, far)).elements
        if each.get("class") == "curve c0"
    ]
    assert len(paths) == 4, "CPU, memory, GPU and its memory"
    assert paths[0].startswith("M8.0 "), "the first sample's end, 5 s of 500"
    assert "L800.0 " in paths[0]
    bars = [
        float(each["width"] or 0) for tag, each in read(page(told, far)).elements if tag == "rect"
    ]
    assert max(bars) > 100


def test_show_writes_the_page_into_a_file(workspace: Workspace, tmp_path: Path) -> None:
    """One that is there is replaced; a run without any sample is drawn as well; a folder that is not there is code 74."""
    run_id = runs.opened(workspace)
    file = tmp_path / "run.html"
    file.write_text("the page of yesterday")
    done = dayfly("show", run_id, "--html", str(file))
    assert (done.returncode, done.stdout) == (0, "")
    assert str(file) in done.stderr
    assert re.search(r"provision  \d", read(file.read_text()).text)
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []
    assert dayfly("show", run_id, "--html", str(tmp_path / "none" / "run.html")).returncode == 74
