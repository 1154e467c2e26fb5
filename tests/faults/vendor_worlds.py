"""Emulated clouds of vendors, as kills need them: an account with somebody else's things in it, and what it says is there."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dayfly.infra import run_names
from dayfly.infra.run import Run
from tests.emulators.aws import Aws, Fault
from tests.emulators.azure import Emulator as Azure
from tests.emulators.azure import Options as AzureOptions
from tests.emulators.gcp import Emulator as Gcp

# Tagged as ours are, and another owner's; its time is not over for as long as anybody tries this.
_FOREIGN = Run("f" * 32, "somebody-else", 0.0, 4e9, Path(), "", "")
_NOT_OURS = "not-ours"
# For how long a launch is under way: less than each provider waits for one that may still come, of its emulator.
_LAUNCH_S = 0.3
_ALWAYS = 10**6
_GCP_ZONE = "us-central1-b"


class VendorWorld(ABC):
    """One account.

    Lifecycle: constructing takes an emulator that runs already, and puts somebody else's things into it.

    Attributes:
        asked: what a client asks for, as the decorator's arguments.
        environment: by which everything of ours takes it for the real thing.
        secrets: what is in no file.
    """

    asked: str
    environment: Mapping[str, str]
    secrets: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._settle()
        self._others = Counter(self.things())
        assert self._others, "nobody else has anything here"

    @abstractmethod
    def _settle(self) -> None:
        """Makes what somebody else has."""

    @abstractmethod
    def things(self) -> list[str]:
        """All that there is, as "kind id"."""

    @abstractmethod
    def asked_for(self) -> int:
        """For how many machines the plugin has been asked."""

    @abstractmethod
    def launches(self, run: str) -> int:
        """How many machines were ever made for a run."""

    @abstractmethod
    def lives(self, run: str) -> bool:
        """Whether a machine of a run is there."""

    def leaked(self) -> list[str]:
        """What is there and is not somebody else's."""
        return sorted((Counter(self.things()) - self._others).elements())

    def broken(self) -> list[str]:
        """Somebody else's things that are gone (I8)."""
        gone = self._others - Counter(self.things())
        return [f"somebody else's {thing} was ended" for thing in sorted(gone.elements())]


class AwsWorld(VendorWorld):
    """An instance with another owner's tags, a key and a group with none."""

    asked = 'provider="aws", gpu="A10G:1", region="us-east-1", time="30m"'

    def __init__(self, cloud: Aws) -> None:
        self._cloud = cloud
        self.environment = cloud.environment()
        self.secrets = (self.environment["AWS_SECRET_ACCESS_KEY"],)
        super().__init__()

    def _settle(self) -> None:
        import boto3

        variables = self.environment
        ec2 = boto3.client(
            "ec2",
            region_name="us-east-1",
            endpoint_url=variables["AWS_ENDPOINT_URL"],
            aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
        )
        ec2.create_key_pair(KeyName=_NOT_OURS)
        ec2.create_security_group(GroupName=_NOT_OURS, Description=_NOT_OURS)
        tags = [{"Key": name, "Value": value} for name, value in _FOREIGN.tags.items()]
        ec2.run_instances(
            ImageId="ami-0b5e550000000c0de",
            InstanceType="g5.xlarge",
            KeyName=_NOT_OURS,
            MinCount=1,
            MaxCount=1,
            TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
        )
        self._cloud.fault(Fault("RunInstances", times=_ALWAYS, delay_s=_LAUNCH_S))

    def things(self) -> list[str]:
        return [f"{kind} {id}" for kind, ids in self._cloud.left().items() for id in ids]

    def asked_for(self) -> int:
        return self._cloud.plugin.calls.count(("create", "aws:ec2/instance:Instance"))

    def launches(self, run: str) -> int:
        return sum(_tagged(each, run) for each in self._cloud.instances.all())

    def lives(self, run: str) -> bool:
        return any(_tagged(each, run) for each in self._cloud.live())


def _tagged(instance: Any, run: str) -> bool:
    return any(tag["value"] == run for tag in instance.row.get_tags())


