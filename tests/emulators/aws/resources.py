"""How each type of resource is made by EC2 and deleted there, waited for in between as the plugin does."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.emulators.aws.words import worded
from tests.emulators.plugin import HalfMade, Refusal, Values

_WAIT_S, _STEP_S = 60.0, 0.05


def until_true(true: Callable[[], bool], doing: str) -> None:
    end = time.monotonic() + _WAIT_S
    while not true():
        if time.monotonic() > end:
            raise Refusal(
                f"1 error occurred:\n\t* {doing}: timeout while waiting for state to become 'gone'\n\n"
            )
        time.sleep(_STEP_S)


def specified(kind: str, tags: Mapping[str, str]) -> list[dict[str, Any]]:
    rows = [{"Key": name, "Value": str(value)} for name, value in tags.items()]
    return [{"ResourceType": kind, "Tags": rows}] if rows else []


def _create_key(ec2: Any, inputs: Values, tags: Mapping[str, str]) -> tuple[str, Values]:
    with worded("importing EC2 Key Pair", "EC2", "ImportKeyPair"):
        made = ec2.import_key_pair(
            KeyName=inputs["keyName"],
            PublicKeyMaterial=inputs["publicKey"].encode(),
            TagSpecifications=specified("key-pair", tags),
        )
    return made["KeyName"], {"keyPairId": made["KeyPairId"], "fingerprint": made["KeyFingerprint"]}


def _create_vpc(ec2: Any, inputs: Values, tags: Mapping[str, str]) -> tuple[str, Values]:
    with worded("creating EC2 VPC", "EC2", "CreateVpc"):
        vpc = ec2.create_vpc(
            CidrBlock=inputs["cidrBlock"], TagSpecifications=specified("vpc", tags)
        )["Vpc"]
        if inputs.get("enableDnsHostnames"):
            ec2.modify_vpc_attribute(VpcId=vpc["VpcId"], EnableDnsHostnames={"Value": True})
    return vpc["VpcId"], {}


def _create_subnet(ec2: Any, inputs: Values, tags: Mapping[str, str]) -> tuple[str, Values]:
    zone = (
        {"AvailabilityZone": inputs["availabilityZone"]} if inputs.get("availabilityZone") else {}
    )
    with worded("creating EC2 Subnet", "EC2", "CreateSubnet"):
        made = ec2.create_subnet(
            VpcId=inputs["vpcId"],
            CidrBlock=inputs["cidrBlock"],
            TagSpecifications=specified("subnet", tags),
            **zone,
        )["Subnet"]
    return made["SubnetId"], {"availabilityZone": made["AvailabilityZone"]}


def _create_gateway(ec2: Any, inputs: Values, tags: Mapping[str, str]) -> tuple[str, Values]:
    with worded("creating EC2 Internet Gateway", "EC2", "CreateInternetGateway"):
        made = ec2.create_internet_gateway(TagSpecifications=specified("internet-gateway", tags))
        id = made["InternetGateway"]["InternetGatewayId"]
        ec2.attach_internet_gateway(InternetGatewayId=id, VpcId=inputs["vpcId"])
    return id, {}


def _create_routes(ec2: Any, inputs: Values, tags: Mapping[str, str]) -> tuple[str, Values]:
    with worded("creating EC2 Route Table", "EC2", "CreateRouteTable"):
        made = ec2.create_route_table(
            VpcId=inputs["vpcId"], TagSpecifications=specified("route-table", tags)
        )
        id = made["RouteTable"]["RouteTableId"]
        for route in inputs.get("routes", ()):
            ec2.create_route(
                RouteTableId=id,
                DestinationCidrBlock=route["cidrBlock"],
                GatewayId=route["gatewayId"],
            )
    return id, {}


def _create_association(ec2: Any, inputs: Values, _tags: Mapping[str, str]) -> tuple[str, Values]:
    with worded("creating EC2 Route Table Association", "EC2", "AssociateRouteTable"):
        made = ec2.associate_route_table(
            RouteTableId=inputs["routeTableId"], SubnetId=inputs["subnetId"]
        )
    return made["AssociationId"], {}


def _create_group(ec2: Any, inputs: Values, tags: Mapping[str, str]) -> tuple[str, Values]:
    vpc = {"VpcId": inputs["vpcId"]} if inputs.get("vpcId") else {}
    with worded("creating EC2 Security Group", "EC2", "CreateSecurityGroup"):
        id = ec2.create_security_group(
            GroupName=inputs["name"],
            Description=inputs.get("description", "Managed by Pulumi"),
            TagSpecifications=specified("security-group", tags),
            **vpc,
        )["GroupId"]
    try:
        with worded("authorizing EC2 Security Group rules", "EC2", "AuthorizeSecurityGroupIngress"):
            everything = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
            ec2.revoke_security_group_egress(GroupId=id, IpPermissions=everything)
            ec2.authorize_security_group_ingress(
                GroupId=id, IpPermissions=_rules(id, inputs["ingress"])
            )
            ec2.authorize_security_group_egress(
                GroupId=id, IpPermissions=_rules(id, inputs["egress"])
            )
    except Refusal as refusal:
        raise HalfMade(id, dict(inputs), str(refusal)) from refusal
    return id, {}


def _rules(group: str, given: Sequence[Values]) -> list[dict[str, Any]]:
    found = []
    for rule in given:
        ports = (
            {}
            if rule["protocol"] == "-1"
            else {"FromPort": rule["fromPort"], "ToPort": rule["toPort"]}
        )
        found.append(
            {
                "IpProtocol": rule["protocol"],
                "IpRanges": [{"CidrIp": cidr} for cidr in rule.get("cidrBlocks", ())],
                "UserIdGroupPairs": [{"GroupId": group}] if rule.get("self") else [],
                **ports,
            }
        )
    return found


def _create_instance(ec2: Any, inputs: Values, tags: Mapping[str, str]) -> tuple[str, Values]:
    with worded("collecting instance settings", "EC2", "DescribeImages"):
        # For the name of the root device.
        ec2.describe_images(ImageIds=[inputs["ami"]])
    with worded("creating EC2 Instance", "EC2", "RunInstances"):
        id = ec2.run_instances(**_launch(inputs, tags))["Instances"][0]["InstanceId"]
    doing = f"waiting for EC2 Instance ({id}) create"
    end = time.monotonic() + _WAIT_S
    while True:
        with worded(doing, "EC2", "DescribeInstances"):
            row = _described(ec2, id)
        state = row["State"]["Name"]
        if state == "running":
            return id, {
                "publicIp": row.get("PublicIpAddress", ""),
                "privateIp": row.get("PrivateIpAddress", ""),
                "instanceState": state,
                "subnetId": row.get("SubnetId", ""),
                "arn": f"arn:aws:ec2:::instance/{id}",
            }
        if state != "pending" or time.monotonic() > end:
            reason = row.get("StateReason", {}).get("Message", "")
            raise HalfMade(
                id,
                {**inputs, "id": id},
                f"1 error occurred:\n\t* {doing}: unexpected state '{state}', wanted target 'running'. last error: {reason}\n\n",
            )
        time.sleep(_STEP_S)


def _launch(inputs: Values, tags: Mapping[str, str]) -> dict[str, Any]:
    root, metadata = inputs.get("rootBlockDevice", {}), inputs.get("metadataOptions", {})
    asked: dict[str, Any] = {
        "ImageId": inputs["ami"],
        "InstanceType": inputs["instanceType"],
        "MinCount": 1,
        "MaxCount": 1,
        # As the real one does, so that trying again makes no second one.
        "ClientToken": secrets.token_hex(16),
        "KeyName": inputs["keyName"],
        "InstanceInitiatedShutdownBehavior": inputs.get(
            "instanceInitiatedShutdownBehavior", "stop"
        ),
        "UserData": inputs.get("userData", ""),
        "TagSpecifications": [
            *specified("instance", tags),
            *specified("volume", inputs.get("volumeTags", {})),
        ],
        "MetadataOptions": {
            "HttpTokens": metadata.get("httpTokens", "optional"),
            "HttpPutResponseHopLimit": metadata.get("httpPutResponseHopLimit", 1),
        },
        "BlockDeviceMappings": [
            {
                "DeviceName": "/dev/sda1",
                "Ebs": {
                    "VolumeType": root.get("volumeType", "gp2"),
                    "VolumeSize": root["volumeSize"],
                    "Encrypted": root.get("encrypted", False),
                    "DeleteOnTermination": root.get("deleteOnTermination", True),
                },
            }
        ],
    }
    groups = inputs["vpcSecurityGroupIds"]
    if "subnetId" in inputs:
        # A public address is asked for with the interface, which then has the groups.
        asked["NetworkInterfaces"] = [
            {
                "DeviceIndex": 0,
                "SubnetId": inputs["subnetId"],
                "Groups": groups,
                "AssociatePublicIpAddress": bool(inputs.get("associatePublicIpAddress")),
            }
        ]
    else:
        asked["SecurityGroupIds"] = groups
    if inputs.get("availabilityZone"):
        asked["Placement"] = {"AvailabilityZone": inputs["availabilityZone"]}
    if market := inputs.get("instanceMarketOptions"):
        spot = market["spotOptions"]
        asked["InstanceMarketOptions"] = {
            "MarketType": market["marketType"],
            "SpotOptions": {
                "SpotInstanceType": spot["spotInstanceType"],
                "InstanceInterruptionBehavior": spot["instanceInterruptionBehavior"],
                **({"MaxPrice": spot["maxPrice"]} if spot.get("maxPrice") else {}),
            },
        }
    return asked


def _described(ec2: Any, id: str) -> Mapping[str, Any]:
    row: Mapping[str, Any] = ec2.describe_instances(InstanceIds=[id])["Reservations"][0][
        "Instances"
    ][0]
    return row


CREATES: Mapping[str, Callable[[Any, Values, Mapping[str, str]], tuple[str, Values]]] = {
    "aws:ec2/keyPair:KeyPair": _create_key,
    "aws:ec2/vpc:Vpc": _create_vpc,
    "aws:ec2/subnet:Subnet": _create_subnet,
    "aws:ec2/internetGateway:InternetGateway": _create_gateway,
    "aws:ec2/routeTable:RouteTable": _create_routes,
    "aws:ec2/routeTableAssociation:RouteTableAssociation": _create_association,
    "aws:ec2/securityGroup:SecurityGroup": _create_group,
    "aws:ec2/instance:Instance": _create_instance,
}


# -- what is deleted


def _delete_instance(ec2: Any, id: str, outputs: Values) -> None:
    from botocore.exceptions import ClientError

    doing = f"deleting EC2 Instance ({id})"
    # Whatever is answered: the real one goes on with a warning.
    with contextlib.suppress(ClientError):
        ec2.modify_instance_attribute(InstanceId=id, DisableApiTermination={"Value": False})
    if request := outputs.get("spotInstanceRequestId"):
        cancelling = f"cancelling EC2 Spot Fleet Request ({request})"
        with worded(cancelling, "EC2", "CancelSpotInstanceRequests"):
            ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=[request])
    with worded(doing, "EC2", "TerminateInstances"):
        ec2.terminate_instances(InstanceIds=[id])
        until_true(lambda: _described(ec2, id)["State"]["Name"] == "terminated", doing)


def _delete_gateway(ec2: Any, id: str, outputs: Values) -> None:
    with worded(f"deleting EC2 Internet Gateway ({id})", "EC2", "DeleteInternetGateway"):
        ec2.detach_internet_gateway(InternetGatewayId=id, VpcId=outputs["vpcId"])
        ec2.delete_internet_gateway(InternetGatewayId=id)


def _by(
    operation: str, name: str, what: str, interfaces: str = ""
) -> Callable[[Any, str, Values], None]:
    """A delete that is one call, which is tried again while something else still holds the thing, as the real one does.

    Args:
        operation: EC2's.
        name: of its one field.
        what: the thing, in the plugin's words.
        interfaces: by this filter the plugin looks first for network interfaces that a service of AWS has forgotten there.
    """
    from botocore import xform_name

    method = xform_name(operation)

    def delete(ec2: Any, id: str, _outputs: Values) -> None:
        if interfaces:
            with worded(f"deleting ENIs using {what} ({id})", "EC2", "DescribeNetworkInterfaces"):
                ec2.describe_network_interfaces(Filters=[{"Name": interfaces, "Values": [id]}])
        end = time.monotonic() + _WAIT_S
        while True:
            try:
                with worded(f"deleting {what} ({id})", "EC2", operation):
                    getattr(ec2, method)(**{name: id})
                return
            except Refusal as refusal:
                if "DependencyViolation" not in str(refusal) or time.monotonic() > end:
                    raise
                time.sleep(_STEP_S)

    return delete


DELETES: Mapping[str, Callable[[Any, str, Values], None]] = {
    "aws:ec2/keyPair:KeyPair": _by("DeleteKeyPair", "KeyName", "EC2 Key Pair"),
    "aws:ec2/vpc:Vpc": _by("DeleteVpc", "VpcId", "EC2 VPC"),
    "aws:ec2/subnet:Subnet": _by("DeleteSubnet", "SubnetId", "EC2 Subnet", "subnet-id"),
    "aws:ec2/internetGateway:InternetGateway": _delete_gateway,
    "aws:ec2/routeTable:RouteTable": _by("DeleteRouteTable", "RouteTableId", "EC2 Route Table"),
    "aws:ec2/routeTableAssociation:RouteTableAssociation": _by(
        "DisassociateRouteTable", "AssociationId", "EC2 Route Table Association"
    ),
    "aws:ec2/securityGroup:SecurityGroup": _by(
        "DeleteSecurityGroup", "GroupId", "EC2 Security Group", "group-id"
    ),
    "aws:ec2/instance:Instance": _delete_instance,
}
