"""`dayfly ps`, `show` and `logs`: what runs, what ran, and what it printed."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dayfly.runtime.cli.common import with_json, with_run

if TYPE_CHECKING:
    from dayfly.runtime.context import Context
    from dayfly.stacks.journal import History

_COLUMNS = ("ID", "STATUS", "FUNCTION", "PROVIDER", "AGE", "UNTIL", "$/H", "$")
_FOLLOW_S = 0.05


@click.command()
@click.option(
    "--all", "-a", "everything", is_flag=True, help="Closed runs too, with minutes and dollars."
)
@with_json
def ps(everything: bool, json: bool) -> None:
    """List the open runs; see to those whose client died."""
    from dayfly.runtime import show
    from dayfly.runtime.cli.output import emit_json, emit_rows, tell
    from dayfly.runtime.cli.upkeep import settle_plain
    from dayfly.runtime.context import Context
    from dayfly.runtime.heal import heal
    from dayfly.runtime.wording import uncovered
    from dayfly.stacks import journal

    context = Context.to_end(tell)
    settle_plain(context, tell)
    heal(context, tell)
    now = time.time()
    found = journal.histories(context.workspace.runs, closed=everything)
    runs = [show.summary(history, now) for history in found]
    if json:
        emit_json(runs)
    elif runs:
        columns = (*_COLUMNS, "MINUTES") if everything else _COLUMNS
        emit_rows(columns, [_row(run, now, everything) for run in runs])
        for history in found:
            if history.credentials and not history.closed:
                tell(uncovered(history.id, history.credentials))
    else:
        tell("no run is open" if not everything else "no runs yet")


@click.command()
@with_run
@with_json
@click.option(
    "--html",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Draw it, with curves of its use.",
)
def show(run: str, json: bool, html: Path | None) -> None:
    """Tell the whole story of a run.

    RUN is its id, or the beginning of it.

    Phases, use of CPU, memory and GPUs, events with times, resources, provenance, code digest, environment, cost and
    receipt: also when it is long gone.
    """
    from dayfly.runtime.cli.output import emit_json, emit_pairs
    from dayfly.runtime.show import paragraphs, story

    history = find_run(run)[1]
    told = story(history)
    if html is not None:
        _draw(told, history, html)
        return
    if json:
        emit_json(told)
        return
    for number, (title, rows) in enumerate(paragraphs(told)):
        emit_pairs(f"\n{title}" if number else title, rows)


def _draw(told: dict[str, Any], history: History, file: Path) -> None:
    """Writes the story as a page."""
    from dayfly.infra import whole_file
    from dayfly.runtime import samples
    from dayfly.runtime.cli.output import tell
    from dayfly.runtime.page import page

    whole_file.write(file, page(told, *samples.read_all(history.directory, history.nodes)))
    tell(f"dayfly: run {history.id[:12]} is drawn in {file}")


@click.command()
@with_run
@click.option("--follow", "-f", is_flag=True, help="Go on until the function ends.")
@click.option("--stdout", "only_stdout", is_flag=True, help="Only its stdout.")
@click.option("--stderr", "only_stderr", is_flag=True, help="Only its stderr.")
def logs(run: str, follow: bool, only_stdout: bool, only_stderr: bool) -> None:
    """Print what the function has printed.

    RUN is its id, or the beginning of it.

    Its stdout goes to stdout and its stderr to stderr, byte for byte.
    """
    from dayfly.runtime.cli.output import tell

    _, history = find_run(run)
    streams = [
        name
        for name, other in (("stdout", only_stderr), ("stderr", only_stdout))
        if not other or only_stdout == only_stderr
    ]
    if _is_elsewhere(history):
        if follow:
            _watch(history, streams)
        else:
            tell(
                f"dayfly: another computer has run {history.id[:12]} in hand: `dayfly logs -f {history.id[:12]}` watches it"
                " there"
            )
        return
    _print_logs(history, streams, follow)
    if follow and not _is_over(history) and not history.closed:
        tell(
            f"dayfly: no client of run {history.id[:12]} is alive, so its log does not grow here;"
            f" `dayfly attach {history.id[:12]}` goes on with it"
        )


def find_run(run: str) -> tuple[Context, History]:
    """The run that a command line names.

    Raises:
        UnknownRun: none, or several.
    """
    from dayfly.runtime import elsewhere
    from dayfly.runtime.cli.output import tell
    from dayfly.runtime.context import Context

    context = Context.to_end(tell)
    return context, elsewhere.find(context, run, tell)


def _row(run: dict[str, Any], now: float, everything: bool) -> list[str]:
    from dayfly.infra.units import human_seconds
    from dayfly.runtime.wording import dollars, stamp

    until = run["closed_at"] or run["hold_until"] or run["kept_until"] or run["deadline"]
    row = [
        run["id"][:12],
        run["status"],
        run["job_name"] or run["function"] or (f"stack {run['stack']}" if run["stack"] else "-"),
        run["provider"] or "-",
        human_seconds(max(0.0, now - run["created"])) if run["created"] else "-",
        stamp(until) if until else "-",
        dollars(run["usd_per_hour"]),
        dollars(run["usd"]),
    ]
    minutes = run["minutes"]
    return [*row, "-" if minutes is None else f"{minutes:.1f}"] if everything else row


def _print_logs(history: History, streams: Sequence[str], follow: bool) -> None:
    """Copies the logs from the beginning; with `follow` until nothing can come any more."""
    from dayfly.runtime import ranks
    from dayfly.stacks import journal

    offsets: dict[Path, int] = {}
    while True:
        now = journal.read(history.directory)
        # Asked before the last read, so that what came in between is not missed.
        last = not follow or _is_over(now) or now.closed or not now.client_alive()
        for label, folder in ranks.logs(history.directory):
            for stream in streams:
                file = folder / f"{stream}.log"
                copy = _copy_lines if label else _copy
                offset = offsets.get(file, 0)
                offsets[file] = offset + copy(file, stream, offset, label.encode(), last)
        if last:
            return
        time.sleep(_FOLLOW_S)


def _is_elsewhere(history: History) -> bool:
    """Whether its log grows on another computer, which has the run in hand, and on the machine."""
    from dayfly.stacks.standing import in_other_home

    on_machine = history.started and history.machine is not None
    return on_machine and in_other_home(history) and not history.closed


def _watch(history: History, streams: Sequence[str]) -> None:
    """Copies the log from the machine until the function has ended, and leaves the run in the hands that it is in."""
    from dayfly.runtime.onlooker import watch

    def take(stream: str, data: bytes) -> None:
        if stream in streams:
            output = getattr(sys, stream)
            output.buffer.write(data)
            output.flush()

    watch(history, take)


def _is_over(history: History) -> bool:
    from dayfly.stacks import journal

    return journal.read(history.directory).last("job_ended") is not None


def _copy(file: Path, stream: str, offset: int, _label: bytes, _last: bool) -> int:
    """Copies what a log has gained.

    Returns:
        How many bytes.
    """
    output = getattr(sys, stream)
    copied = 0
    try:
        with file.open("rb") as log:
            log.seek(offset)
            while data := log.read(1 << 20):
                output.buffer.write(data)
                copied += len(data)
    except FileNotFoundError:
        return 0
    output.flush()
    return copied


def _copy_lines(file: Path, stream: str, offset: int, label: bytes, last: bool) -> int:
    """The same by whole lines, each with the rank that it is of.

    Returns:
        How many bytes.
    """
    try:
        with file.open("rb") as log:
            log.seek(offset)
            data = log.read()
    except FileNotFoundError:
        return 0
    data = data if last else data[: data.rfind(b"\n") + 1]
    lines = data.removesuffix(b"\n").split(b"\n") if data else []
    output = getattr(sys, stream)
    output.buffer.write(b"".join(label + line + b"\n" for line in lines))
    output.flush()
    return len(data)
