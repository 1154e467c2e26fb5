"""The stand-in clouds of rows: an emulated account each, and a machine that every one of them sells."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from benchmarks.place import TrialFailed
from tests.emulators.aws import Aws
from tests.emulators.azure import Emulator as Azure
from tests.emulators.gcp import Emulator as Gcp


class Cloud(Protocol):
    """What an emulator of any of them says."""

    def environment(self) -> dict[str, str]:
        """The variables by which Dayfly and the engine take it for the real thing."""


# A region that sells it, as each of them calls type and region. All are small machines with a GPU.
ASKED: Mapping[str, Mapping[str, str]] = {
    "aws": {"instance_type": "g5.xlarge", "region": "us-east-1"},
    "azure": {"instance_type": "Standard_NC4as_T4_v3", "region": "eastus"},
    "gcp": {"gpu": "T4", "region": "us-central1"},
}
_MAKE: Mapping[str, Callable[[], AbstractContextManager[Cloud]]] = {
    "aws": Aws,
    "azure": Azure,
    "gcp": lambda: Gcp(create_s=1.0),
}


@contextlib.contextmanager
def emulated(name: str) -> Iterator[Cloud]:
    """An empty account of that cloud.

    Raises:
        TrialFailed: this computer cannot have emulated machines.
    """
    with contextlib.ExitStack() as stack:
        try:
            cloud = stack.enter_context(_MAKE[name]())
        except (RuntimeError, OSError) as error:
            raise TrialFailed(f"no emulated {name}: {error}") from error
        yield cloud
