"""`dayfly attach`, `result`, `cancel` and `ssh`: a run in hand again, whoever started it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from dayfly.runtime.cli.common import with_json, with_node, with_run


@click.command()
@with_run
@with_json
@click.option("--no-log", is_flag=True, help="Only the result: its secrets cannot be masked here.")
@click.option("--take", is_flag=True, help="Also from another computer that follows it right now.")
def attach(run: str, json: bool, no_log: bool, take: bool) -> None:
    """Take a run in hand whose client is gone.

    RUN is its id, or the beginning of it.

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
    raise click.exceptions.Exit(see(attach_to(run, display, log=not no_log, take=take), json))


@click.command()
@with_run
@with_json
def result(run: str, json: bool) -> None:
    """Print the value that a run has brought back.

    Or the exception that its function raised; exit code 1 then.

    RUN is its id, or the beginning of it.
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
        raise click.exceptions.Exit(1) from None
    emit_value(value, json)


@click.command()
@with_run
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@with_json
def cancel(run: str, yes: bool, json: bool) -> None:
    """Stop a run, bring home what it leaves, and prove its machine gone.

    RUN is its id, or the beginning of it.

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
        click.confirm(f"stop run {history.id[:12]} and destroy its machine?", abort=True, err=True)
    receipt = cancel_run(history.id, tell)
    if json:
        emit_json(receipt.as_dict())
    else:
        print(receipt_line(receipt))


@click.command(context_settings={"allow_interspersed_args": False})
@with_run
@click.argument("command", metavar="[-- COMMAND]...", nargs=-1)
@with_node
def ssh(run: str, command: Sequence[str], node: int) -> None:
    """Log in to the machine of an open run, or to one of them.

    RUN is its id, or the beginning of it; COMMAND is run instead of a shell.

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
    line = [*shell_command(history, node), *command]
    admission.knock(history, tell, node)
    try:
        os.execvp(line[0], line)  # noqa: S606  # the terminal belongs to ssh from here on
    except FileNotFoundError as error:
        raise ConfigurationError(
            "there is no `ssh` on PATH: install OpenSSH's client with your package manager"
        ) from error
