"""The stand-in clouds of rows: an emulated account each, a machine that every one of them sells, and when it was asked for what."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from benchmarks.place import TrialFailed
from tests.emulators.aws import Aws
from tests.emulators.azure import Emulator as Azure
from tests.emulators.gcp import Emulator as Gcp


class _Stamped(list[tuple[str, str]]):
    """A log of calls that knows when each of them came, in seconds since 1970."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def append(self, call: tuple[str, str]) -> None:
        self.times.append(time.time())
        super().append(call)


class Cloud(ABC):
    """An emulated account.

    Attributes:
        machine: a small one with a GPU, as this cloud calls it.
        region: in which it is asked for first.
    """

    machine: ClassVar[Mapping[str, str]]
    region: ClassVar[str]

    def __init__(self, emulator: Any) -> None:
        self.emulator = emulator

    @classmethod
    @abstractmethod
    def world(cls) -> AbstractContextManager[Any]:
        """An emulator that is not started yet."""

    @abstractmethod
    def sell_out(self) -> None:
        """What is asked for such a machine first has none."""

    @abstractmethod
    def refused(self) -> Iterable[float]:
        """When a launch was refused for that, in seconds since 1970."""

    @abstractmethod
    def made(self) -> Iterable[float]:
        """When something was made, or asked to be made, for a rung; likewise."""

    def moved_on_s(self) -> float:
        """From the first refusal to the first request for the next rung.

        Raises:
            TrialFailed: nothing was refused, or nothing was asked for afterwards.
        """
        for refused in self.refused():
            for made in self.made():
                if made > refused:
                    return made - refused
        raise TrialFailed(f"{type(self).__name__}: no rung was refused before another")


class _Aws(Cloud):
    machine: ClassVar[Mapping[str, str]] = {"instance_type": "g5.xlarge"}
    region = "us-east-1"

    def __init__(self, emulator: Aws) -> None:
        super().__init__(emulator)
        self._log = emulator.front.calls = _Stamped()

    @classmethod
    def world(cls) -> AbstractContextManager[Aws]:
        return Aws()

    def sell_out(self) -> None:
        type = self.machine["instance_type"]
        self.emulator.set_capacity(type, self.emulator.zones(self.region, type), 0)

    def refused(self) -> Iterable[float]:
        return _when(
            self._log, lambda region, call: (region, call) == (self.region, "RunInstances")
        )

    def made(self) -> Iterable[float]:
        return _when(self._log, lambda region, call: region != self.region and call in _MAKES)


_MAKES = ("ImportKeyPair", "CreateSecurityGroup", "RunInstances")


class _Azure(Cloud):
    machine: ClassVar[Mapping[str, str]] = {"instance_type": "Standard_NC4as_T4_v3"}
    region = "eastus"

    def __init__(self, emulator: Azure) -> None:
        super().__init__(emulator)
        self._log = emulator._plugin.calls = _Stamped()

    @classmethod
    def world(cls) -> AbstractContextManager[Azure]:
        return Azure()

    def sell_out(self) -> None:
        self.emulator.fault("AllocationFailed", only=self.region)

    def refused(self) -> Iterable[float]:
        machine = "azure-native:compute:VirtualMachine"
        return _when(self._log, lambda act, type: (act, type) == ("create", machine))

    def made(self) -> Iterable[float]:
        return _when(self._log, lambda act, type: act == "create")


class _Gcp(Cloud):
    machine: ClassVar[Mapping[str, str]] = {"gpu": "T4"}
    region = "us-central1"

    @classmethod
    def world(cls) -> AbstractContextManager[Gcp]:
        return Gcp()

    def sell_out(self) -> None:
        self.emulator.set(full=[f"*@{self.region}-a"])

    def refused(self) -> Iterable[float]:
        return [event["at"] for event in self.emulator.events("refused")]

    def made(self) -> Iterable[float]:
        return [event["at"] for event in self.emulator.events("made")]


_CLOUDS: Mapping[str, type[Cloud]] = {"aws": _Aws, "azure": _Azure, "gcp": _Gcp}
NAMES = tuple(_CLOUDS)


@contextlib.contextmanager
def emulated(name: str) -> Iterator[Cloud]:
    """An empty account of that cloud.

    Raises:
        TrialFailed: this computer cannot have emulated machines.
    """
    kind = _CLOUDS[name]
    with contextlib.ExitStack() as stack:
        try:
            emulator = stack.enter_context(kind.world())
        except (RuntimeError, OSError) as error:
            raise TrialFailed(f"no emulated {name}: {error}") from error
        yield kind(emulator)


def _when(log: _Stamped, meant: Callable[[str, str], bool]) -> list[float]:
    return [at for at, call in zip(log.times, log, strict=False) if meant(*call)]
