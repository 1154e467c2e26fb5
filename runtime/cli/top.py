"""`dayfly top`: what runs use now, live: phases, log, CPU, memory and GPUs."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dayfly.runtime.onlooker import Onlooker
    from dayfly.runtime.usage import Usage
    from dayfly.stacks.workspace import Workspace

_EVERY_S = 1.0
# So many machines are asked at once; one that does not answer holds up its own row.
_AT_ONCE = 8
_PIPE_WIDTH = 200


@click.command()
@click.argument("run", metavar="[RUN]", required=False)
@click.option("--json", is_flag=True, help="Print one reading as JSON.")
@click.option("--once", is_flag=True, help="Print one reading; so in a pipe, too.")
def top(run: str | None, json: bool, once: bool) -> None:
    """Watch what a run uses: its phases, its log, CPU, memory and GPUs, from any process on this computer.

    RUN is its id, or the beginning of it; all open runs if left out.

    Ends with the run, or by Ctrl-C, which does nothing to the run.
    """
    from dayfly.runtime.context import Context

    context = Context.open()
    workspace = context.workspace
    with contextlib.ExitStack() as stack:
        if run is None:
            runs = stack.enter_context(_Runs(workspace))
            _show(runs.look, _table, json, once)
            return
        from dayfly.runtime import elsewhere
        from dayfly.runtime.cli.output import tell
        from dayfly.runtime.onlooker import Onlooker

        run_id = elsewhere.find(context, run).id
        onlooker = stack.enter_context(Onlooker(workspace, run_id, tell))
        _show(onlooker.look, _view, json, once)


class _Runs:
    """All open runs of this home.

    Lifecycle: a look connects where it has to, leaving closes what has been connected.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._onlookers: dict[str, Onlooker] = {}

    def __enter__(self) -> _Runs:
        return self

    def __exit__(self, *_: object) -> None:
        for onlooker in self._onlookers.values():
            onlooker.close()

    def look(self) -> list[Usage]:
        """One reading of each, the oldest run first."""
        from dayfly.runtime.cli.output import tell
        from dayfly.runtime.onlooker import Onlooker
        from dayfly.stacks import journal

        found = [history.id for history in journal.histories(self._workspace.runs)]
        for run_id in found:
            if run_id not in self._onlookers:
                self._onlookers[run_id] = Onlooker(self._workspace, run_id, tell)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(lambda run_id: self._onlookers[run_id].look(), found))


def _show(look: Callable[[], Any], drawn: Callable[[Any], Any], as_json: bool, once: bool) -> None:
    """Shows one reading, or one after the other until the run is closed."""
    found = look()
    if as_json:
        from dayfly.runtime.cli.output import emit_json

        several = isinstance(found, list)
        emit_json([usage.as_dict() for usage in found] if several else found.as_dict())
        return
    from rich.console import Console

    # A pipe has no width, and what reads it wants a row on a line.
    watched = sys.stdout.isatty()
    console = Console(highlight=False, width=None if watched else _PIPE_WIDTH)
    if watched and not once:
        found = _live(console, found, look, drawn)
    console.print(drawn(found))


def _live(console: Any, found: Any, look: Callable[[], Any], drawn: Callable[[Any], Any]) -> Any:
    """Draws until there is nothing more to come, or Ctrl-C.

    Returns:
        The last reading.
    """
    from rich.live import Live

    with (
        contextlib.suppress(KeyboardInterrupt),
        Live(drawn(found), console=console, screen=True, auto_refresh=False) as live,
    ):
        while isinstance(found, list) or found.status != "CLOSED":
            time.sleep(_EVERY_S)
            found = look()
            live.update(drawn(found), refresh=True)
    return found


def _view(usage: Usage) -> Any:
    from dayfly.runtime.cli.gauges import view

    return view(usage)


def _table(usages: list[Usage]) -> Any:
    from dayfly.runtime.cli.gauges import table

    return table(usages)
