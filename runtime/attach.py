"""Takes a run in hand whose client is gone: its log and its result, from any process on this computer."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dayfly.errors import ConnectFailed, LeakRisk, RunBusy, RunFailed, SpecError
from dayfly.infra import port_map
from dayfly.infra.machine import Machine
from dayfly.runtime import ending, outputs, payload, ranks, redact, stored
from dayfly.runtime.aside import aside
from dayfly.runtime.attend import Attendance
from dayfly.runtime.context import Context
from dayfly.runtime.display import Display
from dayfly.runtime.job import Job
from dayfly.runtime.run_log import STREAMS
from dayfly.runtime.verb import act
from dayfly.stacks import journal, kept
from dayfly.stacks.closer import Closer
from dayfly.stacks.journal import History
from dayfly.stacks.receipt import Receipt
from dayfly.stacks.run_lock import locked
from dayfly.stacks.run_stack import RunStack
from dayfly.stacks.standing import standing

if TYPE_CHECKING:
    from dayfly.runtime.session import Session


async def _attach_aio(run_id: str, display: Display | None = None, *, log: bool = True) -> Job[Any]:
    def take() -> Job[Any]:
        job = attach(run_id, display, log=log)
        job.id  # noqa: B018  # once it is known no property blocks any more
        return job

    # Whoever is cancelled meanwhile leaves the run as it was found, to the keeper.
    return await aside(take, unwanted=lambda late: late.detach())


@act(_attach_aio)
def attach(run_id: str, display: Display | None = None, *, log: bool = True) -> Job[Any]:
    """The job of a run that was started by any process of this user on this computer.

    Args:
        run_id: the id, or the beginning of it.
        display: where to show log and steps.
        log: False leaves what has not come of the log on the machine, where it is lost: for a run whose secrets cannot be
            masked here.

    Raises:
        UnknownRun: no such run.
        SpecError: the values of its secrets are not set here, so that its log cannot be masked.
        RunBusy: its own client is alive.
        RunFailed: there is nothing to come back: the function was never started, or the run was destroyed before.
    """
    context = Context.open()
    shown = display or Display.standard()
    history = journal.find(context.workspace.runs, run_id)
    _check_python(history)
    if _is_settled(history):
        return _settled(context, history, shown)
    risk = history.last("leak_risk", "closing")
    if risk is not None and risk.name == "leak_risk":
        raise _standing_risk(history, str(risk.fields["reason"]))
    with locked(history.directory):
        history = journal.read(history.directory)
        # While this waited, somebody may have closed it.
        if _is_settled(history):
            return _settled(context, history, shown)
        _check(history)
        if log:
            _remember_secrets(history)
        journal.append(history.directory, "attached", client=journal.myself())
    stack = RunStack.resume(history, context.workspace, context.engine_or_none())
    return Job.resume(context.workspace, shown, lambda attendance: _finish(stack, attendance, log))


def _remember_secrets(history: History) -> None:
    """Has the run's secrets masked in its log, as its own client did.

    Raises:
        SpecError: some are not known here.
    """
    declared = history.intent.get("spec", {}).get("secrets", ())
    missing = [name for name in declared if name not in os.environ]
    if missing:
        run = history.id[:12]
        raise SpecError(
            f"run {run} was given {', '.join(missing)}, not set here, so that it could stand in the log in clear: export the"
            f" same, then `dayfly attach {run}`; or take the result alone: `dayfly attach {run} --no-log`"
        )
    redact.remember(os.environ[name] for name in declared)


def _settled(context: Context, history: History, display: Display) -> Job[Any]:
    """A job whose outcome is on this computer; its log is shown where no client has seen it to its end."""
    if history.last("held") is not None and history.last("acknowledged") is None:
        _replay(history.directory, display)
    return Job.settled(context.workspace, display, history.id, lambda: stored_result(history))


def _finish(stack: RunStack, attendance: Attendance, log: bool) -> Any:
    with attendance.stack(stack) as machine:
        # A log whose secrets the keeper could not mask is still on the machine only.
        with_log = attendance.history.field("held", "with_log", True)
        here = (stack.directory / stored.RESULT).exists() and outputs.are_home(attendance.history)
        if here and (with_log or not log):
            _replay(stack.directory, attendance.display)
            return stored.value(stack.directory, nested=attendance.history.is_shared_out)
        with _session(machine, attendance) as session:
            attendance.connected(session)
            _replay(stack.directory, attendance.display, goes_on=True)
            return attendance.finish(session, with_log=log)


@contextlib.contextmanager
def _session(machine: Machine, attendance: Attendance) -> Iterator[Session]:
    """The session; a machine that lives and cannot be reached now is left as it is, with its result."""
    with contextlib.ExitStack() as stack:
        try:
            session = stack.enter_context(attendance.session(machine))
        except ConnectFailed as failed:
            if attendance.machine_runs():
                raise attendance.left_there(failed) from failed
            raise
        yield session


def _replay(directory: Path, display: Display, *, goes_on: bool = False) -> None:
    """Shows what an earlier client, or the keeper, had already brought home.

    Args:
        directory: of the run.
        display: where.
        goes_on: a rank's last line, if it has no end yet, is left to whoever follows its log from there.
    """
    distributed = journal.read(directory).intent.get("spec", {}).get("distributed")
    for rank, (label, folder) in enumerate(ranks.logs(directory)):
        # As they are shown while they come: those of a map are the first machine's, with some words of the others.
        by_rank = ranks.RankDisplay(display, rank) if label and (rank or distributed) else None
        shown = by_rank or display
        for stream in STREAMS:
            file = folder / f"{stream}.log"
            if file.exists():
                shown.output(stream, file.read_bytes())
        if by_rank is not None and not goes_on:
            by_rank.end()


def _is_settled(history: History) -> bool:
    """Whether the outcome is on this computer, and nobody has to take the run in hand for it."""
    over = history.closed or kept.is_kept(history)
    if (history.directory / stored.RESULT).exists():
        return over or history.client_alive()
    return over and ending.known(history) is not None


def _check(history: History) -> None:
    status, why = standing(history, 0.0)
    if history.closed:
        raise RunFailed(
            f"run {history.id} is closed and has no result; `dayfly show {history.id[:12]}` tells its story"
        )
    if history.client_alive():
        client = (history.last("intent", "attached") or history.events[0]).fields["client"]["pid"]
        raise RunBusy(
            f"process {client} has run {history.id} in hand; `dayfly logs -f {history.id[:12]}` follows it"
        )
    if not history.started or history.machine is None:
        raise RunFailed(
            f"run {history.id} has nothing to attach to ({status}: {why}); `dayfly gc --run {history.id[:12]} --yes`"
        )


def _check_python(history: History) -> None:
    """A value may hold bytecode, which another minor version misreads: nothing of it is unpickled there."""
    python = history.intent.get("python", payload.PYTHON)
    if python != payload.PYTHON:
        raise RunFailed(
            f"run {history.id} was called from Python {python}, and this is {payload.PYTHON}: its result is for"
            f" python{python} -m dayfly.runtime.cli attach {history.id[:12]}"
        )


def _standing_risk(history: History, reason: str) -> LeakRisk:
    command = f"dayfly gc --run {history.id} --yes"
    return LeakRisk(
        f"run {history.id}: it is still not proved that its machine is gone ({reason}); finish first: {command}",
        run=history.id,
        command=command,
    )


def stored_result(history: History) -> Any:
    """The value of a run whose result is on this computer.

    Raises:
        RunFailed: it is not; says what to do, or how the function ended without one.
        Exception: the function's own.
    """
    _check_python(history)
    if (history.directory / stored.RESULT).exists():
        name = ending.named(history.id, ending.rank_of(history))
        return stored.value(history.directory, name, nested=history.is_shared_out)
    end = ending.known(history)
    over = history.closed or kept.is_kept(history)
    if over and end is not None and end.how != "finished":
        raise ending.failure(history.directory, end, ending.rank_of(history))
    if history.closed:
        raise RunFailed(
            f"run {history.id} was closed without a result; `dayfly show {history.id[:12]}` tells its story"
        )
    raise RunFailed(
        f"the result of run {history.id} is not on this computer; `dayfly attach {history.id[:12]}` brings it"
    )


def cancel(run_id: str, report: Callable[[str], None]) -> Receipt:
    """Stops the function, destroys the machine and proves it gone, whoever started it.

    Raises:
        UnknownRun: no such run.
        LeakRisk: absence could not be proved.
    """
    context = Context.open()
    history = journal.find(context.workspace.runs, run_id)
    if not history.closed:
        journal.append(history.directory, "cancelled", by=journal.myself())
    return Closer(context.workspace, context.engine_or_none(), report).close(history.id)


def shell_command(history: History) -> list[str]:
    """The system's ssh to an open run, with its own key and its pinned host key.

    Raises:
        RunFailed: it has no machine.
    """
    machine = history.machine
    if machine is None or history.closed:
        raise RunFailed(f"run {history.id} has no machine to log in to")
    host, port = port_map.endpoint(machine.id, machine.host, machine.port)
    known = history.directory / "known_hosts"
    known.write_text("".join(f"[{host}]:{port} {key}\n" for key in machine.host_keys))
    options = {
        "IdentityFile": history.directory / "user_key",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "UserKnownHostsFile": known,
        "GlobalKnownHostsFile": os.devnull,
        "StrictHostKeyChecking": "yes",
    }
    flags = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    return [
        "ssh",
        "-F",
        os.devnull,
        *flags,
        "-p",
        str(port),
        f"{machine.user}@{host}",
    ]
