"""The emulator from a test's side: in this process, with its server, its plugin and its machines."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from types import TracebackType

from tests.emulators.azure.faults import Fault
from tests.emulators.azure.options import Options
from tests.emulators.azure.plugin import AzureNative
from tests.emulators.azure.server import Server
from tests.emulators.azure.world import World
from tests.emulators.machines import truth
from tests.emulators.machines.machines import Machines
from tests.emulators.machines.port_map import PortMap
from tests.emulators.machines.truth import Truth

_VM = "Microsoft.Compute/virtualMachines"


class Emulator:
    """A running Azure for as long as a `with` block lasts.

    Lifecycle: entering listens; leaving ends every machine and the server.

    Attributes:
        world: what there is, to look at and to do things to.
        url: of the API.
    """

    def __init__(self, options: Options | None = None, *, port: int = 0) -> None:
        self.options = options or Options()
        self._port = port

    def __enter__(self) -> Emulator:
        self._folder = Path(tempfile.mkdtemp(prefix="azure-"))
        self._ports = PortMap(self._folder / "ports.json")
        self._truth = Truth(self._folder / "truth.jsonl")
        self._machines = (
            Machines(self._folder / "machines", self._ports, self._truth)
            if self.options.machines
            else None
        )
        self.world = World(self.options, self._machines)
        self._server = Server(self.world, self._port)
        self._plugin = AzureNative(self.world)
        self._plugin.start()
        self.url = self._server.url
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.world.close()
        self._plugin.close()
        self._server.close()
        if self._machines is not None:
            self._machines.close()
        self._truth.close()
        failed = [each for each in truth.read(self._truth.path) if each["event"] == "failed"]
        shutil.rmtree(self._folder, ignore_errors=True)
        if failed and error is None:
            raise RuntimeError(f"the emulator made mistakes: {failed}")

    @property
    def requests(self) -> list[tuple[str, str]]:
        """What was asked over HTTP, as (method, path)."""
        return self._server.requests

    @property
    def calls(self) -> list[tuple[str, str]]:
        """What the engine has asked the plugin for, as (operation, type)."""
        return self._plugin.calls

    @property
    def token(self) -> str:
        """What the API lets in whoever shows it."""
        return self._server.token

    def environment(self) -> dict[str, str]:
        """The variables by which Dayfly, the engine and Azure's SDK take it for the real thing."""
        return {
            "DAYFLY_AZURE_URL": self.url,
            "DAYFLY_AZURE_TIME_SCALE": f"{self.options.time_scale:g}",
            "DAYFLY_SSH_PORT_MAP": str(self._ports.path),
            "PULUMI_DEBUG_PROVIDERS": self._plugin.environment,
            "AZURE_SUBSCRIPTION_ID": self.world.subscription,
            "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
            "IDENTITY_ENDPOINT": f"{self.url}/msi/token",
            "IDENTITY_HEADER": self._server.header,
        }

    def fault(
        self,
        code: str,
        *,
        late: bool = False,
        only: str = "",
        times: int = 1,
        act: str = "write",
        type: str = _VM,
    ) -> Fault:
        """Refuses what comes, as `Fault` tells; virtual machines if nothing else is said."""
        return self.world.faults.add(Fault(act, type, code, late, times, only))
