"""Behind: a run that did not get its machine, being closed in the background while the next one begins."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable

from dayfly.stacks.closer import Closer
from dayfly.stacks.engine import Engine
from dayfly.stacks.workspace import Workspace

# A key and a ruleset cost nothing; so long they may stay for the sake of the next launch.
_PATIENCE_S = 30.0


class Behind:
    """One such run.

    Lifecycle: `start` makes a thread for its teardown, which begins with `release`, or by itself after a while; `finish`
    waits for the proof and raises what went wrong with it.

    Args:
        workspace: where the run is kept.
        engine: the Pulumi CLI.
        run_id: its id.
        program: the process that brought it up, None where none was started.
        report: told each step in a sentence.
    """

    def __init__(
        self,
        workspace: Workspace,
        engine: Engine | None,
        run_id: str,
        program: subprocess.Popen[bytes] | None,
        report: Callable[[str], None],
    ) -> None:
        self._closer = Closer(workspace, engine, report)
        self._run_id = run_id
        self._program = program
        self._error: Exception | None = None
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._close, name=f"close-{run_id[:8]}", daemon=True)

    def start(self) -> None:
        """Begins to wait; whatever becomes of this process, the run is in the journal and anybody can close it."""
        self._thread.start()

    def release(self) -> None:
        """Lets the teardown begin: the next machine has been asked for, and no request of it stands in that one's way."""
        self._released.set()

    def finish(self) -> None:
        """Waits until it is proved gone.

        Raises:
            LeakRisk: it could not be.
        """
        self.release()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _close(self) -> None:
        self._released.wait(_PATIENCE_S)
        try:
            self._closer.close(self._run_id)
        except Exception as error:  # noqa: BLE001  # raised where somebody waits for it
            self._error = error
        if self._program is not None:
            self._program.wait()
