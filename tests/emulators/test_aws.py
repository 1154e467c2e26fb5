"""The emulated EC2 keeps the rules that moto does not: what it refuses, in EC2's own codes, and what becomes of its instances."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dayfly.infra import port_map
from tests.emulators.aws import Aws, Fault
from tests.emulators.until import until
from tests.namespaces import refusal

_UBUNTU = "ami-0b5e550000000c0de"
_GPU_IMAGE = "ami-0d15ea5e0000c0da1"


@pytest.fixture
def cloud() -> Iterator[Aws]:
    """An account without machines."""
    with Aws(machines=False) as world:
        yield world


def client(world: Aws, service: str = "ec2", region: str = "us-east-1", **others: str) -> Any:
    """boto3's, of the account's key."""
    import boto3
    from botocore.config import Config

    known = world.environment()
    given = {
        "aws_access_key_id": known["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": known["AWS_SECRET_ACCESS_KEY"],
        **others,
    }
    config = Config(retries={"mode": "standard", "total_max_attempts": 1})
    return boto3.Session().client(
        service, endpoint_url=world.url, region_name=region, config=config, **given
    )


@pytest.fixture
def ec2(cloud: Aws, tmp_path: Path) -> Any:
    """EC2 with the key pair "k"."""
    found = client(cloud)
    found.import_key_pair(KeyName="k", PublicKeyMaterial=_public_key(tmp_path).encode())
    return found


def _public_key(folder: Path) -> str:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "k")], check=True
    )
    return (folder / "k.pub").read_text()


def launch(ec2: Any, **others: Any) -> dict[str, Any]:
    """One small machine."""
    asked = {"ImageId": _UBUNTU, "InstanceType": "m7i.large", "KeyName": "k", **others}
    made: dict[str, Any] = ec2.run_instances(MinCount=1, MaxCount=1, **asked)["Instances"][0]
    return made


def code(act: Callable[[], object]) -> str:
    """With what it is refused."""
    from botocore.exceptions import ClientError

    with pytest.raises(ClientError) as caught:
        act()
    return str(caught.value.response["Error"]["Code"])


def volume(gb: int) -> list[dict[str, Any]]:
    """A root volume."""
    return [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": gb, "VolumeType": "gp3"}}]


def test_a_launch_is_made_once_for_one_token(cloud: Aws, ec2: Any) -> None:
    """Whoever asks again gets the same."""
    first = launch(ec2, ClientToken="once")
    again = launch(ec2, ClientToken="once")
    other = launch(ec2, ClientToken="twice")
    assert first["InstanceId"] == again["InstanceId"] != other["InstanceId"]
    assert len(cloud.live()) == 2


def test_what_a_launch_lacks_is_refused(cloud: Aws, ec2: Any) -> None:
    """Image, key, room for the image, and too much to say at the first boot."""
    assert code(lambda: launch(ec2, ImageId="ami-0abc")) == "InvalidAMIID.NotFound"
    assert code(lambda: launch(ec2, KeyName="other")) == "InvalidKeyPair.NotFound"
    small = {"ImageId": _GPU_IMAGE, "BlockDeviceMappings": volume(64)}
    assert code(lambda: launch(ec2, **small)) == "InvalidBlockDeviceMapping"
    assert code(lambda: launch(ec2, UserData="x" * 16385)) == "InvalidParameterValue"
    assert cloud.live() == []


def test_capacity_is_a_zone_s_and_a_refusal_names_the_others(cloud: Aws, ec2: Any) -> None:
    """Where no zone is named one that has some is taken."""
    from botocore.exceptions import ClientError

    first, second, *others = cloud.zones("us-east-1", "m7i.large")
    cloud.set_capacity("m7i.large", (first,), 0)
    with pytest.raises(ClientError, match=f"choosing {second}"):
        launch(ec2, Placement={"AvailabilityZone": first})
    assert launch(ec2)["Placement"]["AvailabilityZone"] == second
    cloud.set_capacity("m7i.large", (second, *others), 0)
    assert code(lambda: launch(ec2)) == "InsufficientInstanceCapacity"
    elsewhere = {"InstanceType": "p4d.24xlarge", "Placement": {"AvailabilityZone": first}}
    if first not in cloud.zones("us-east-1", "p4d.24xlarge"):
        assert code(lambda: launch(ec2, **elsewhere)) == "Unsupported"


def test_a_quota_is_of_vcpus(cloud: Aws, ec2: Any) -> None:
    """Those that are running count."""
    cloud.launches.quota_vcpus = 3
    launch(ec2)
    assert code(lambda: launch(ec2)) == "VcpuLimitExceeded"


def test_the_meter_is_of_seconds_and_of_a_minute_at_least(cloud: Aws, ec2: Any) -> None:
    """Machine, volume and address, from its launch until its end, whatever it is asked about later."""
    launch(ec2, InstanceType="g5.xlarge", ImageId=_GPU_IMAGE, BlockDeviceMappings=volume(100))
    (live,) = cloud.live()
    (bill,) = cloud.meter()
    assert bill.billed_s == 60
    assert bill.usd_per_hour == pytest.approx(live.usd_per_hour + 100 * 0.08 / 730 + 0.005)
    live.launched -= 90.0
    ec2.terminate_instances(InstanceIds=[live.row.id])
    until(lambda: not cloud.live())
    (ended,) = cloud.meter()
    (again,) = cloud.meter()
    assert ended == again
    assert 90 < ended.seconds <= ended.billed_s < ended.seconds + 1
    assert ended.dollars == pytest.approx(ended.billed_s * bill.usd_per_hour / 3600)


def test_another_key_than_the_account_s_is_refused(cloud: Aws) -> None:
    """By each service in its way."""
    wrong = {"aws_access_key_id": "AKIAWRONG"}
    assert code(lambda: client(cloud, **wrong).describe_regions()) == "AuthFailure"
    ssm = client(cloud, "ssm", **wrong)
    assert code(lambda: ssm.get_parameter(Name="/x")) == "UnrecognizedClientException"


def test_a_group_is_held_until_its_machine_has_ended(cloud: Aws, ec2: Any) -> None:
    """Which takes a while; tags of what is gone are gone."""
    tags = [{"ResourceType": "security-group", "Tags": [{"Key": "dayfly-run", "Value": "x"}]}]
    group = ec2.create_security_group(GroupName="g", Description="d", TagSpecifications=tags)[
        "GroupId"
    ]
    id = launch(ec2, SecurityGroupIds=[group])["InstanceId"]
    assert code(lambda: ec2.delete_security_group(GroupId=group)) == "DependencyViolation"
    (ended,) = ec2.terminate_instances(InstanceIds=[id])["TerminatingInstances"]
    assert ended["CurrentState"]["Name"] in ("shutting-down", "terminated")
    until(lambda: not cloud.live())
    ec2.delete_security_group(GroupId=group)
    assert ec2.describe_tags()["Tags"] == []


def test_a_fault_may_come_before_or_after_what_it_is_of(cloud: Aws, ec2: Any) -> None:
    """Once each; the second launch was carried out, and nobody was told."""
    cloud.fault(Fault("RunInstances", "InternalError", status=500))
    assert code(lambda: launch(ec2)) == "InternalError"
    assert cloud.live() == []
    cloud.fault(Fault("RunInstances", "InternalError", status=500, after=True))
    assert code(lambda: launch(ec2)) == "InternalError"
    assert len(cloud.live()) == 1
    launch(ec2)


def test_an_account_without_default_networks_launches_in_none() -> None:
    """A subnet has to be named."""
    with Aws(machines=False, default_vpc=False) as world:
        found = client(world)
        assert found.describe_vpcs()["Vpcs"] == []
        found.create_key_pair(KeyName="k")
        assert code(lambda: launch(found)) == "VPCIdNotSpecified"


class TestPlugin:
    """The stand-in for Pulumi's plugin."""

    def test_it_checks_what_the_real_one_checks(self) -> None:
        """Required properties, and values that cannot be."""
        from tests.emulators.aws.plugin import AwsPlugin

        plugin = AwsPlugin("a", "b")
        check = plugin.check
        assert check("aws:ec2/keyPair:KeyPair", {}) == [("publicKey", "Missing required argument")]
        assert check("aws:ec2/keyPair:KeyPair", {"publicKey": "rubbish"})[0][0] == "publicKey"
        wrong = {"ingress": [{"cidrBlocks": ["1.2.3.4/8"]}], "description": "a\nb"}
        assert [n for n, _ in check("aws:ec2/securityGroup:SecurityGroup", wrong)] == [
            "description",
            "cidrBlocks",
        ]
        instance = {"ami": "a", "instanceType": "t", "instanceInitiatedShutdownBehavior": "vanish"}
        assert (
            check("aws:ec2/instance:Instance", instance)[0][0]
            == "instanceInitiatedShutdownBehavior"
        )
        assert check("aws:s3/bucket:Bucket", {})

    def test_a_refusal_is_in_the_real_one_s_words_after_its_attempts(self, cloud: Aws) -> None:
        """As many in all as its configuration says."""
        from tests.emulators.plugin import Refusal

        settings = {
            "region": "us-east-1",
            "maxRetries": "2",
            "endpoints": f'[{{"ec2": "{cloud.url}"}}]',
        }
        cloud.fault(Fault("CreateVpc", "ServiceUnavailable", "later", 503, times=2))
        inputs = {"cidrBlock": "10.77.0.0/24"}
        with pytest.raises(
            Refusal, match=r"StatusCode: 503, RequestID: .*api error ServiceUnavailable: later"
        ):
            cloud.plugin.create(settings, "aws:ec2/vpc:Vpc", inputs)
        once = {**settings, "maxRetries": "1"}
        assert cloud.plugin.create(once, "aws:ec2/vpc:Vpc", inputs)

    def test_a_machine_is_changed_and_read_when_it_is_made(self, cloud: Aws, ec2: Any) -> None:
        """Its behaviour, which it was launched with; what a type that saves credits has of them; who may not ask has it half made."""
        from tests.emulators.plugin import HalfMade

        settings = {"region": "us-east-1", "endpoints": f'[{{"ec2": "{cloud.url}"}}]'}
        inputs = {
            "ami": _UBUNTU,
            "instanceType": "t3.large",
            "keyName": "k",
            "vpcSecurityGroupIds": [],
            "rootBlockDevice": {"volumeSize": 8},
            "instanceInitiatedShutdownBehavior": "terminate",
        }
        type = "aws:ec2/instance:Instance"
        id, outputs = cloud.plugin.create(settings, type, inputs)
        (live,) = cloud.live()
        assert live.row.instance_initiated_shutdown_behavior == "terminate"
        assert cloud.calls("DescribeInstanceCreditSpecifications") == 1
        cloud.plugin.delete(settings, type, id, outputs)
        cloud.fault(Fault("ModifyInstanceAttribute", "UnauthorizedOperation", "no", 403))
        with pytest.raises(HalfMade, match="api error UnauthorizedOperation: no") as caught:
            cloud.plugin.create(settings, type, inputs)
        cloud.plugin.delete(settings, type, caught.value.id, caught.value.outputs)
        assert cloud.live() == []

    def test_the_request_of_a_spot_machine_is_read_and_cancelled(
        self, cloud: Aws, ec2: Any
    ) -> None:
        """Before the machine is ended; that it cannot be protected is no obstacle."""
        settings = {"region": "us-east-1", "endpoints": f'[{{"ec2": "{cloud.url}"}}]'}
        market = {"spotInstanceType": "one-time", "instanceInterruptionBehavior": "terminate"}
        inputs = {
            "ami": _GPU_IMAGE,
            "instanceType": "g5.xlarge",
            "keyName": "k",
            "vpcSecurityGroupIds": [],
            "rootBlockDevice": {"volumeSize": 65},
            "instanceMarketOptions": {"marketType": "spot", "spotOptions": market},
        }
        type = "aws:ec2/instance:Instance"
        id, outputs = cloud.plugin.create(settings, type, inputs)
        request = outputs["spotInstanceRequestId"]
        (said,) = ec2.describe_spot_instance_requests(SpotInstanceRequestIds=[request])[
            "SpotInstanceRequests"
        ]
        assert (said["InstanceId"], said["State"], said["Type"]) == (id, "active", "one-time")
        protected = {"InstanceId": id, "DisableApiTermination": {"Value": True}}
        assert code(lambda: ec2.modify_instance_attribute(**protected)) == "UnsupportedOperation"
        cloud.plugin.delete(settings, type, id, outputs)
        assert cloud.front.spot_requests.cancelled == [request]
        assert cloud.live() == []
        unknown = {"SpotInstanceRequestIds": ["sir-00000000"]}
        why = "InvalidSpotInstanceRequestID.NotFound"
        assert code(lambda: ec2.cancel_spot_instance_requests(**unknown)) == why

    def test_a_group_whose_rules_are_refused_is_half_made(self, cloud: Aws) -> None:
        """The engine gets its id, and can destroy it."""
        from tests.emulators.plugin import HalfMade

        settings = {"region": "us-east-1", "endpoints": f'[{{"ec2": "{cloud.url}"}}]'}
        cloud.fault(Fault("AuthorizeSecurityGroupIngress", "UnauthorizedOperation", "no", 403))
        rule = {"protocol": "tcp", "fromPort": 22, "toPort": 22, "cidrBlocks": ["1.2.3.4/32"]}
        inputs = {"name": "g", "ingress": [rule], "egress": []}
        type = "aws:ec2/securityGroup:SecurityGroup"
        with pytest.raises(HalfMade) as caught:
            cloud.plugin.create(settings, type, inputs)
        assert cloud.left() == {"group": [caught.value.id]}
        cloud.plugin.delete(settings, type, caught.value.id, {})
        cloud.plugin.delete(settings, type, caught.value.id, {})
        assert cloud.left() == {}


