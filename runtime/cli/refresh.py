"""`dayfly refresh`: what has become of a machine behind our back."""

from __future__ import annotations

from typing import Annotated

import typer


def refresh(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Its id, or the beginning of it.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Ask the provider what has become of a run's machine.

    Deleted at the provider means fail, preempted retry, unhealthy replace, and a changed address reconnect.
    """
    from dayfly.runtime.cli.listing import find_run
    from dayfly.runtime.cli.output import emit_json, emit_pairs
    from dayfly.runtime.drift import refresh as ask

    drift = ask(find_run(run)[1])
    if json:
        emit_json(drift.as_dict())
        return
    emit_pairs(
        f"run {drift.run}",
        [
            ("machine", f"{drift.instance} at {drift.address}"),
            ("state", drift.state),
            ("listed", " ".join(drift.listed) or "nothing"),
            ("drift", drift.kind),
            ("action", f"{drift.action}: {drift.meaning}"),
        ],
    )


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command()(refresh)
