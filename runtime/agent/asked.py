"""Another program that is asked something, for so long and no longer."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from subprocess import Popen


class Asked:
    """A program that is asked something, and whose answer is awaited for so long and no longer.

    Not even its end: a process that waits in the driver for a broken GPU is not reached by any signal.
    """

    def __init__(self, command: list[str], environment: Mapping[str, str] | None = None) -> None:
        from subprocess import DEVNULL, PIPE, Popen

        self._process: Popen[bytes] | None = None
        self.code: int | None = None
        self.words = self.complaint = ""
        try:
            self._process = Popen(command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=environment)
        except OSError as error:
            self.complaint = f"{command[0]} cannot be started: {error}"

    def wait(self, timeout_s: float) -> Asked:
        """Take its exit code and its words; the code stays None where it is late or was never started."""
        from subprocess import TimeoutExpired

        process = self._process
        if process is None:
            return self
        try:
            output, errors = process.communicate(timeout=timeout_s)
            self.code = process.returncode
        except TimeoutExpired as late:
            output, errors = late.output or b"", late.stderr or b""
            self._abandon(process)
        self.words = output.decode(errors="replace").strip()
        self.complaint = errors.decode(errors="replace").strip()
        return self

    @staticmethod
    def _abandon(process: Popen[bytes]) -> None:
        from subprocess import TimeoutExpired

        process.kill()
        try:
            process.communicate(timeout=1.0)
        except TimeoutExpired:
            return


def as_root(command: list[str]) -> list[str]:
    return command if os.geteuid() == 0 else ["sudo", "-n", *command]
