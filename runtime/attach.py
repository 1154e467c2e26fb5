"""Takes a run in hand whose client is gone: its log and its result, from any process on this computer, or on another one that
shares the state backend."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dayfly.errors import (
    ConfigurationError,
    ConnectFailed,
    LeakRisk,
    RunBusy,
    RunFailed,
    SpecError,
)
from dayfly.infra import port_map, providers
from dayfly.infra.machine import Machine
from dayfly.infra.ssh_host import SshHost, resolve
from dayfly.runtime import elsewhere, ending, outputs, payload, ranks, redact, stopping, stored
from dayfly.runtime.aside import aside
from dayfly.runtime.attend import CONNECT_S, Attendance
from dayfly.runtime.context import Context
from dayfly.runtime.display import Display
from dayfly.runtime.job import Job
from dayfly.runtime.run_log import STREAMS
from dayfly.runtime.taking import Taking, ended_elsewhere, is_lost, was_ended_elsewhere
from dayfly.runtime.verb import act
from dayfly.stacks import journal, kept
from dayfly.stacks.beside import is_wanted
from dayfly.stacks.closer import Closer
from dayfly.stacks.engine import Engine
from dayfly.stacks.gc import as_launched
from dayfly.stacks.journal import History
from dayfly.stacks.receipt import Receipt
from dayfly.stacks.run_lock import locked
from dayfly.stacks.run_stack import RunStack
from dayfly.stacks.standing import in_other_home, is_part_of_another, standing

if TYPE_CHECKING:
    from dayfly.runtime.session import Session

_SOON_S = 15.0


async def _attach_aio(
    run_id: str, display: Display | None = None, *, log: bool = True, take: bool = False
) -> Job[Any]:
    def begin() -> Job[Any]:
        job = attach(run_id, display, log=log, take=take)
        job.id  # noqa: B018  # once it is known no property blocks any more
        return job

    # Whoever is cancelled meanwhile leaves the run as it was found, to the keeper.
    return await aside(begin, unwanted=lambda late: late.detach())


@act(_attach_aio)
def attach(
    run_id: str, display: Display | None = None, *, log: bool = True, take: bool = False
) -> Job[Any]:
    """The job of a run that was started by any process of this user on this computer; with a remote `backend` on any computer
    that has the same backend and the same passphrase, or KMS, whose clients are told then that it was taken over.

    Args:
        run_id: the id, or the beginning of it.
        display: where to show log and steps.
        log: False leaves what has not come of the log on the machine, where it is lost: for a run whose secrets cannot be
            masked here.
        take: True takes it from another computer also while a client there follows it.

    Raises:
        UnknownRun: no such run.
        SpecError: the values of its secrets are not set here, so that its log cannot be masked.
        RunBusy: its own client is alive.
        RunFailed: there is nothing to come back: the function was never started, or the run was destroyed before.
        ConfigurationError: the passphrase of this computer is not the one that the run was started with, or it has no
            credentials for the provider of a machine that it would have to destroy.
        BackendFailed: the state backend, where it has to be asked, cannot be.
    """
    context = Context.open()
    shown = display or Display.standard()
    history = elsewhere.find(context, run_id, shown.note, attaching=True)
    _check_python(history)
    # Whatever else is needed of them: an exception's words are shown also where the log is not.
    redact.remember_variables(history.secrets)
    if _is_settled(history):
        return _settled(context, history, shown)
    if not history.closed:
        _check_place(context, history)
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
            _check_secrets(history)
        mine = journal.whose(history.directory)
        journal.append(history.directory, "attached", client=journal.myself(), **mine)
    taking = Taking(history, in_other_home(history), take) if is_wanted(history) else None
    engine = context.engine_or_none()
    stack = RunStack.resume(history, context.workspace, engine)

    def finish(attendance: Attendance) -> Any:
        return _finish(stack, attendance, log, taking, engine)

    return Job.resume(context.workspace, shown, finish)


def _check_secrets(history: History) -> None:
    """Whether the run's secrets can be masked in its log, as its own client did.

    Raises:
        SpecError: some are not known here.
    """
    missing = [name for name in history.secrets if name not in os.environ]
    if missing:
        run = history.id[:12]
        raise SpecError(
            f"run {run} was given {', '.join(missing)}, not set here, so that it could stand in the log in clear: export the"
            f" same, then `dayfly attach {run}`; or take the result alone: `dayfly attach {run} --no-log`"
        )


def _settled(context: Context, history: History, display: Display) -> Job[Any]:
    """A job whose outcome is on this computer; its log is shown where no client has seen it to its end."""
    if history.last("held") is not None and history.last("acknowledged") is None:
        _replay(history.directory, display)
    return Job.settled(context.workspace, display, history.id, lambda: stored_result(history))


def _finish(
    stack: RunStack,
    attendance: Attendance,
    log: bool,
    taking: Taking | None,
    engine: Engine | None,
) -> Any:
    with attendance.stack(stack) as machine:
        # A log whose secrets the keeper could not mask is still on the machine only.
        with_log = attendance.history.field("held", "with_log", True)
        here = (stack.directory / stored.RESULT).exists() and outputs.are_home(attendance.history)
        if here and (with_log or not log):
            if taking is not None and is_lost(attendance, machine):
                stack.leave_open()
            _replay(stack.directory, attendance.display)
            attendance.enter_call()
            return ending.value_of(attendance.history)
        with _session(machine, attendance, taking) as session:
            attendance.connected(session)
            attendance.deposit(stack.workspace, engine)
            _replay(stack.directory, attendance.display, goes_on=True)
            return attendance.finish(session, with_log=log)


@contextlib.contextmanager
def _session(machine: Machine, attendance: Attendance, taking: Taking | None) -> Iterator[Session]:
    """The session; a machine that lives and cannot be reached now is left as it is, with its result, and so is one that
    another computer has and does not give."""
    with contextlib.ExitStack() as stack:
        try:
            session = _reached(stack, machine, attendance)
            if taking is not None:
                taking.take(attendance, session)
        except BaseException as failed:
            lives = not isinstance(failed, ConnectFailed) or attendance.machine_runs()
            if not lives and was_ended_elsewhere(attendance):
                raise ended_elsewhere(attendance.directory.name) from failed
            if taking is not None and taking.elsewhere:
                # Whatever it was: nothing of it is this computer's to destroy.
                if attendance.run_stack is None or attendance.run_stack.needs_closing:
                    taking.give_back(attendance)
                error = taking.explained(failed)
                if error is failed:
                    raise
                raise error from failed
            if isinstance(failed, ConnectFailed) and lives:
                raise attendance.left_there(failed) from failed
            raise
        yield session


def _reached(stack: contextlib.ExitStack, machine: Machine, attendance: Attendance) -> Session:
    """One that was reached before answers soon; where it does not, it may not know where this computer is now."""
    try:
        return stack.enter_context(attendance.session(machine, connect_timeout_s=_SOON_S))
    except ConnectFailed:
        attendance.admit()
    left_s = CONNECT_S - _SOON_S
    return stack.enter_context(attendance.session(machine, connect_timeout_s=left_s))


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


def _check_place(context: Context, history: History) -> None:
    """Whoever takes a run in hand destroys its machine, and has to be able to; and it has to be open still."""
    if is_part_of_another(history):
        host = (history.intent.get("client") or {}).get("host")
        raise RunFailed(
            f"the machine of run {history.id} is the computer {host} itself: attach to it there"
        )
    if not in_other_home(history):
        return
    elsewhere.check_open(context, history)
    missing = providers.load(history.provider).preflight()
    if missing:
        raise ConfigurationError(
            f"run {history.id[:12]} is taken in hand with its machine, which this computer could not destroy:"
            f" {'; '.join(missing)}"
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
        return ending.value_of(history)
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
    """Stops the function, brings home what it leaves, destroys the machine and proves it gone, whoever started it.

    An interrupt meanwhile, or a second request from any process, has the machine destroyed at once.

    Raises:
        UnknownRun: no such run.
        LeakRisk: absence could not be proved.
    """
    context = Context.to_end(report)
    history = elsewhere.find(context, run_id, report)
    # Whatever an earlier request has not brought home by now is given up with this one.
    stops = stopping.is_due(history, requests=0)
    if not history.closed:
        more = {"stops": True} if stops else {}
        journal.append(history.directory, "cancelled", by=journal.myself(), **more)
    launched_with = as_launched(context.workspace, history)
    if stops:
        stopping.stop(launched_with, journal.read(history.directory), report)
    return Closer(launched_with, context.engine_or_none(), report).close(history.id)


def machine_of(history: History, node: int) -> Machine:
    """One machine of an open run.

    Raises:
        SpecError: it has none of that number.
        RunFailed: that one is gone, or not there yet.
    """
    ranks.check_node(node, history.nodes, history.id)
    machine = history.machine_of(node)
    if machine is None or history.closed:
        which = f"machine {node}" if history.nodes > 1 else "machine"
        raise RunFailed(f"run {history.id} has no {which} that could be reached")
    return machine


def shell_command(history: History, node: int = 0) -> list[str]:
    """The system's ssh to a machine of an open run, with its own key and its pinned host key.

    Raises:
        SpecError, RunFailed: it has no such machine.
    """
    machine = machine_of(history, node)
    host, port = port_map.endpoint(machine.id, machine.host, machine.port)
    known = history.directory / "known_hosts"
    # Of all of them: another shell may read it at this moment.
    pinned = [
        (_alias(history, each.node), key) for each in history.machines for key in each.host_keys
    ]
    known.write_text("".join(f"{alias} {key}\n" for alias, key in pinned))
    options = {
        "IdentityFile": history.directory / "user_key",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "UserKnownHostsFile": known,
        "HostKeyAlias": _alias(history, node),
        "GlobalKnownHostsFile": os.devnull,
        "StrictHostKeyChecking": "yes",
    }
    if machine.via:
        options["ProxyCommand"] = resolve(SshHost.parse(machine.via)).proxy.replace("%", "%%")
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


def _alias(history: History, node: int) -> str:
    """What ssh knows a machine by: not its address, which it looks for in another form where the port is 22."""
    return f"dayfly-{history.id}{f'-{node}' if node else ''}"
