"""Brings the journal in line with what the plain pulumi CLI has destroyed."""

from __future__ import annotations

from collections.abc import Callable

from dayfly.errors import DayflyError
from dayfly.runtime.context import Context
from dayfly.stacks import gc, journal
from dayfly.stacks.census import survey


def settle_plain(context: Context, report: Callable[[str], None]) -> None:
    """Closes every run of a plain `pulumi up` whose machine a plain `pulumi destroy` has ended."""
    if not any(history.plain for history in journal.histories(context.workspace.runs)):
        return
    for finding in survey(context.workspace):
        history = finding.history
        if history is None or not history.plain or finding.found or finding.status != "EXPIRED":
            continue
        try:
            gc.destroy(context.workspace, context.engine_or_none(), finding, lambda _: None)
        except DayflyError as error:
            report(f"dayfly: {error}")
