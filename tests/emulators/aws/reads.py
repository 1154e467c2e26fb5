"""What the plugin asks EC2 for once a resource has been made: the rest of an update, and a first read of it.

Of the real one, whose create ends so and whose calls need permissions:
https://github.com/hashicorp/terraform-provider-aws, internal/service/ec2: ec2_instance.go (`resourceInstanceUpdate`,
`resourceInstanceRead`), ec2_key_pair.go, vpc_.go, vpc_subnet.go, vpc_security_group.go, vpc_internet_gateway.go, vpc_route_table.go,
vpc_route_table_association.go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.emulators.aws.words import worded
from tests.emulators.plugin import HalfMade, Refusal, Values

_INSTANCE_ATTRIBUTES = (
    "instanceInitiatedShutdownBehavior",
    "disableApiStop",
    "disableApiTermination",
    "userData",
)
_VPC_ATTRIBUTES = ("enableDnsHostnames", "enableDnsSupport", "enableNetworkAddressUsageMetrics")


def read(ec2: Any, type: str, id: str, outputs: Values) -> Values:
    """What else is known of it then.

    Raises:
        HalfMade: EC2 refuses one of the questions; the thing is there.
    """
    try:
        return _READS[type](ec2, id, outputs)
    except Refusal as refusal:
        raise HalfMade(id, {**outputs, "id": id}, str(refusal)) from refusal


def _instance(ec2: Any, id: str, outputs: Values) -> Values:
    if behaviour := outputs.get("instanceInitiatedShutdownBehavior"):
        # Also of a new one, which has been launched with it.
        with worded(f"updating EC2 Instance ({id})", "EC2", "ModifyInstanceAttribute"):
            ec2.modify_instance_attribute(
                InstanceId=id, InstanceInitiatedShutdownBehavior={"Value": behaviour}
            )
    doing = f"reading EC2 Instance ({id})"
    with worded(doing, "EC2", "DescribeInstances"):
        row = ec2.describe_instances(InstanceIds=[id])["Reservations"][0]["Instances"][0]
    with worded(doing, "EC2", "DescribeInstanceTypes"):
        (kind,) = ec2.describe_instance_types(InstanceTypes=[row["InstanceType"]])["InstanceTypes"]
    volumes = [each["Ebs"]["VolumeId"] for each in row["BlockDeviceMappings"]]
    # A template that it was launched from would be in its tags; those of its volumes are no part of it.
    for of in (id, *volumes):
        with worded(doing, "EC2", "DescribeTags"):
            ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [of]}])
    with worded(doing, "EC2", "DescribeVolumes"):
        ec2.describe_volumes(VolumeIds=volumes)
    with worded(doing, "EC2", "DescribeVpcs"):
        ec2.describe_vpcs(VpcIds=[row["VpcId"]])
    for attribute in _INSTANCE_ATTRIBUTES:
        with worded(doing, "EC2", "DescribeInstanceAttribute"):
            ec2.describe_instance_attribute(InstanceId=id, Attribute=attribute)
    if kind.get("BurstablePerformanceSupported"):
        with worded(doing, "EC2", "DescribeInstanceCreditSpecifications"):
            ec2.describe_instance_credit_specifications(InstanceIds=[id])
    request = row.get("SpotInstanceRequestId")
    if not request:
        return {}
    doing = f"reading EC2 Spot Instance Request ({request})"
    with worded(doing, "EC2", "DescribeSpotInstanceRequests"):
        ec2.describe_spot_instance_requests(SpotInstanceRequestIds=[request])
    return {"spotInstanceRequestId": request, "instanceLifecycle": "spot"}


def _vpc(ec2: Any, id: str, _outputs: Values) -> Values:
    doing, of = f"reading EC2 VPC ({id})", [{"Name": "vpc-id", "Values": [id]}]
    with worded(doing, "EC2", "DescribeVpcs"):
        ec2.describe_vpcs(VpcIds=[id])
    for attribute in _VPC_ATTRIBUTES:
        with worded(doing, "EC2", "DescribeVpcAttribute"):
            ec2.describe_vpc_attribute(VpcId=id, Attribute=attribute)
    with worded(doing, "EC2", "DescribeNetworkAcls"):
        ec2.describe_network_acls(Filters=[*of, {"Name": "default", "Values": ["true"]}])
    with worded(doing, "EC2", "DescribeRouteTables"):
        ec2.describe_route_tables(Filters=[*of, {"Name": "association.main", "Values": ["true"]}])
    with worded(doing, "EC2", "DescribeSecurityGroups"):
        ec2.describe_security_groups(Filters=[*of, {"Name": "group-name", "Values": ["default"]}])
    return {}


def _association(ec2: Any, id: str, outputs: Values) -> Values:
    doing = f"reading EC2 Route Table Association ({id})"
    with worded(doing, "EC2", "DescribeRouteTables"):
        ec2.describe_route_tables(RouteTableIds=[outputs["routeTableId"]])
    return {}


def _by(operation: str, name: str, what: str) -> Callable[[Any, str, Values], Values]:
    """A read that is one listing of the thing itself."""
    from botocore import xform_name

    method = xform_name(operation)

    def one(ec2: Any, id: str, _outputs: Values) -> Values:
        with worded(f"reading {what} ({id})", "EC2", operation):
            getattr(ec2, method)(**{name: [id]})
        return {}

    return one


_READS: Mapping[str, Callable[[Any, str, Values], Values]] = {
    "aws:ec2/keyPair:KeyPair": _by("DescribeKeyPairs", "KeyNames", "EC2 Key Pair"),
    "aws:ec2/vpc:Vpc": _vpc,
    "aws:ec2/subnet:Subnet": _by("DescribeSubnets", "SubnetIds", "EC2 Subnet"),
    "aws:ec2/internetGateway:InternetGateway": _by(
        "DescribeInternetGateways", "InternetGatewayIds", "EC2 Internet Gateway"
    ),
    "aws:ec2/routeTable:RouteTable": _by("DescribeRouteTables", "RouteTableIds", "EC2 Route Table"),
    "aws:ec2/routeTableAssociation:RouteTableAssociation": _association,
    "aws:ec2/securityGroup:SecurityGroup": _by(
        "DescribeSecurityGroups", "GroupIds", "EC2 Security Group"
    ),
    "aws:ec2/instance:Instance": _instance,
}
