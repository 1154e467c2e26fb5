"""`dayfly attach`, `result`, `cancel` and `ssh`: a run in hand again, whoever started it."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

_Run = Annotated[str, typer.Argument(metavar="RUN", help="Its id, or the beginning of it.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Node = Annotated[
    int,
    typer.Option(
        "--node", metavar="N", help="Which machine, where there are several; the first is 0."
    ),
]


def attach(
    run: _Run,
    json: _Json = False,
    no_log: Annotated[
        bool, typer.Option("--no-log", help="Only the result: its secrets cannot be masked here.")
    ] = False,
    take: Annotated[
        bool, typer.Option("--take", help="Also from another computer that follows it right now.")
    ] = False,
) -> None:
    """Take a run in hand whose client is gone.

    With a remote `backend` also one that another computer has started, as long as its function runs or its result waits:
    that computer is told, and leaves it alone then. It takes the same backend and the same passphrase, or KMS.

    Shows its log as it grows, then its value, and destroys its machine. The variables that it was given as secrets
    must be set here too, so that they can be masked in the log.

    Ctrl-C does what it does in `dayfly run`: it stops the function and destroys the machine.
    """
    from dayfly.runtime.attach import attach as attach_to
    from dayfly.runtime.cli.run import see
    from dayfly.runtime.display import Display

    display = Display.standard(output_to="stderr" if json else None)
    raise typer.Exit(see(attach_to(run, display, log=not no_log, take=take), json))


def result(run: _Run, json: _Json = False) -> None:
    """Print the value that a run has brought back.

    Or the exception that its function raised; exit code 1 then.
    """
    from dayfly.errors import DayflyError
    from dayfly.runtime import redact
    from dayfly.runtime.attach import stored_result
    from dayfly.runtime.cli.listing import find_run
    from dayfly.runtime.cli.output import complain_of_function, emit_value

    _, history = find_run(run)
    redact.remember_variables(history.secrets)
    try:
        value = stored_result(history)
    except DayflyError:
        raise
    except Exception as error:  # noqa: BLE001  # the function's own, whatever it is
        complain_of_function(error)
        raise typer.Exit(1) from None
    emit_value(value, json)


def cancel(
    run: _Run,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: _Json = False,
) -> None:
    """Stop a run, bring home what it leaves, and prove its machine gone.

    Its function is asked to end and has its grace for that, then log and outputs come; Ctrl-C, or a second cancel, destroys at
    once. A value that the function has not returned is lost.
    """
    from dayfly.errors import SpecError
    from dayfly.runtime.attach import cancel as cancel_run
    from dayfly.runtime.cli.listing import find_run
    from dayfly.runtime.cli.output import emit_json, tell
    from dayfly.runtime.wording import receipt_line

    _, history = find_run(run)
    if not (yes or history.closed):
        if not sys.stdin.isatty():
            raise SpecError(
                f"cancel destroys run {history.id[:12]}; say --yes where no one can be asked"
            )
        typer.confirm(f"stop run {history.id[:12]} and destroy its machine?", abort=True, err=True)
    receipt = cancel_run(history.id, tell)
    if json:
        emit_json(receipt.as_dict())
    else:
        print(receipt_line(receipt))


def ssh(
    run: _Run,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- COMMAND]...", help="Run this instead of a shell."),
    ] = None,
    node: Node = 0,
) -> None:
    """Log in to the machine of an open run, or to one of them.

    The system's ssh, with the run's own key and its pinned host key.
    """
    from dayfly.errors import ConfigurationError, SpecError
    from dayfly.runtime import admission
    from dayfly.runtime.attach import shell_command
    from dayfly.runtime.cli.listing import find_run
    from dayfly.runtime.cli.output import tell

    # What stands behind the run is the command's own.
    if command and command[0].partition("=")[0] == "--node":
        raise SpecError(f"--node goes in front of the run: dayfly ssh --node N {run}")
    _, history = find_run(run)
    line = [*shell_command(history, node), *(command or [])]
    admission.knock(history, tell, node)
    try:
        os.execvp(line[0], line)  # noqa: S606  # the terminal belongs to ssh from here on
    except FileNotFoundError as error:
        raise ConfigurationError(
            "there is no `ssh` on PATH: install OpenSSH's client with your package manager"
        ) from error


def register(app: typer.Typer) -> None:
    """Adds the verbs."""
    for command in (attach, result, cancel):
        app.command()(command)
    app.command(context_settings={"allow_interspersed_args": False})(ssh)
