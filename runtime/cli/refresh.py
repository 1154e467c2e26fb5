"""`dayfly refresh`: what has become of a machine behind our back."""

from __future__ import annotations

import click

from dayfly.runtime.cli.common import with_json, with_run


@click.command()
@with_run
@with_json
def refresh(run: str, json: bool) -> None:
    """Ask the provider what has become of a run's machine.

    RUN is its id, or the beginning of it.

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