class AzureWorld(VendorWorld):
    """A group with another owner's tags, and one without, with a network in each."""

    asked = 'provider="azure", gpu="T4:1", region="eastus", time="30m"'

    def __init__(self, cloud: Azure) -> None:
        self._cloud = cloud
        self.environment = cloud.environment()
        self.secrets = (self.environment["IDENTITY_HEADER"], cloud.token)
        super().__init__()

    def _settle(self) -> None:
        world = self._cloud.world
        base = f"/subscriptions/{world.subscription}/resourceGroups"
        for name, tags in ((f"dayfly-{_FOREIGN.id}", _FOREIGN.tags), (_NOT_OURS, {})):
            network = {"addressSpace": {"addressPrefixes": ["10.1.0.0/16"]}}
            body = {"location": "eastus", "tags": tags}
            world.put(f"{base}/{name}", body)
            _, made = world.put(
                f"{base}/{name}/providers/Microsoft.Network/virtualNetworks/{_NOT_OURS}",
                {**body, "properties": network},
            )
            world.wait(made)

    def things(self) -> list[str]:
        return [f"{each.type or 'group'} {each.id.text}" for each in self._cloud.world.all()]

    def asked_for(self) -> int:
        return self._cloud.calls.count(("create", "azure-native:compute:VirtualMachine"))

    def launches(self, run: str) -> int:
        accepted = [id for event, id in self._cloud.world.events if event == "accepted"]
        return sum(run in id and "/virtualMachines/" in id for id in accepted)

    def lives(self, run: str) -> bool:
        return any(run in each.id.text for each in self._cloud.world.live())


class GcpWorld(VendorWorld):
    """A network with another owner's name, and one of somebody who has never heard of us, each with a firewall rule."""

    asked = f'provider="gcp", gpu="T4", region="{_GCP_ZONE}", time="30m"'

    def __init__(self, cloud: Gcp) -> None:
        self._cloud = cloud
        self.environment = cloud.environment()
        super().__init__()
        cloud.set(create_s=_LAUNCH_S)

    def _settle(self) -> None:
        for name in (run_names.of(_FOREIGN), _NOT_OURS):
            said = f"of {_FOREIGN.owner}"
            network = self.post("networks", name, description=said, autoCreateSubnetworks=False)
            allowed = [{"IPProtocol": "tcp", "ports": ["22"]}]
            self.post("firewalls", name, description=said, network=network, allowed=allowed)

    def post(self, kind: str, name: str, **fields: Any) -> str:
        """Makes something global, and waits for it."""
        self._done(_ask(f"{self._base}/{kind}", {"name": name, **fields}))
        return f"projects/{self.environment['GOOGLE_CLOUD_PROJECT']}/global/{kind}/{name}"

    def delete(self, kind: str, name: str) -> None:
        """Ends it, and waits for that."""
        self._done(_ask(f"{self._base}/{kind}/{name}", {}, "DELETE"))

    def _done(self, operation: Mapping[str, Any]) -> None:
        done = _ask(f"{self._base}/operations/{operation['name']}/wait", {})
        assert not done.get("error"), done

    @property
    def _base(self) -> str:
        project = self.environment["GOOGLE_CLOUD_PROJECT"]
        return f"{self.environment['DAYFLY_GCP_URL']}/compute/v1/projects/{project}/global"

    def things(self) -> list[str]:
        return [f"{path.split('/')[-2]} {path}" for path in self._cloud.rows()]

    def asked_for(self) -> int:
        project = self.environment["GOOGLE_CLOUD_PROJECT"]
        base = f"{self.environment['DAYFLY_GCP_URL']}/compute/v1/projects/{project}"
        made = _ask(f"{base}/zones/{_GCP_ZONE}/operations", None, "GET")["items"]
        return sum(each["operationType"] == "insert" for each in made)

    def launches(self, run: str) -> int:
        return sum(run in each["instance"] for each in self._cloud.events("launch_accepted"))

    def lives(self, run: str) -> bool:
        return any(run in path for path in self._cloud.rows("instances"))


def _ask(url: str, body: Mapping[str, Any] | None, method: str = "POST") -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        return json.load(answer)


@contextlib.contextmanager
def _aws() -> Iterator[VendorWorld]:
    with Aws() as cloud:
        yield AwsWorld(cloud)


@contextlib.contextmanager
def _azure() -> Iterator[VendorWorld]:
    with Azure(AzureOptions(create_s=_LAUNCH_S)) as cloud:
        yield AzureWorld(cloud)


@contextlib.contextmanager
def _gcp() -> Iterator[VendorWorld]:
    with Gcp() as cloud:
        yield GcpWorld(cloud)


# Each is one for as long as its block lasts.
WORLDS: Mapping[str, Callable[[], contextlib.AbstractContextManager[VendorWorld]]] = {
    "aws": _aws,
    "azure": _azure,
    "gcp": _gcp,
}
