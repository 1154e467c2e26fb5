"""`dayfly gc`: what dead clients left behind, shown or destroyed; and the wait of a detached one for its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dayfly.runtime.context import Context
    from dayfly.stacks.gc import Finding

# Short, so that a clock that is set, or a computer that slept, costs no more than this.
_POLL_S = 1.0
_COLUMNS = ("ID", "STATUS", "PROVIDER", "LISTED", "$/H", "WHAT", "WHY")


def gc(
    run: Annotated[str | None, typer.Option("--run", help="Only this run.")] = None,
    at: Annotated[
        float | None, typer.Option("--at", metavar="UNIX", help="Wait until then; needs --run.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Destroy, instead of showing.")] = False,
    held: Annotated[
        bool, typer.Option("--held", help="Held runs too: results that wait for an attach.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find what dead clients left behind; --yes destroys it.

    Expired and orphaned runs are destroyed, held ones only with --held; a run whose client lives is left alone.
    """
    if at is not None:
        _wait(_full_id(run), at, held)
    from dayfly.runtime.cli.output import tell
    from dayfly.runtime.cli.upkeep import settle_plain
    from dayfly.runtime.context import Context
    from dayfly.stacks import gc as collector

    context = Context.open()
    settle_plain(context, tell)
    findings = collector.survey(context.workspace)
    if run is not None:
        findings = _only(context, findings, run)
    doomed = collector.doomed(findings, held=held)
    if not yes:
        _show(findings, doomed, json, held)
        return
    raise typer.Exit(_destroy(context, doomed, json))


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command()(gc)


def _full_id(run: str | None) -> str:
    from dayfly.errors import SpecError

    if run is None or len(run) != 32:
        raise SpecError("--at waits for one run: give --run with its whole id")
    return run


def _wait(run: str, at: float, held: bool) -> None:
    """Waits for the time, and on while the run is in someone's hands; ends the process when the run is closed.

    The wall clock is what a hold was promised by; it is asked again and again, since it may be set.
    """
    from dayfly.infra.home import home_path

    directory, since = home_path() / "runs" / run, time.time()
    while not (directory / "receipt.json").exists():
        left = at - time.time()
        if left <= 0:
            left = _claimed_s(directory, since, held)
            if left <= 0:
                return
        time.sleep(min(max(left, 0.05), _POLL_S))
    raise typer.Exit


def _claimed_s(directory: Path, since: float, held: bool) -> float:
    """For how long the run is not to be touched yet, as far as can be told now; 0 when its time has come."""
    from dayfly.stacks import gc, journal

    history = journal.read(directory)
    status, _ = gc.standing(history, time.time())
    attached = history.last("attached")
    if status in ("EXPIRED", "ORPHAN"):
        return 0.0
    if status != "HELD":
        return _POLL_S
    if held and (attached is None or attached.time < since):
        return 0.0
    # Someone attached meanwhile and is gone again: the run is held anew, for a time of its own.
    return gc.hold_until(history) - time.time()


def _only(context: Context, findings: Sequence[Finding], run: str) -> list[Finding]:
    """The findings of one run; none where it is closed.

    Raises:
        UnknownRun: neither journal nor provider knows it.
    """
    from dayfly.runtime.cli.output import tell
    from dayfly.stacks import journal

    chosen = [finding for finding in findings if finding.run.startswith(run)]
    if not chosen and journal.find(context.workspace.runs, run).closed:
        tell(f"run {run} is closed: nothing of it is left")
    return chosen


def _show(findings: Sequence[Finding], doomed: Sequence[Finding], json: bool, held: bool) -> None:
    from dayfly.runtime.cli.output import emit_json, emit_rows, tell
    from dayfly.runtime.wording import dollars

    if json:
        emit_json([_as_dict(finding, finding in doomed) for finding in findings])
        return
    if not findings:
        tell("nothing is left behind")
        return
    rows = [
        [
            finding.run[:12],
            finding.status,
            finding.provider or "-",
            str(len(finding.found)),
            dollars(finding.usd_per_hour),
            "destroy" if finding in doomed else "leave",
            finding.why,
        ]
        for finding in findings
    ]
    emit_rows(_COLUMNS, rows)
    if doomed:
        options = "--yes --held" if held else "--yes"
        tell(f"{len(doomed)} of {len(findings)} would be destroyed; `dayfly gc {options}` does it")
    if not held and any(finding.status == "HELD" for finding in findings):
        tell("held runs are destroyed with --held only: their results have not come back")


def _as_dict(finding: Finding, doomed: bool) -> dict[str, Any]:
    return {
        "id": finding.run,
        "status": finding.status,
        "why": finding.why,
        "provider": finding.provider,
        "usd_per_hour": finding.usd_per_hour,
        "listed": [{"kind": found.kind, "id": found.id} for found in finding.found],
        "destroy": doomed,
    }


def _destroy(context: Context, doomed: Sequence[Finding], json: bool) -> int:
    """Destroys each, whatever becomes of the others.

    Returns:
        The exit code: the gravest of them.
    """
    from dayfly.errors import DayflyError
    from dayfly.runtime.cli.output import complain, emit_json, tell

    code, receipts = 0, []
    for finding in doomed:
        try:
            receipts.append(_destroyed(context, finding, json, tell))
        except DayflyError as error:
            complain(error)
            code = max(code, error.exit_code)
    if json:
        emit_json([receipt for receipt in receipts if receipt is not None])
    elif not doomed:
        tell("nothing to destroy")
    return code


def _destroyed(
    context: Context, finding: Finding, json: bool, tell: Callable[[str], None]
) -> dict[str, Any] | None:
    from dayfly.runtime.wording import receipt_line
    from dayfly.stacks import gc

    label = finding.run[:12]
    receipt = gc.destroy(
        context.workspace,
        context.engine_or_none(),
        finding,
        lambda text: tell(f"{label}  {text}"),
    )
    if not json:
        said = receipt_line(receipt) if receipt else f"{len(finding.found)} ended, none is left"
        print(f"{label}  {said}", flush=True)
    return None if receipt is None else receipt.as_dict()
