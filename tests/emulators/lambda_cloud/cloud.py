"""The emulated cloud: everything that it is made of, behind one lock."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.emulators.lambda_cloud import catalog, meter
from tests.emulators.lambda_cloud.account import Account
from tests.emulators.lambda_cloud.capacity import Capacity
from tests.emulators.lambda_cloud.clock import Clock
from tests.emulators.lambda_cloud.faults import Fault, Script
from tests.emulators.lambda_cloud.file_systems import FileSystems
from tests.emulators.lambda_cloud.firewalls import Firewalls
from tests.emulators.lambda_cloud.instances import Instances
from tests.emulators.lambda_cloud.options import Options
from tests.emulators.lambda_cloud.schedule import Schedule
from tests.emulators.lambda_cloud.ssh_keys import SSHKeys
from tests.emulators.machines import truth as log
from tests.emulators.machines.machines import Machines
from tests.emulators.machines.port_map import PortMap
from tests.emulators.machines.truth import Truth


class Cloud:
    """One account's world. Whoever reads or changes it holds `lock`.

    Lifecycle: `start` sets its time going; `close` ends every machine. Log and port map are others' to make and to close,
    since one world may follow another.

    Attributes:
        ended: nothing may change in it any more.
    """

    def __init__(self, options: Options, folder: Path, truth: Truth, ports: PortMap) -> None:
        self.options = options
        self.folder = folder
        self.ended = False
        self.lock = threading.RLock()
        self.clock = Clock(options.time_scale)
        self.truth = truth
        self.ports = ports
        self.account = Account(options, self.clock)
        self.calls: Counter[str] = Counter()
        self.script = Script(options.faults)
        self.capacity = Capacity(options)
        self.ssh_keys = SSHKeys(self.truth)
        self.file_systems = FileSystems(self.truth, folder / "file_systems", self._mounted)
        self.firewalls = Firewalls(
            self.truth, options.regions_without_firewall, self._behind, self._rules_changed
        )
        self._schedule = Schedule(self.clock)
        self.machines = _machines(options, folder, ports, truth)
        self.instances = Instances(
            options=options,
            clock=self.clock,
            truth=self.truth,
            capacity=self.capacity,
            machines=self.machines,
            lets_in=self.firewalls.lets_in if options.firewalls else None,
            later=self._later,
        )

    def start(self, url: str, pid: int) -> None:
        """Its time begins."""
        shown = self.options.as_json() | {"api_key": "***"}
        self.truth.write("started", pid=pid, url=url, options=shown)
        self._schedule.start()

    def close(self) -> None:
        """Ends all machines; returns when none is left. A call that is held is let go, and finds nothing."""
        with self.lock:
            self.ended = True
        self.script.clear()
        self._schedule.close()
        if self.machines is not None:
            self.machines.close()
        self.truth.write("ended")

    def meet(self, op: str) -> Fault | None:
        """Counts a call of an operation, and gives what goes wrong with it."""
        with self.lock:
            self.calls[op] += 1
        return self.script.meet(op)

    def instance_types(self) -> dict[str, Any]:
        """The catalog with today's stock."""
        return {
            each.name: {
                "instance_type": each.as_json(),
                "regions_with_capacity_available": self.capacity.listed(each.name),
            }
            for each in catalog.TYPES.values()
        }

    def lie_next(self, lies: list[str]) -> None:
        """The GPUs of the launches to come lie, one after the other.

        Raises:
            ValueError: there is no such lie.
        """
        if self.machines is None:
            raise ValueError("this emulator was started without machines")
        self.machines.lie_next(lies)

    def bills(self) -> list[meter.Bill]:
        """What every instance has cost until now, from the log itself."""
        events = log.read(self.truth.path)
        increment_s = self.clock.real(self.options.billing_increment_s)
        return meter.bills(events, self.truth.now(), increment_s)

    def advance(self, emulated_s: float) -> float:
        """Has so many emulated seconds pass at once: what is due happens, and the bills have grown.

        Returns:
            By how many seconds its time of day is before this computer's now.
        """
        if emulated_s < 0:
            raise ValueError(f"time goes forward, not by {emulated_s} s")
        real_s = self.clock.real(emulated_s)
        self.clock.advance(emulated_s)
        self.truth.ahead_s += real_s
        self.truth.write("advanced", seconds=emulated_s, ahead_s=self.truth.ahead_s)
        self._schedule.look()
        return self.truth.ahead_s

    def _later(self, delay_s: float, act: Callable[[], None]) -> None:
        def locked() -> None:
            with self.lock:
                try:
                    act()
                except Exception:  # noqa: BLE001 - logged; the schedule goes on
                    self.truth.failed("schedule")

        self._schedule.after(delay_s, locked)

    def _mounted(self, file_system: str) -> bool:
        return any(
            mount.file_system.id == file_system
            for each in self.instances.alive()
            for mount in each.order.mounts
        )

    def _rules_changed(self) -> None:
        if self.machines is not None:
            self.machines.look_again()

    def _behind(self, ruleset: str) -> list[str]:
        return [each.id for each in self.instances.alive() if ruleset in each.order.rulesets]


def _machines(options: Options, folder: Path, ports: PortMap, truth: Truth) -> Machines | None:
    if not options.machines:
        return None
    return Machines(folder / "machines", ports, truth, own_addresses=options.own_addresses)
