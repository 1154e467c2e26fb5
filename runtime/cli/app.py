"""The application: its verbs, its version, and how errors become messages and exit codes."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

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


class _Group(TyperGroup):
    """Ends with a message and a code where one of our errors comes up, and never with a traceback of ours.

    A verb's file is loaded and its options are made when it is asked for: those of all verbs take a third of a short command.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands:
            # The nearest to one that is not there is looked for among all.
            self._load([cmd_name] if cmd_name in VERBS else VERBS)
        return super().get_command(ctx, cmd_name)

    def _load(self, verbs: Collection[str]) -> None:
        part = typer.Typer(rich_markup_mode=None)
        for file in {VERBS[verb] for verb in verbs}:
            importlib.import_module(f"dayfly.runtime.cli.{file}").register(part)
        part.registered_commands = [
            each for each in part.registered_commands if _verb(each.callback) in verbs
        ]
        self.commands.update(typer.main.get_group(part).commands)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("dayfly: interrupted", err=True)
            raise typer.Exit(130) from None
        except Exception as error:
            from dayfly.errors import DayflyError

            if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
                typer.echo(f"dayfly: {error}", err=True)
                raise typer.Exit(74) from None
            if not isinstance(error, DayflyError):
                raise
            from dayfly.runtime.cli.output import complain, exit_code

            complain(error)
            raise typer.Exit(exit_code(error)) from None


def _verb(command: Callable[..., Any] | None) -> str:
    return typer.main.get_command_name(command.__name__) if command else ""


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"dayfly {version('dayfly')}")
        raise typer.Exit


app = typer.Typer(
    name="dayfly",
    cls=_Group,
    epilog=_EPILOG,
    no_args_is_help=True,
    # Help without rich starts in half the time; tables use rich where a terminal shows them.
    rich_markup_mode=None,
    # Rich tracebacks print the values of local variables, and some of those are keys.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def dayfly(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_version)] = False,
) -> None:
    """Run a Python function on a machine that exists for that call only, and is proved gone afterwards."""


def main() -> None:
    """The `dayfly` command."""
    # A seventh of a short command went into looking through all that it had loaded for garbage, again and again and once more at
    # its end, where there is none.
    gc.set_threshold(_OBJECTS_PER_COLLECTION)
    try:
        app(prog_name="dayfly")
    finally:
        gc.freeze()
