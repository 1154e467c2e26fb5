"""`dayfly gc`: what dead clients left behind, shown or destroyed; and its place in this user's timer."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from dayfly.runtime.cli.common import with_json

if TYPE_CHECKING:
    from dayfly.runtime.context import Context
    from dayfly.stacks.census import Census, Finding

_COLUMNS = ("ID", "STATUS", "PROVIDER", "LISTED", "AGE", "$/H", "WHAT", "WHY")
# More than this at once is more likely a mistake of ours, or of a listing, than what was meant.
_MANY = 20
_CONFIRMATION = "all owners"


@click.command()
@click.option("--run", metavar="RUN", help="Only this run.")
@click.option("--yes", "-y", is_flag=True, help="Destroy, instead of showing.")
@click.option("--held", is_flag=True, help="Held runs too: results that wait for an attach.")
@click.option("--kept", is_flag=True, help="Kept ones too: machines that wait for a next call.")
@click.option(
    "--force",
    is_flag=True,
    help=f"With --yes: also where a listing is not complete, or more than {_MANY} would go.",
)
@click.option("--owner", metavar="OWNER", help="As this owner: for a computer that was lost.")
@click.option(
    "--all-owners", is_flag=True, help="With --yes: everybody's, after a typed confirmation."
)
@click.option("--install", is_flag=True, help="Have it done every 10 minutes, by systemd or cron.")
@click.option("--uninstall", is_flag=True, help="No longer.")
@with_json
def gc(
    *,
    run: str | None,
    yes: bool,
    held: bool,
    kept: bool,
    force: bool,
    owner: str | None,
    all_owners: bool,
    install: bool,
    uninstall: bool,
    json: bool,
) -> None:
    """Find what dead clients left behind; --yes destroys it.

    Expired and orphaned runs are destroyed, held ones only with --held, kept ones only with --kept or --run; a run whose
    client lives is left alone, and so is what carries another owner's tag, or none of ours.

    Where a listing is not complete, or more than 20 would be destroyed, nothing is, and the exit code is 75.
    """
    if install or uninstall:
        _place_in_timer(install and not uninstall, json)
        return
    _check_options(run, owner, all_owners, force and not yes)
    from dayfly.runtime.cli.output import tell
    from dayfly.runtime.cli.upkeep import settle_plain
    from dayfly.runtime.context import Context
    from dayfly.stacks import gc as collector
    from dayfly.stacks.census import census, owned_by

    context = Context.to_end(tell)
    settle_plain(context, tell)
    context = context.as_owner(owner)
    found = census(context.workspace, context.engine_or_none(), only=run or "")
    if owner is not None:
        found = owned_by(found, owner)
    _check_known(context, found, run)
    doomed = collector.doomed(
        found.findings,
        held=held,
        kept=kept or run is not None,
        foreign=all_owners,
        closing=run is not None,
    )
    _tell_limits(found)
    if not yes:
        _show(found, doomed, json, held=held, kept=kept)
        raise click.exceptions.Exit(75 if found.failed else 0)
    if not force:
        _freeze(found, doomed)
    _confirm_foreign(doomed)
    code = _destroy(context, doomed, json)
    if run is not None:
        _refuse_left(found, doomed)
    raise click.exceptions.Exit(code)


def _place_in_timer(wanted: bool, json: bool) -> None:
    from dayfly.runtime.cli.output import emit_json
    from dayfly.runtime.context import Context
    from dayfly.runtime.timer import Timer

    timer = Timer.of(Context.open().workspace)
    done = timer.install() if wanted else timer.uninstall()
    if json:
        emit_json({"installed": wanted, "by": timer.kind, "changed": done.changed})
    else:
        print(done.text)


def _check_options(run: str | None, owner: str | None, all_owners: bool, idle_force: bool) -> None:
    """
    Raises:
        SpecError: two options that do not go together.
    """
    from dayfly.errors import SpecError

    if idle_force:
        raise SpecError("--force says how --yes is meant; write both, or neither")
    if owner is not None and (all_owners or run is not None):
        raise SpecError("--owner takes everything of one owner; leave --all-owners and --run out")


def _check_known(context: Context, found: Census, run: str | None) -> None:
    """
    Raises:
        UnknownRun: neither journal nor provider knows the one run that was asked for, or there are several such.
    """
    from dayfly.errors import UnknownRun
    from dayfly.runtime.cli.output import tell
    from dayfly.stacks import journal

    if run is None:
        return
    if not run.isalnum():
        raise UnknownRun(f"--run {run!r} is not a run id; `dayfly ps --all` lists them")
    fitting = {finding.run for finding in found.findings}
    if len(fitting) > 1:
        raise UnknownRun(f"{len(fitting)} runs begin with {run!r}; write more of the one")
    if not fitting and journal.find(context.workspace.runs, run).closed:
        tell(f"run {run} is closed: nothing of it is left")


def _refuse_left(found: Census, doomed: Sequence[Finding]) -> None:
    """
    Raises:
        RunBusy: the one run that was asked for is still up, and why.
    """
    from dayfly.errors import RunBusy

    for finding in found.findings:
        if finding not in doomed:
            held = "; --held destroys it, and its result" if finding.status == "HELD" else ""
            raise RunBusy(
                f"run {finding.run[:12]} is {finding.status} and was left up: {finding.why}{held}"
            )


def _tell_limits(found: Census) -> None:
    """What could not be seen, and what was seen and is not ours."""
    from dayfly.runtime.cli.output import tell

    for name, reason in found.unasked.items():
        tell(f"{name} was not asked: {reason}")
    for name, count in found.untagged.items():
        tell(f"{name} lists {count} UNTAGGED, which are not Dayfly's and are left alone")
    for reason in found.failed.values():
        tell(f"dayfly: {reason}")


def _freeze(found: Census, doomed: Sequence[Finding]) -> None:
    """
    Raises:
        GcFrozen: somebody has to look first.
    """
    from dayfly.errors import GcFrozen

    if found.failed:
        names = ", ".join(found.failed)
        raise GcFrozen(
            f"nothing was destroyed, since the listing of {names} is not complete; try again, or, to go by the rest:"
            " dayfly gc --yes --force"
        )
    if len(doomed) > _MANY:
        raise GcFrozen(
            f"nothing was destroyed: {len(doomed)} would go, more than {_MANY} at once; look at `dayfly gc`, then"
            " dayfly gc --yes --force"
        )


def _confirm_foreign(doomed: Sequence[Finding]) -> None:
    """
    Raises:
        SpecError: nobody is there to type it, or something else was typed.
    """
    from dayfly.errors import SpecError

    foreign = [finding for finding in doomed if finding.status == "FOREIGN"]
    if not foreign:
        return
    owners = sorted({finding.owner or "nobody" for finding in foreign})
    if not sys.stdin.isatty():
        raise SpecError(
            f"{len(foreign)} are of other owners ({', '.join(owners)}): --all-owners is for a terminal, where it is"
            " confirmed; --owner NAME needs none"
        )
    typed = click.prompt(
        f'{len(foreign)} are of other owners ({", ".join(owners)}); to destroy them type "{_CONFIRMATION}"',
        err=True,
    )
    if typed.strip() != _CONFIRMATION:
        raise SpecError(f"{typed!r} is not {_CONFIRMATION!r}; nothing was destroyed")


def _show(found: Census, doomed: Sequence[Finding], json: bool, *, held: bool, kept: bool) -> None:
    from dayfly.runtime.cli.output import emit_json, emit_rows, tell
    from dayfly.runtime.wording import uncovered

    now, findings = time.time(), found.findings
    if json:
        untagged = [
            {"id": "", "status": "UNTAGGED", "provider": name, "count": count, "destroy": False}
            for name, count in found.untagged.items()
        ]
        emit_json([*(_as_dict(f, f in doomed, now) for f in findings), *untagged])
        return
    if not findings:
        tell("nothing is left behind")
        return
    emit_rows(_COLUMNS, [_row(finding, finding in doomed, now) for finding in findings])
    if doomed:
        options = " ".join(["--yes", *(["--held"] if held else []), *(["--kept"] if kept else [])])
        tell(f"{len(doomed)} of {len(findings)} would be destroyed; `dayfly gc {options}` does it")
    if not held and any(finding.status == "HELD" for finding in findings):
        tell("held runs are destroyed with --held only: their results have not been taken")
    if any(f.status == "KEPT" and f not in doomed for f in findings):
        tell("kept machines wait for a next call, and go by themselves; --kept destroys them now")
    for finding in findings:
        if finding.history is not None and finding.history.credentials:
            tell(uncovered(finding.run, finding.history.credentials))


def _row(finding: Finding, doomed: bool, now: float) -> list[str]:
    from dayfly.infra.units import human_seconds
    from dayfly.runtime.wording import dollars

    known = finding.history is not None
    return [
        finding.run[:12],
        finding.status,
        finding.provider or "-",
        str(len(finding.found)),
        "-" if finding.created is None else human_seconds(max(0.0, now - finding.created)),
        dollars(finding.usd_per_hour) if known else "-",
        "destroy" if doomed else "leave",
        finding.why,
    ]


def _as_dict(finding: Finding, doomed: bool, now: float) -> dict[str, Any]:
    history = finding.history
    return {
        "id": finding.run,
        "status": finding.status,
        "why": finding.why,
        "provider": finding.provider,
        "owner": finding.owner,
        "age_s": None if finding.created is None else now - finding.created,
        "usd_per_hour": finding.usd_per_hour if history is not None else None,
        "listed": [{"kind": found.kind, "id": found.id} for found in finding.found],
        "covered_by_install": history is None or not history.credentials,
        "destroy": doomed,
    }


def _destroy(context: Context, doomed: Sequence[Finding], json: bool) -> int:
    """Destroys each, whatever becomes of the others.

    Returns:
        The exit code: the gravest of them.
    """
    from dayfly.errors import DayflyError, LeakRisk
    from dayfly.runtime.cli.output import complain, emit_json, tell

    code, receipts = 0, []
    for finding in doomed:
        try:
            receipts.append(_destroyed(context, finding, json, tell))
        except DayflyError as error:
            complain(error)
            code = max(code, error.exit_code)
        except Exception as error:  # noqa: BLE001  # one that is damaged must not keep the others up
            tell(f"dayfly: run {finding.run[:12]}: {type(error).__name__}: {error}")
            code = max(code, LeakRisk.exit_code)
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
