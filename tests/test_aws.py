"""provider="aws" through boto3 against a real HTTP server: what is listed, ended, told and let in, and what its errors mean."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dayfly.errors import ConfigurationError
from dayfly.infra import aws_errors, aws_inventory, aws_network, aws_resources, aws_session, caller
from dayfly.infra.aws_errors import AwsError, mapped
from dayfly.infra.aws_ids import AwsId, zone_of, zones_named
from dayfly.infra.caller import Allowed
from dayfly.infra.found import Found
from dayfly.infra.offers import Offer
from dayfly.infra.providers.aws import PROVIDER
from dayfly.infra.run import Run
from tests.emulators.aws import Aws, Fault
from tests.emulators.until import until

MINE = Run("a" * 32, "me", 1000.0, 4600.0, Path(), "", "")
OTHER = Run("b" * 32, "somebody", 1000.0, 4600.0, Path(), "", "")
_IMAGE = "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"
_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """An empty account without machines, as the environment tells of it."""
    with Aws(machines=False, ending_s=0.1) as world:
        for name, value in world.environment().items():
            monkeypatch.setenv(name, value)
        yield world


def specified(run: Run | None, *kinds: str) -> list[dict[str, Any]]:
    """Tags as boto3 takes them; none of ours for None."""
    tags = run.tags if run else {"team": "others"}
    rows = [{"Key": name, "Value": value} for name, value in tags.items()]
    return [{"ResourceType": kind, "Tags": rows} for kind in kinds]


def launch(
    run: Run | None, region: str = "us-east-1", *, spot: bool = False, name: str = "k"
) -> str:
    """A key, a group and an instance of a run.

    Returns:
        The instance's id, as we have it.
    """
    ec2 = aws_session.client("ec2", region)
    image = aws_session.client("ssm", region).get_parameter(Name=_IMAGE)["Parameter"]["Value"]
    ec2.import_key_pair(
        KeyName=name, PublicKeyMaterial=_KEY.encode(), TagSpecifications=specified(run, "key-pair")
    )
    group = ec2.create_security_group(
        GroupName=name, Description="d", TagSpecifications=specified(run, "security-group")
    )["GroupId"]
    market = {"MarketType": "spot", "SpotOptions": {"SpotInstanceType": "one-time"}}
    made = ec2.run_instances(
        ImageId=image,
        InstanceType="m7i.large",
        MinCount=1,
        MaxCount=1,
        KeyName=name,
        SecurityGroupIds=[group],
        TagSpecifications=specified(run, "instance", "volume"),
        **({"InstanceMarketOptions": market} if spot else {}),
    )
    return f"{region}/{made['Instances'][0]['InstanceId']}"


def kinds(found: list[Found]) -> list[str]:
    """What was listed, by kind."""
    return sorted(each.kind for each in found)


class TestInventory:
    """The listing from which absence is concluded."""

    def test_all_of_a_run_is_listed_in_every_region_with_its_tags(self, cloud: Aws) -> None:
        """And nothing of another owner's."""
        ids = {launch(MINE), launch(MINE, "eu-west-1")}
        launch(OTHER, name="theirs")
        found = aws_inventory.inventory("me")
        assert kinds(found) == sorted(["instance", "key", "network", "disk"] * 2)
        assert {each.id for each in found if each.kind == "instance"} == ids
        assert {each.run for each in found} == {MINE.id}
        assert all(dict(each.tags) == MINE.tags for each in found)

    def test_without_an_owner_strange_instances_are_listed_without_tags(self, cloud: Aws) -> None:
        """Everybody's of ours beside them."""
        launch(OTHER)
        strange = launch(None, name="strange")
        found = aws_inventory.inventory(None)
        assert kinds(found) == ["disk", "instance", "instance", "key", "network"]
        assert [each.tags for each in found if each.id == strange] == [{}]

    def test_a_region_that_cannot_be_asked_leaves_no_half_of_a_listing(self, cloud: Aws) -> None:
        """What to do where a whole region is denied is said."""
        cloud.fault(Fault("DescribeTags", "UnauthorizedOperation", "explicit deny", 403, times=9))
        with pytest.raises(AwsError) as caught:
            aws_inventory.inventory("me")
        assert caught.value.kind == "auth"
        assert "DAYFLY_AWS_REGIONS" in "".join(caught.value.__notes__)

    def test_a_throttled_listing_is_asked_again(self, cloud: Aws) -> None:
        """By boto3 itself."""
        launch(MINE)
        cloud.fault(
            Fault("DescribeInstances", "RequestLimitExceeded", "Request limit exceeded.", 503)
        )
        assert len(aws_inventory.inventory("me")) == 4

    def test_regions_can_be_set(self, cloud: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
        """As a list of names; anything else is refused."""
        assert aws_inventory.regions() == ["eu-west-1", "us-east-1", "us-east-2"]
        monkeypatch.setenv("DAYFLY_AWS_REGIONS", " us-east-2, eu-west-1")
        assert aws_inventory.regions() == ["us-east-2", "eu-west-1"]
        monkeypatch.setenv("DAYFLY_AWS_REGIONS", "us-east-2b")
        with pytest.raises(ConfigurationError, match="'us-east-2b' is no region"):
            aws_inventory.regions()

    def test_what_is_left_of_a_run_is_looked_for_in_its_own_regions_alone(
        self, cloud: Aws, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One region that cannot be asked leaves the others' runs provable; a setting cannot hide a run's own."""
        launch(MINE, "eu-west-1")
        launch(OTHER, "eu-west-1", name="theirs")
        monkeypatch.setenv("DAYFLY_AWS_REGIONS", "us-east-2")
        before = len(cloud.front.calls)
        found = PROVIDER.left_of(MINE.id, "me", ["eu-west-1b"])
        assert kinds(list(found)) == ["disk", "instance", "key", "network"]
        assert {region for region, _ in cloud.front.calls[before:]} == {"eu-west-1"}
        assert PROVIDER.left_of(MINE.id, "me") == []
        monkeypatch.delenv("DAYFLY_AWS_REGIONS")
        for where in ((), ("eu-west-1", "")):
            assert len(PROVIDER.left_of(MINE.id, "me", where)) == 4


class TestNetwork:
    """Which of the subnets that AWS makes for everybody a machine is put in."""

    def test_ec2_chooses_where_all_of_them_give_addresses(self, cloud: Aws) -> None:
        """A zone that is named has its own."""
        one = aws_network.default_subnet("us-east-1", "us-east-1b", "g5.xlarge", certain=True)
        assert str(one).startswith("subnet-")
        assert aws_network.default_subnet("us-east-1", "", "g5.xlarge", certain=True) == ""

    def test_one_that_gives_no_address_is_named_so_that_one_is_asked_for(self, cloud: Aws) -> None:
        """In a zone that has the machine; where there is none left, a network of the run's own takes its place."""
        ec2 = aws_session.client("ec2", "us-east-1")
        subnets = {each["AvailabilityZone"]: each["SubnetId"] for each in _subnets(ec2)}
        for id in subnets.values():
            ec2.modify_subnet_attribute(SubnetId=id, MapPublicIpOnLaunch={"Value": False})
        sold = cloud.zones("us-east-1", "p4d.24xlarge")
        assert set(sold) < set(subnets)
        found = aws_network.default_subnet("us-east-1", "", "p4d.24xlarge", certain=True)
        assert found == subnets[sold[0]]
        ec2.delete_subnet(SubnetId=subnets[sold[0]])
        assert aws_network.default_subnet("us-east-1", sold[0], "g5.xlarge", certain=True) is None
        for zone, id in subnets.items():
            if zone != sold[0]:
                ec2.delete_subnet(SubnetId=id)
        assert aws_network.default_subnet("us-east-1", "", "g5.xlarge", certain=True) is None

    def test_what_was_asked_ahead_is_not_asked_again(
        self, cloud: Aws, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The recorder and the program of a rung are two that would ask; a refusal is left to them."""
        monkeypatch.setattr(aws_network, "_known", {})
        offer = Offer("aws", "us-east-1b", "g5.xlarge", 4, 16 << 30, 1.0)
        cloud.fault(Fault("DescribeSubnets", "UnauthorizedOperation", "deny", 403, times=1))
        aws_resources.ask_ahead(offer)
        asked = [aws_network.default_subnet("us-east-1", "us-east-1b", "g5.xlarge", certain=True)]
        aws_resources.ask_ahead(offer)
        session = aws_session.client("ec2", "us-east-1")._endpoint.http_session
        assert not len(session._manager.pools), "a fork would share its connection"
        before = len(cloud.front.calls)
        for _ in range(2):
            asked.append(
                aws_network.default_subnet("us-east-1", "us-east-1b", "g5.xlarge", certain=True)
            )
        assert len(set(asked)) == 1
        assert str(asked[0]).startswith("subnet-")
        assert cloud.front.calls[before:] == []

    def test_who_must_not_ask_assumes_them_and_a_run_has_to_know(self, cloud: Aws) -> None:
        """A preview has no use for a refusal."""
        denied = Fault("DescribeSubnets", "UnauthorizedOperation", "explicit deny", 403, times=2)
        cloud.fault(denied)
        assert aws_network.default_subnet("us-east-1", "", "g5.xlarge", certain=False) == ""
        with pytest.raises(AwsError, match="UnauthorizedOperation"):
            aws_network.default_subnet("us-east-1", "", "g5.xlarge", certain=True)


def _subnets(ec2: Any) -> list[dict[str, Any]]:
    filters = [{"Name": "default-for-az", "Values": ["true"]}]
    return list(ec2.describe_subnets(Filters=filters)["Subnets"])


class TestEnd:
    """What is ended, and how."""

    def test_everything_ends_in_rounds_since_one_thing_holds_another(self, cloud: Aws) -> None:
        """A group in use is left for the next one."""
        launch(MINE)
        launch(OTHER, name="theirs")

        def round() -> bool:
            found = aws_inventory.inventory("me")
            for each in found:
                PROVIDER.terminate(each)
            return not found

        assert not round()
        until(round)
        assert kinds(aws_inventory.inventory(None)) == ["disk", "instance", "key", "network"]

    def test_a_network_of_a_run_s_own_ends_too(self, cloud: Aws) -> None:
        """Gateway, routes, subnet and all."""
        ec2 = aws_session.client("ec2", "us-east-1")
        vpc = ec2.create_vpc(CidrBlock="10.77.0.0/24", TagSpecifications=specified(MINE, "vpc"))[
            "Vpc"
        ]["VpcId"]
        subnet = ec2.create_subnet(
            VpcId=vpc, CidrBlock="10.77.0.0/24", TagSpecifications=specified(MINE, "subnet")
        )["Subnet"]["SubnetId"]
        gateway = ec2.create_internet_gateway(TagSpecifications=specified(MINE, "internet-gateway"))
        ec2.attach_internet_gateway(
            InternetGatewayId=gateway["InternetGateway"]["InternetGatewayId"], VpcId=vpc
        )
        table = ec2.create_route_table(VpcId=vpc, TagSpecifications=specified(MINE, "route-table"))
        ec2.associate_route_table(RouteTableId=table["RouteTable"]["RouteTableId"], SubnetId=subnet)
        assert kinds(aws_inventory.inventory("me")) == ["network"] * 4
        for _ in range(3):
            for each in aws_inventory.inventory("me"):
                PROVIDER.terminate(each)
        assert aws_inventory.inventory("me") == []
        assert cloud.left() == {}

    def test_what_is_gone_is_ended(self, cloud: Aws) -> None:
        """Whatever its kind, and whatever is no id at all."""
        for id in ("i-0a", "vol-0a", "key-0a", "sg-0a", "subnet-0a", "rtb-0a", "igw-0a", "vpc-0a"):
            PROVIDER.terminate(Found("instance", f"us-east-1/{id}"))
        PROVIDER.terminate(Found("instance", "i-0a"))

    def test_a_refusal_is_none(self, cloud: Aws) -> None:
        """A policy that forbids it must not look like an end."""
        id = launch(MINE)
        cloud.fault(Fault("TerminateInstances", "UnauthorizedOperation", "not authorized", 403))
        with pytest.raises(AwsError, match="UnauthorizedOperation"):
            PROVIDER.terminate(Found("instance", id))
        assert PROVIDER.instance_state(id) == "running"
        with pytest.raises(AwsError, match="nobody knows"):
            PROVIDER.terminate(Found("network", "us-east-1/lgw-0a"))


class TestState:
    """The standard words."""

    def test_an_instance_that_is_ended_is_stopping_and_then_terminated(self, cloud: Aws) -> None:
        """Its address goes with it."""
        id = launch(MINE)
        assert PROVIDER.instance_state(id) == "running"
        host, port = PROVIDER.address(id) or ("", 0)
        assert (host[:3], port) in (("198", 22), ("203", 22), ("192", 22))
        PROVIDER.terminate(Found("instance", id))
        assert PROVIDER.instance_state(id) == "stopping"
        until(lambda: PROVIDER.instance_state(id) == "terminated")
        assert PROVIDER.address(id) is None

    def test_one_that_ec2_takes_back_is_preempted(self, cloud: Aws) -> None:
        """From the moment at which it is not billed any more."""
        id = launch(MINE, spot=True)
        cloud.preempt(id)
        assert PROVIDER.instance_state(id) == "preempted"
        until(lambda: not cloud.live())
        assert PROVIDER.instance_state(id) == "preempted"
        assert [f.kind for f in aws_inventory.inventory("me") if f.kind == "instance"] == []

    def test_one_that_has_only_stopped_has_still_to_be_ended(self, cloud: Aws) -> None:
        """Its disk is there, and may be billed."""
        id = launch(MINE)
        aws_session.client("ec2", "us-east-1").stop_instances(InstanceIds=[id.partition("/")[2]])
        assert PROVIDER.instance_state(id) == "unhealthy"

    def test_one_that_nobody_knows_is_unknown(self, cloud: Aws) -> None:
        """No error."""
        assert PROVIDER.instance_state("us-east-1/i-0123456789abcdef0") == "unknown"
        assert PROVIDER.instance_state("i-0123456789abcdef0") == "unknown"


class TestAdmit:
    """A client that has moved."""

    def test_this_computer_is_let_in_once_by_the_run_s_own_group(
        self, cloud: Aws, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What it lets in already stays; an address that cannot be found out lets nobody in."""
        id = launch(MINE)
        monkeypatch.setattr(caller, "own", lambda _: Allowed("198.51.100.9/32", "a test"))
        assert PROVIDER.admit(id) == "22/tcp from 198.51.100.9/32 (a test)"
        assert PROVIDER.admit(id) == ""
        monkeypatch.setattr(caller, "own", lambda _: Allowed("198.51.100.10/32", "a test"))
        assert PROVIDER.admit(id) != ""
        (group,) = cloud.live()[0].row.security_groups
        assert [rule.ip_range["CidrIp"] for rule in group.ingress_rules] == [
            "198.51.100.9/32",
            "198.51.100.10/32",
        ]
        monkeypatch.setattr(caller, "own", lambda _: None)
        assert PROVIDER.admit(id) == ""

    def test_nobody_is_let_in_by_a_group_of_others(
        self, cloud: Aws, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is not tagged ours is never touched."""
        id = launch(None)
        monkeypatch.setattr(caller, "own", lambda _: Allowed("198.51.100.9/32", "a test"))
        assert PROVIDER.admit(id) == ""
        assert PROVIDER.admit("us-east-1/i-0123456789abcdef0") == ""
        assert cloud.calls("AuthorizeSecurityGroupIngress") == 0


class TestCredentials:
    """By reference, as all of AWS's own tools find them."""

    def test_without_any_the_fix_is_said_and_nobody_is_asked(self) -> None:
        """Not even a metadata service, for which a laptop would wait in vain (no test may reach out)."""
        (missing,) = PROVIDER.preflight()
        assert "aws configure" in missing
        assert not PROVIDER.is_configured()

    def test_a_profile_is_enough(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its region, too; one that is named and not there is as good as none."""
        file = tmp_path / "credentials"
        file.write_text(
            "[lab]\naws_access_key_id = AKIAX\naws_secret_access_key = y\nregion = eu-west-1\n"
        )
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
        assert not PROVIDER.is_configured()
        monkeypatch.setenv("AWS_PROFILE", "lab")
        assert PROVIDER.is_configured()
        assert aws_session.home_region() == "eu-west-1"
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        assert not PROVIDER.is_configured()
        with pytest.raises(AwsError, match="nobody"):
            aws_session.home_region()

    def test_a_wrong_key_is_told_as_that(self, cloud: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
        """With where the permissions are listed."""
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAWRONG")
        with pytest.raises(AwsError, match="AuthFailure") as caught:
            aws_inventory.inventory("me")
        assert caught.value.kind == "auth"
        assert "docs/aws.md" in str(caught.value)


def _said(code: str, message: str, status: int = 400, doing: str = "creating EC2 Instance") -> str:
    """As the engine passes it on."""
    return (
        "Diagnostics:\n  aws:ec2:Instance (instance):\n    error: 1 error occurred:\n"
        f"    \t* {doing}: operation error EC2: RunInstances, https response error StatusCode: {status}, RequestID:"
        f" 4a7d3c0e-5c64-4b0e-9a8f-0c1a2b3c4d5e, api error {code}: {message}"
    )


_RECORDED = [
    (
        _said(
            "InsufficientInstanceCapacity",
            "We currently do not have sufficient p4d.24xlarge capacity in the Availability Zone you requested"
            " (us-east-1a). Our system will be working on provisioning additional capacity. You can currently get"
            " p4d.24xlarge capacity by not specifying an Availability Zone in your request or choosing us-east-1b,"
            " us-east-1c.",
            500,
        ),
        "capacity",
        ("us-east-1b", "us-east-1c"),
    ),
    (
        _said(
            "InsufficientInstanceCapacity",
            "We currently do not have sufficient g5.xlarge capacity in zones with support for 'gp3' volumes. Our system"
            " will be working on provisioning additional capacity.",
            500,
        ),
        "capacity",
        (),
    ),
    (
        _said(
            "Unsupported",
            "Your requested instance type (p5.48xlarge) is not supported in your requested Availability Zone"
            " (us-east-1e). Please retry your request by not specifying an Availability Zone or choosing us-east-1a,"
            " us-east-1b, us-east-1f.",
        ),
        "capacity",
        ("us-east-1a", "us-east-1b", "us-east-1f"),
    ),
    (
        _said(
            "VcpuLimitExceeded",
            "You have requested more vCPU capacity than your current vCPU limit of 0 allows for the instance bucket that"
            " the specified instance type belongs to. Please visit http://aws.amazon.com/contact-us/ec2-request to"
            " request an adjustment to this limit.",
        ),
        "quota",
        (),
    ),
    (_said("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded"), "quota", ()),
    (
        _said("UnauthorizedOperation", "You are not authorized to perform this operation.", 403),
        "auth",
        (),
    ),
    (_said("RequestLimitExceeded", "Request limit exceeded.", 503), "rate_limit", ()),
    (
        _said("InvalidAMIID.NotFound", "The image id '[ami-0abc]' does not exist"),
        "invalid",
        (),
    ),
    (
        "error: 1 error occurred:\n\t* waiting for EC2 Instance (i-0abc) create: unexpected state 'terminated', wanted"
        " target 'running'. last error: Client.VolumeLimitExceeded: Volume limit exceeded",
        "quota",
        (),
    ),
    (
        "error: 1 error occurred:\n\t* waiting for EC2 Instance (i-0abc) create: unexpected state 'shutting-down', wanted"
        " target 'running'. last error: Server.InsufficientInstanceCapacity: Insufficient capacity",
        "capacity",
        (),
    ),
    ("error: could not reach us-east-1; choosing us-east-1b", "unknown", ()),
]


@pytest.mark.parametrize(("text", "kind", "zones"), _RECORDED)
def test_a_failure_is_told_apart_by_the_code_in_the_engine_s_words(
    text: str, kind: str, zones: tuple[str, ...]
) -> None:
    """And zones are only taken from a refusal for want of capacity."""
    assert PROVIDER.failure(text) == kind
    assert tuple(PROVIDER.regions_named(text)) == zones


def test_our_own_errors_are_told_apart_by_the_same_pattern() -> None:
    """Whoever reads only the text comes to the same kind."""
    for code, kind in aws_errors.KINDS.items():
        error = AwsError("asking", code, "no")
        assert (error.kind, PROVIDER.failure(str(error))) == (kind, kind), code


def test_everything_that_botocore_raises_becomes_one_of_ours() -> None:
    """Also what it will raise that nobody has thought of: all have one base."""
    import botocore.exceptions

    classes: list[Any] = [
        each
        for _, each in inspect.getmembers(botocore.exceptions, inspect.isclass)
        if issubclass(each, botocore.exceptions.BotoCoreError)
    ]
    assert len(classes) > 50
    for each in classes:
        error = each.__new__(each)
        Exception.__init__(error, "what was wrong")
        with pytest.raises(AwsError, match="what was wrong"), mapped("asking"):
            raise error
    told = {"Error": {"Code": "SomethingNew", "Message": "who knows"}}
    with pytest.raises(AwsError) as caught, mapped("asking"):
        raise botocore.exceptions.ClientError(told, "RunInstances")
    assert (caught.value.code, caught.value.kind) == ("SomethingNew", "unknown")


def test_a_quota_holds_for_its_region_its_family_and_its_way_of_buying() -> None:
    """The rest of the ladder is worth trying."""
    tried = Offer("aws", "us-east-1a", "g5.xlarge", 4, 1, 1.0, 1, "A10G")
    others = {
        "the same elsewhere in the region": ("us-east-1b", "g6.xlarge", False, True),
        "spot": ("us-east-1b", "g5.xlarge", True, False),
        "another family": ("us-east-1a", "p5.4xlarge", False, False),
        "an ordinary one": ("us-east-1a", "m7i.large", False, False),
        "another region": ("us-east-2", "g5.xlarge", False, False),
    }
    for what, (region, type, spot, expected) in others.items():
        other = Offer("aws", region, type, 4, 1, 1.0, 1, spot=spot)
        assert PROVIDER.rules_out("api error VcpuLimitExceeded: x", tried, other) == expected, what
    volume = "api error VolumeLimitExceeded: x"
    here = Offer("aws", "us-east-1c", "p5.4xlarge", 4, 1, 1.0, 1)
    assert PROVIDER.rules_out(volume, tried, here)


def test_ids_have_their_region() -> None:
    """Without one there is nothing of that name."""
    assert AwsId.of("us-gov-west-1/i-0abc") == AwsId("us-gov-west-1", "i-0abc")
    assert [AwsId.of(text) for text in ("i-0abc", "us-east-1/", "us-east-1b/i-0", "/i-0")] == [
        None
    ] * 4
    assert zone_of("ap-southeast-3c") == ("ap-southeast-3", "ap-southeast-3c")
    assert zones_named("in (us-east-1a) or us-east-1b, us-east-1b") == ("us-east-1a", "us-east-1b")


def test_an_emulator_on_this_computer_has_no_lag(
    cloud: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS has: a listing may miss what exists."""
    assert PROVIDER.limits.listing_lag_s < 1
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert PROVIDER.limits.listing_lag_s >= 20
    assert PROVIDER.limits.deadline_action == "poweroff"


def test_an_account_is_asked_for_once_for_each_of_the_credentials(
    cloud: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an API that everybody may use; with none there is no account."""
    assert [PROVIDER.place(), PROVIDER.place()] == ["123456789012"] * 2
    assert cloud.calls("GetCallerIdentity") == 1
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOTHER")
    with pytest.raises(AwsError):
        PROVIDER.place()


def test_where_nothing_tells_of_credentials_nobody_loads_the_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a file of the user's, or a variable, is enough for it to be asked."""
    for name in (*aws_session.CREDENTIALS, *aws_session.PLACES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(aws_session, "_DMI", tmp_path / "none")
    with monkeypatch.context() as without:
        without.setattr(aws_session, "_session", None)
        assert not aws_session.has_credentials()
    (tmp_path / ".aws").mkdir()
    keys = "[default]\naws_access_key_id = AKIA\naws_secret_access_key = secret\n"
    (tmp_path / ".aws" / "credentials").write_text(keys)
    aws_session._session.cache_clear()
    assert aws_session.has_credentials()
    (tmp_path / ".aws" / "credentials").unlink()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert aws_session.has_credentials()
    aws_session._session.cache_clear()
