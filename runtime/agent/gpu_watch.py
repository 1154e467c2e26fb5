"""What each GPU is doing, as its own tool tells."""

from __future__ import annotations

import os

from .gpus import smi_command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from subprocess import Popen
    from typing import Any


class GpuWatch:
    """What each GPU does, from one nvidia-smi that goes on telling it.

    One that ends is started again; one that lives and says nothing is ended, and from then on asked anew each time.
    """

    PATIENCE_S = 60.0
    AGAIN_S = 30.0

    def __init__(self, every_s: float) -> None:
        self._command = smi_command("index,utilization.gpu,memory.used,memory.total")
        self._loop = [f"--loop-ms={max(1, int(every_s * 1000))}"]
        self._process: Popen[bytes] | None = None
        self._ending: list[Popen[bytes]] = []
        self._started = self._heard = -self.PATIENCE_S
        self._rest = b""
        # When it was heard of, its readings since the last look, and MiB used and in all.
        self._rows: dict[int, tuple[float, list[float], int, int]] = {}

    @property
    def processes(self) -> set[int]:
        """The tool's own, also those that do not end."""
        tools = [self._process, *self._ending]
        return {tool.pid for tool in tools if tool is not None}

    def read(self, now: float) -> list[list[Any]]:
        """Give percent in use (None where that is not told), MiB used and MiB in all of each GPU that is heard of."""
        if not self._command:
            return []
        former, self._rows = self._rows, {}
        self._listen(now)
        self._see_to_it(now)
        for index, row in former.items():
            # Its rhythm is not quite ours: what was told last stands for a while.
            if now - row[0] <= self.PATIENCE_S:
                self._rows.setdefault(index, row)
        return [
            [round(sum(shares) / len(shares), 1) if shares else None, used, total]
            for _, (_, shares, used, total) in sorted(self._rows.items())
        ]

    def _listen(self, now: float) -> None:
        """Take the whole lines that wait in the pipe."""
        if self._process is None or self._process.stdout is None:
            return
        try:
            data = os.read(self._process.stdout.fileno(), 1 << 20)
        except BlockingIOError:
            return
        if not data:
            self._drop()
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line.decode(errors="replace"), now)

    def _take(self, line: str, now: float) -> None:
        parts = [part.strip() for part in line.split(",")]
        if len(parts) != 4 or not parts[0].isdigit():
            return
        self._heard = now
        shares = self._rows.get(int(parts[0]), (now, [], 0, 0))[1]
        # A part of a GPU (MIG) is told without it, as "[N/A]".
        shares += [float(parts[1])] if parts[1].isdigit() else []
        used, total = (int(part) if part.isdigit() else 0 for part in parts[2:])
        self._rows[int(parts[0])] = (now, shares, used, total)

    def _see_to_it(self, now: float) -> None:
        self._ending = [tool for tool in self._ending if tool.poll() is None]
        if self._process is not None:
            if now - max(self._heard, self._started) <= self.PATIENCE_S:
                return
            self._loop = []
            self._drop()
        if now - self._started >= self.AGAIN_S:
            self._start(now)

    def _start(self, now: float) -> None:
        from subprocess import DEVNULL, PIPE, Popen

        self._started, self._rest = now, b""
        command = self._command + self._loop
        try:
            self._process = Popen(command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL)
        except OSError:
            return  # Gone since; it is looked for again.
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)

    def _drop(self) -> None:
        """Let go of the tool; one that waits in the driver for a broken GPU is not waited for."""
        process, self._process = self._process, None
        if process is not None and process.stdout is not None:
            process.stdout.close()
            process.kill()
            self._ending.append(process)

    def close(self) -> None:
        """End it, and wait a moment for that."""
        from subprocess import TimeoutExpired

        self._drop()
        for tool in self._ending:
            try:
                tool.wait(0.3)
            except TimeoutExpired:
                continue
        self._ending = [tool for tool in self._ending if tool.poll() is None]
