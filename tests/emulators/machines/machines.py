"""All machines of an emulated cloud, on this computer."""

from __future__ import annotations

import shutil
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.emulators.machines import addresses, box, gpus
from tests.emulators.machines.machine import Machine
from tests.emulators.machines.port_map import PortMap
from tests.emulators.machines.truth import Truth
from tests.emulators.machines.wanted import Wanted

_THREADS = 8


class Machines:
    """Makes them, and ends all of them at once."""

    def __init__(
        self,
        folder: Path,
        ports: PortMap,
        truth: Truth,
        *,
        own_addresses: bool = False,
    ) -> None:
        box.check()
        if own_addresses:
            addresses.check()
        self._own_addresses = own_addresses
        self._folder = folder
        self._ports = ports
        self._truth = truth
        # Its threads live as long as this process: a machine ends with the thread that booted it.
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="machines")
        self._all: list[Machine] = []
        self._lies: deque[str] = deque()

    def lie_next(self, lies: list[str]) -> None:
        """What the GPUs of the next machines say, one lie for each; "" is the truth."""
        for lie in lies:
            gpus.check_name(lie)
        self._lies.extend(lies)

    def make(self, id: str, wanted: Wanted, ip: str) -> Machine:
        """A machine that begins to boot."""
        made = Machine(
            id,
            wanted,
            place=(ip, addresses.SSH_PORT) if self._own_addresses else ("127.0.0.1", 0),
            folder=self._folder / id,
            ports=self._ports,
            truth=self._truth,
            executor=self._executor,
            lie=self._lies.popleft() if self._lies else "",
        )
        self._all = [each for each in self._all if not each.ended] + [made]
        return made

    def look_again(self) -> None:
        """The rules of a firewall are others now."""
        for machine in self._all:
            machine.look_again()

    def close(self) -> None:
        """Ends all, and returns when nothing is left of them."""
        for machine in self._all:
            machine.end()
        self._executor.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)
