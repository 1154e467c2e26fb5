"""SampleLog: what a run's machine uses, on its way from the machine to the run's directory, and who is warned by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dayfly.runtime import samples
from dayfly.runtime.agent import sample_file
from dayfly.runtime.agent import samples as agent_samples
from dayfly.runtime.run_log import Shown
from dayfly.runtime.samples import Sample


class SampleLog:
    """The samples of one machine of a run on this computer, bounded as there.

    Args:
        directory: the run's own, or that machine's within it.
        display: told once where this disk has no room for them.
        see: takes each sample, those that are here already first.
    """

    def __init__(
        self,
        directory: Path,
        display: Shown,
        see: Callable[[Sample, bool], None] = lambda _sample, _new: None,
    ) -> None:
        self._file = sample_file.SampleFile(str(directory / samples.FILE))
        self._display, self._see = display, see
        self._cut = False
        self.last = -1
        for sample in samples.read(directory):
            self.last = sample.number
            see(sample, False)

    def take(self, number: int, lines: bytes) -> None:
        """The next lines, the last of which has this number."""
        self.last = number
        told = samples.told(lines)
        for _, sample in told:
            self._see(sample, True)
        if self._cut or not told:
            return
        try:
            self._file.append(b"".join(agent_samples.sample_line(words) for words, _ in told))
        except OSError as error:
            self._cut = True
            self._display.warning(f"no room for what this run uses, it is cut here: {error}")
