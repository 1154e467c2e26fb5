"""A client process of `trial_call` in a home of its own, and what can be seen of it from outside."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import place
from benchmarks.trial_call import STEP
from dayfly.stacks import journal
from tests.emulators.lambda_cloud import Emulator, Options

_READY_S = _END_S = 120.0


class Client:
    """One of them.

    Attributes:
        home: its DAYFLY_HOME.
        process: the client.
        cloud: where its machine is; None where that is this computer.
        port_map: the file in which it looks for its machine's port.
    """

    def __init__(self, home: Path, cloud: Emulator | None, port_map: Path | None = None) -> None:
        self.home, self.cloud = home, cloud
        self.port_map = port_map
        provider, variables = "local", dict[str, str]()
        if cloud is not None:
            provider, variables = "lambda", cloud.environment()
        if port_map is not None:
            variables["DAYFLY_SSH_PORT_MAP"] = str(port_map)
        arguments = [provider, str(self._end)]
        self.process = place.start("trial_call", home, *arguments, variables=variables)

    @property
    def _end(self) -> Path:
        return self.home / "end"

    @property
    def output(self) -> Path:
        """What it has written to stdout."""
        return self.home / "trial.out"

    @property
    def run(self) -> str:
        """The id of its latest run.

        Raises:
            TrialFailed: it has none.
        """
        found = journal.histories(self.home / "runs", closed=True)
        if not found:
            raise place.TrialFailed("the client has made no run")
        return found[-1].id

    @property
    def receipt(self) -> Path:
        """The file that appears when its machine is destroyed, and that is confirmed."""
        return self.home / "runs" / self.run / journal.RECEIPT

    def await_function(self) -> None:
        """Waits until the function is heard.

        Raises:
            TrialFailed: it is not.
        """
        place.wait(
            "the function's output", lambda: STEP in self.output.read_text(), _READY_S, self.said
        )

    def said(self) -> str:
        """The end of what it has written to stderr; raises where it has ended."""
        words = (self.home / "trial.err").read_text(errors="replace")[-2000:]
        if self.process.poll() is not None:
            raise place.TrialFailed(f"the client ended with {self.process.returncode}: {words}")
        return words

    def let_end(self) -> None:
        """Has the function return, where its machine sees this computer's files."""
        self._end.touch()

    def answer(self) -> Any:
        """What it says when it has ended.

        Raises:
            TrialFailed: it did not end well.
        """
        return place.answer(self.process, self.home)

    def interrupt(self) -> list[str]:
        """Ends it by Ctrl-C; gives what should not be afterwards."""
        self.process.send_signal(signal.SIGINT)
        return [*self.ended_by_interrupt(), *self.left()]

    def ended_by_interrupt(self) -> list[str]:
        """Waits for the end that an interrupted script has; gives what is wrong with it."""
        try:
            code = self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            raise place.TrialFailed(f"Ctrl-C did not end the client in {_END_S:g} s") from None
        words = (self.home / "trial.err").read_text(errors="replace")[-500:]
        return [] if code == -signal.SIGINT else [f"the client ended with {code}: {words}"]

    def left(self) -> list[str]:
        """What is there of it when it has ended, by the cloud's own word, too."""
        machines = [] if self.cloud is None else self.cloud.live()
        costing = [f"instance {row['id']} is {row['status']}" for row in machines]
        return [*place.leftovers(self.home), *costing]

    def check_receipt(self) -> list[str]:
        """What the receipt says that should not be."""
        receipt = json.loads(self.receipt.read_text())
        whole = receipt["left"] == 0 and receipt["destroyed"] == receipt["declared"] > 0
        return [] if whole else [f"the receipt says {receipt}"]


@contextlib.contextmanager
def local(count: int) -> Iterator[list[Client]]:
    """Clients with a machine each on this computer, all at once."""
    with contextlib.ExitStack() as stack:
        clients = [Client(stack.enter_context(place.new_home()), None) for _ in range(count)]
        stack.callback(_kill, clients)
        yield clients


@contextlib.contextmanager
def emulated(
    options: Sequence[Options],
    *,
    mapped: bool = False,
    prepare: Callable[[Emulator], None] = lambda _: None,
) -> Iterator[list[Client]]:
    """Clients with an emulated Lambda Cloud each, all at once: as an account of its own, none waits for another's turn.

    Args:
        options: how each cloud behaves.
        prepare: does something to each cloud before it has a client.
        mapped: whether each client gets a port map of its own, for the caller to fill.

    Raises:
        TrialFailed: this computer cannot have emulated machines.
    """
    clients: list[Client] = []
    with contextlib.ExitStack() as stack:
        stack.callback(_kill, clients)
        for each in options:
            try:
                cloud = stack.enter_context(Emulator(each))
            except (RuntimeError, OSError) as error:
                raise place.TrialFailed(f"no emulated cloud: {error}") from error
            prepare(cloud)
            home = stack.enter_context(place.new_home())
            port_map = home / "ports.json" if mapped else None
            if port_map is not None:
                port_map.write_text("{}")
            clients.append(Client(home, cloud, port_map))
        yield clients


def _kill(clients: Sequence[Client]) -> None:
    for client in clients:
        client.process.kill()
        client.process.wait()
