"""The emulator from a test's side: starts it in a process of its own, says where it is, and does things to it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tests.emulators import lifetime
from tests.emulators.gcp import meter
from tests.emulators.gcp.meter import Bill
from tests.emulators.machines import truth

_CHECKOUT = Path(__file__).parents[3]


class Emulator:
    """A running emulator for as long as a `with` block lasts.

    Lifecycle: entering starts the process and waits until it answers; leaving ends it with all of its instances, also when
    this process dies, and raises where it has made a mistake of its own.

    Args:
        machines: whether its instances are real SSH servers.
        create_s: for how long its plugin waits for an operation.

    Attributes:
        url: of its API.
        log: the ground truth.
    """

    def __init__(self, *, machines: bool = True, create_s: float = 60.0) -> None:
        self.url = ""
        self.log = Path()
        self._options = ["--create-s", str(create_s), *([] if machines else ["--no-machines"])]
        self._variables: dict[str, str] = {}
        self._process: subprocess.Popen[str] | None = None
        self._said: IO[str] | None = None

    def __enter__(self) -> Emulator:
        self._said = tempfile.TemporaryFile("w+")  # closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.emulators.gcp", "--until-stdin-closes", *self._options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            cwd=_CHECKOUT,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._said.seek(0)
            error = RuntimeError(f"the emulator did not start: {self._said.read().strip()}")
            self._end()
            raise error
        told = json.loads(line)
        self._variables, self.log = told["variables"], Path(told["log"])
        self.url = self._variables["DAYFLY_GCP_URL"]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        failed = [each for each in self.events() if each["event"] == "failed"]
        self._end()
        if failed and error is None:
            raise RuntimeError(f"the emulator made mistakes: {failed}")

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        lifetime.end(process, self._said)

    def environment(self) -> dict[str, str]:
        """The variables by which Dayfly, the engine and Google's libraries take it for the real thing."""
        return dict(self._variables)

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """The ground truth, or its events of one name."""
        return [each for each in truth.read(self.log) if name in ("", each["event"])]

    def rows(self, kind: str = "") -> dict[str, dict[str, Any]]:
        """All that there is, by path, or that of one kind ("instances")."""
        found: dict[str, dict[str, Any]] = self._ask("rows")
        return {p: row for p, row in found.items() if kind in ("", p.split("/")[-2])}

    def bills(self) -> list[Bill]:
        """What each instance has cost so far, in the order in which they began to run."""
        return meter.bills(self.events(), time.time())

    def set(self, **faults: Any) -> None:
        """Switches faults on or off, as `world.Faults` has them."""
        self._ask("faults", faults)

    def preempt(self, instance: str) -> None:
        """Compute Engine takes a Spot VM back."""
        self._ask("preempt", {"instance": instance})

    def act(self, instance: str, what: str) -> None:
        """Does something to an instance's machine: "halt", "kill_sshd", "start_sshd", "freeze", "thaw"."""
        self._ask("machine", {"instance": instance, "do": what})

    def _ask(self, name: str, content: Any = None) -> Any:
        body = json.dumps(content or {}).encode()
        request = urllib.request.Request(f"{self.url}/_emulator/{name}", data=body, method="POST")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(f"{name}: {error.read().decode()}") from None
