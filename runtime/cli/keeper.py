"""`dayfly keeper`: whether it is there, what it has in its care, and its end."""

from __future__ import annotations

import time
from typing import Any

import click

from dayfly.runtime.cli.common import with_json

_COLUMNS = ("ID", "STATUS", "NEXT", "FAILED", "WHY")


@click.group()
def keeper() -> None:
    """The process that finishes what dead clients leave behind."""


@keeper.command()
@with_json
def status(json: bool) -> None:
    """Show the keeper and the runs in its care; it starts by itself, and ends when nothing is open."""
    from dayfly.errors import KeeperMissing
    from dayfly.runtime.cli.output import emit_json, tell
    from dayfly.runtime.context import Context
    from dayfly.runtime.entrust import Line

    try:
        with Line(Context.to_end(tell).workspace) as line:
            told = {**line.greeting, **line.ask("status")}
    except KeeperMissing as missing:
        if json:
            emit_json(None)
        else:
            tell(f"no keeper: {missing}; the next call, or `dayfly ps`, starts one if it is needed")
        return
    if json:
        emit_json(told)
    else:
        _print(told)


@keeper.command()
@click.option("--force", is_flag=True, help="Even though runs are open: nobody sees to them then.")
@with_json
def stop(force: bool, json: bool) -> None:
    """End the keeper; refused while runs are open."""
    from dayfly.errors import KeeperMissing, RunBusy
    from dayfly.runtime.cli.output import emit_json, tell
    from dayfly.runtime.context import Context
    from dayfly.runtime.entrust import Line, wait_until_gone

    try:
        with Line(Context.to_end(tell).workspace) as line:
            answer = line.ask("stop", force=force)
    except KeeperMissing:
        answer = {"stopping": False, "runs": []}
    runs = [run[:12] for run in answer["runs"]]
    if "refused" in answer:
        raise RunBusy(
            f"runs {', '.join(runs)} are open, and nobody would see to them; --force ends the keeper all the same"
        )
    if answer["stopping"]:
        wait_until_gone(line.process)
    if json:
        emit_json({"stopped": answer["stopping"], "runs": answer["runs"]})
        return
    tell("the keeper has ended" if answer["stopping"] else "no keeper was there")
    if runs:
        tell(f"nobody sees to {', '.join(runs)} until the next call, or `dayfly ps`")


def _print(told: dict[str, Any]) -> None:
    from dayfly.infra.units import human_seconds
    from dayfly.runtime.cli.output import emit_pairs, emit_rows
    from dayfly.runtime.wording import clock

    age = human_seconds(max(0.0, time.time() - told["since"]))
    emit_pairs(
        "keeper",
        [
            ("process", f"{told['keeper']['pid']} for {age}"),
            ("version", told["version"]),
            ("home", told["home"]),
        ],
    )
    rows = [
        [
            run["id"][:12],
            run["status"],
            "now" if run["acting"] else clock(run["next"]) if run["next"] else "-",
            "gave up" if run["given_up"] else str(run["failures"] or "-"),
            run["last_failure"] or run["why"],
        ]
        for run in told["runs"]
    ]
    if rows:
        emit_rows(_COLUMNS, rows)
