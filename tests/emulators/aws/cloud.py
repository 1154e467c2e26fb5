"""One world of AWS, from a test's side: starts it, says where it is, and does things to it."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tests.emulators.aws.faults import Fault, Faults
from tests.emulators.machines import truth
from tests.emulators.machines.machines import Machines
from tests.emulators.machines.port_map import PortMap
from tests.emulators.machines.truth import Truth

# Moto and gRPC take seconds to be loaded, which those who only collect tests have no use for.
if TYPE_CHECKING:
    from tests.emulators.aws.front import Front
    from tests.emulators.aws.instances import Instance, Instances
    from tests.emulators.aws.launches import Launches
    from tests.emulators.aws.meter import Bill
    from tests.emulators.aws.plugin import AwsPlugin

REGIONS = ("us-east-1", "us-east-2", "eu-west-1")
_KEY, _SECRET = "AKIAEMULATEDEMULATED", "an-emulated-secret-of-forty-characters--"


class Aws:
    """A running world for as long as a `with` block lasts; one at a time in a process, as moto has it.

    Lifecycle: entering starts the API and the plugin; leaving ends both, with all machines, and fails where the world has
    made a mistake of its own.

    Args:
        machines: whether instances are real SSH servers, which needs Linux and root.
        default_vpc: whether the account has a default network in each region.
        ending_s: an end takes so long at least.
        sshd_s: an SSH server answers so long after the launch.
        firewalls: whether the rules of security groups are kept to.

    Attributes:
        url: of the API.
        plugin: what the engine attaches to.
    """

    def __init__(
        self,
        *,
        machines: bool = True,
        default_vpc: bool = True,
        ending_s: float = 0.0,
        sshd_s: float = 0.2,
        firewalls: bool = False,
    ) -> None:
        self._machines, self._default_vpc = machines, default_vpc
        self._ending_s, self._sshd_s, self._firewalls = ending_s, sshd_s, firewalls
        self.url = ""
        self.plugin: AwsPlugin
        self.instances: Instances
        self.launches: Launches
        self.front: Front
        self._lock = threading.RLock()
        self._faults = Faults()

    def __enter__(self) -> Aws:
        from moto.backends import get_backend

        from tests.emulators.aws.front import ACCOUNT, Front
        from tests.emulators.aws.instances import Instances
        from tests.emulators.aws.launches import Launches
        from tests.emulators.aws.plugin import AwsPlugin
        from tests.emulators.aws.server import server

        get_backend("ec2")[ACCOUNT].reset()
        self._folder = Path(tempfile.mkdtemp(prefix="aws-"))
        # The disks' folders are an instance's /etc and /usr.
        self._folder.chmod(0o755)
        self._truth = Truth(self._folder / "truth.jsonl")
        ports = PortMap(self._folder / "ports.json")
        made = Machines(self._folder / "machines", ports, self._truth) if self._machines else None
        self.instances = Instances(
            made,
            self._truth,
            self._lock,
            ending_s=self._ending_s,
            sshd_s=self._sshd_s,
            firewalls=self._firewalls,
        )
        self.launches = Launches(self.instances)
        self.front = Front(
            _KEY,
            REGIONS,
            instances=self.instances,
            launches=self.launches,
            faults=self._faults,
            truth=self._truth,
            lock=self._lock,
        )
        if not self._default_vpc:
            for region in REGIONS:
                _without_network(self.front.backend(region))
        self._server = server(self.front)
        self._serving = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )
        self._serving.start()
        self.url = f"http://127.0.0.1:{self._server.port}"
        self.plugin = AwsPlugin(_KEY, _SECRET)
        self.plugin.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.plugin.close()
        self._server.shutdown()
        self._serving.join()
        self._server.server_close()
        self.instances.close()
        failed = [event["error"] for event in self.events("failed")]
        self._truth.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        if failed and error is None:
            raise RuntimeError(f"the emulator made mistakes: {failed}")

    def environment(self) -> dict[str, str]:
        """The variables by which Dayfly takes it for the real thing."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": _SECRET,
            "AWS_REGION": REGIONS[0],
            "DAYFLY_SSH_PORT_MAP": str(self._folder / "ports.json"),
            "PULUMI_DEBUG_PROVIDERS": self.plugin.environment,
        }

    def live(self) -> list[Instance]:
        """The instances that are there."""
        return self.instances.alive()

    def left(self) -> dict[str, list[str]]:
        """What there is of anything that a run makes, by kind; empty when nothing is."""
        found: dict[str, list[str]] = {"instance": [each.id for each in self.live()]}
        for region in REGIONS:
            backend = self.front.backend(region)
            groups = [g for groups in backend.groups.values() for g in groups.values()]
            things = {
                "key": list(backend.key_pairs),
                "group": [group.id for group in groups if group.name != "default"],
                "volume": list(backend.volumes),
                "vpc": [vpc.id for vpc in backend.vpcs.values() if not vpc.is_default],
                "gateway": list(backend.internet_gateways),
            }
            for kind, ids in things.items():
                found.setdefault(kind, []).extend(ids)
        return {kind: ids for kind, ids in found.items() if ids}

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """The ground truth, or its events of one name."""
        return [each for each in truth.read(self._truth.path) if name in ("", each["event"])]

    def meter(self) -> list[Bill]:
        """What each instance has cost until now, the first one first."""
        from tests.emulators.aws.meter import Bill

        now = time.time()
        return [Bill.of(each, now) for each in self.instances.all()]

    def calls(self, action: str) -> int:
        """How often an operation was asked for."""
        return sum(name == action for _, name in self.front.calls)

    def fault(self, *faults: Fault) -> None:
        """These go wrong next."""
        self._faults.add(faults)

    def clear_faults(self) -> None:
        """Nothing goes wrong any more."""
        self._faults.clear()

    def set_capacity(self, type: str, zones: Sequence[str], left: int) -> None:
        """So many more of a type can be had in each of these zones."""
        self.launches.capacity.update({(type, zone): left for zone in zones})

    def zones(self, region: str, type: str) -> list[str]:
        """Those that sell a type."""
        return self.launches.zones(region, type)

    def preempt(self, id: str) -> None:
        """EC2 takes a spot instance back: its processes are gone at once, the two minutes of notice left out."""
        self.instances.preempt(id)


def _without_network(backend: Any) -> None:
    """As somebody has left the account who has deleted what AWS had made."""
    backend.vpcs.clear()
    backend.subnets.clear()
    backend.groups.clear()
    backend.route_tables.clear()
