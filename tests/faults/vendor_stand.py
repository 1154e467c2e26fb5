"""Stand: one vendor's cloud with a state folder of its own beside it, where one client after the other is killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.faults import place
from tests.faults.place import COMMAND_S, Place
from tests.faults.starts import Starts
from tests.faults.vendor_worlds import WORLDS, VendorWorld
from tests.faults.victim import Victim

_LINES, _PAUSE_S, _SIZE = 20, 0.02, 1 << 16


@dataclass(frozen=True)
class Stand:
    """One of them.

    Attributes:
        place: its own.
        cloud: the account.
        starts: what functions have said of themselves.
        victim: what the clients call.
        variables: this process's environment while anything happens here.
    """

    place: Place
    cloud: VendorWorld
    starts: Starts
    victim: Victim
    variables: Mapping[str, str]

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Everything that is started in the block takes this for where it is."""
        outside = dict(os.environ)
        _become(self.variables)
        try:
            yield
        finally:
            _become(outside)

    def client(self, seed: int) -> subprocess.Popen[bytes]:
        """One that calls the function."""
        script = self.place.home / "victim.py"
        script.write_text(self.victim.code)
        return self.place.client(script, seed, self.starts.port)

    def lasts_s(self, seed: int) -> float:
        """How long a client lives that nobody kills; found out once for all processes of a campaign."""
        noted = self.place.shared / f"lasts.{self.variables['FAULTS_CLOUD']}"
        if not noted.exists():
            began = time.monotonic()
            with self.client(seed) as client:
                assert client.wait(COMMAND_S) == 0, self.place.said(seed)
            took_s = time.monotonic() - began
            assert self.cloud.leaked() == []
            whole = self.place.home / "lasts.new"
            whole.write_text(str(took_s))
            whole.replace(noted)
        return float(noted.read_text())

    def secrets(self) -> list[str]:
        """The account's own, wherever they are in a file of this home."""
        return [
            f"a secret of the account in {file}"
            for secret in self.cloud.secrets
            for file in self.place.home.rglob("*")
            if secret.encode() in _content(file)
        ]


def _content(file: Path) -> bytes:
    with contextlib.suppress(OSError):
        return file.read_bytes() if file.is_file() else b""
    return b""


def _become(variables: Mapping[str, str]) -> None:
    for name in set(os.environ) - set(variables):
        del os.environ[name]
    os.environ.update(variables)


@contextlib.contextmanager
def stand(cloud: str, starts: Starts, shared: Path) -> Iterator[Stand]:
    """One for as long as the block lasts; this process's environment is as before meanwhile."""
    outside = dict(os.environ)
    with contextlib.ExitStack() as stack:
        where = stack.enter_context(place.place(shared))
        # A developer's own account is none of these.
        os.environ |= {
            name: str(where.home / "none")
            for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")
        }
        try:
            world = stack.enter_context(WORLDS[cloud]())
            variables = {**os.environ, **world.environment, "FAULTS_CLOUD": cloud}
        finally:
            _become(outside)
        victim = Victim(_LINES, _PAUSE_S, _SIZE, world.asked, by_port=True)
        yield Stand(where, world, starts, victim, variables)