@pytest.mark.sshd
@pytest.mark.skipif(bool(refusal()), reason="machines need namespaces and root")
def test_what_switches_itself_off_stops_or_ends_as_its_launch_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine is a real one, whose SSH server the map knows, and nothing of it is left."""
    with Aws() as world:
        ec2 = client(world)
        ec2.import_key_pair(KeyName="k", PublicKeyMaterial=_public_key(tmp_path).encode())
        stops = launch(ec2)
        ends = launch(ec2, InstanceInitiatedShutdownBehavior="terminate")
        monkeypatch.setenv(port_map.VARIABLE, world.environment()[port_map.VARIABLE])
        id = f"us-east-1/{ends['InstanceId']}"
        host, port = port_map.endpoint(id, "203.0.113.1", 22)
        login = ["ssh", "-i", str(tmp_path / "k"), "-p", str(port), "-o", "BatchMode=yes"]
        login += ["-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={tmp_path}/known"]
        until(
            lambda: subprocess.run([*login, f"ubuntu@{host}", "true"], check=False).returncode == 0
        )
        until(lambda: len(world.events("user_data_applied")) == 2)
        for each in world.live():
            assert each.machine is not None
            each.machine.run(["poweroff"])

        def state(id: str) -> str:
            row = ec2.describe_instances(InstanceIds=[id])["Reservations"][0]["Instances"][0]
            return f"{row['State']['Name']} {row['StateReason']['Code']}"

        why = "Client.InstanceInitiatedShutdown"
        until(lambda: state(ends["InstanceId"]) == f"terminated {why}")
        until(lambda: state(stops["InstanceId"]) == f"stopped {why}")
