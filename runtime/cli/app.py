"""The application: its verbs, its version, and how errors become messages and exit codes."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Mapping
from typing import Any

import click

# Each verb, in the order of the help, and the file that has it.
VERBS: Mapping[str, str] = {
    "run": "run",
    "plan": "run",
    "ps": "listing",
    "show": "listing",
    "logs": "listing",
    "top": "top",
    "attach": "held",
    "result": "held",
    "cancel": "held",
    "ssh": "held",
    "forward": "forward",
    "refresh": "refresh",
    "offers": "offers",
    "cost": "cost",
    "gc": "gc",
    "doctor": "doctor",
    "keeper": "keeper",
    "engine": "engine",
    "completion": "completion",
}

_EPILOG = """\b
Exit codes:
   0  done; where a machine was used, it is proved gone
   1  the function raised, or a check of `doctor` failed
   2  what was asked for cannot be: options, settings, unknown runs
  69  no Pulumi CLI, or no vendor's plugin, could be found, installed or built
  70  the machine, the connection or the environment failed
  73  another process is using the run, or it was left up: the message says why
  74  a file or folder of this computer cannot be read or written
  75  it is NOT proved that nothing is left; the message has the command
  77  a policy denies it, and nothing was created
 130  interrupted by Ctrl-C, and cleaned up
 128+N  signal N ended the function's process
A script's own exit code, and that of a function's sys.exit(N), is passed on.

\b
Environment:
  DAYFLY_HOME     where runs are kept on this computer
  DAYFLY_QUIET=1  no plan, steps and receipt: only the function's output, and warnings
  DAYFLY_<NAME>   a setting, e.g. DAYFLY_PROVIDER; `dayfly doctor` lists them all"""


_OBJECTS_PER_COLLECTION = 50_000


class _Group(click.Group):
    """Ends with a message and a code where one of our errors comes up, and never with a traceback of ours.

    A verb's file is loaded when it is asked for: those of all verbs take a third of a short command.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        file = importlib.import_module(f"dayfly.runtime.cli.{VERBS[cmd_name]}")
        found: click.Command = getattr(file, cmd_name)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in VERBS and not ctx.resilient_parsing:
            from dayfly.infra.units import suggestion

            ctx.fail(f"No such command {args[0]!r}; {suggestion(args[0], VERBS)}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("dayfly: interrupted", err=True)
            raise click.exceptions.Exit(130) from None
        except Exception as error:
            from dayfly.errors import DayflyError

            if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
                click.echo(f"dayfly: {error}", err=True)
                raise click.exceptions.Exit(74) from None
            if not isinstance(error, DayflyError):
                raise
            from dayfly.runtime.cli.output import complain, exit_code

            complain(error)
            raise click.exceptions.Exit(exit_code(error)) from None


@click.group(cls=_Group, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(None, "--version", package_name="dayfly", message="dayfly %(version)s")
def dayfly() -> None:
    """Run a Python function on a machine that exists for that call only, and is proved gone afterwards."""


def main() -> None:
    """The `dayfly` command."""
    # A seventh of a short command went into looking through all that it had loaded for garbage, again and again and once more at
    # its end, where there is none.
    gc.set_threshold(_OBJECTS_PER_COLLECTION)
    try:
        dayfly(prog_name="dayfly")
    finally:
        gc.freeze()
