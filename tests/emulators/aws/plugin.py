"""A stand-in for Pulumi's plugin `aws`: resources become calls to EC2 and SSM, through boto3, at the endpoints of its configuration.

Like the real one it waits inside its creates and deletes, tries again what fails on the way as often as `maxRetries` says (25
times unless it says less, a lack of capacity too), tags by `defaultTags`, empties a new group of the rule that lets everything
out, and wraps what AWS says in words of its own. Left out: everything but the types below, reading, and updates.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tests.emulators.plugin import UNKNOWN, HalfMade, Plugin, Refusal, Values

_RETRIES = 25
_WAIT_S, _STEP_S = 60.0, 0.05
_REQUIRED = {
    "aws:ec2/keyPair:KeyPair": ("publicKey",),
    "aws:ec2/vpc:Vpc": (),
    "aws:ec2/subnet:Subnet": ("vpcId",),
    "aws:ec2/internetGateway:InternetGateway": (),
    "aws:ec2/routeTable:RouteTable": ("vpcId",),
    "aws:ec2/routeTableAssociation:RouteTableAssociation": ("routeTableId",),
    "aws:ec2/securityGroup:SecurityGroup": (),
    "aws:ec2/instance:Instance": ("ami", "instanceType"),
}
# What only a create tells.
_OUTPUTS = {
    "aws:ec2/keyPair:KeyPair": ("arn", "keyPairId", "fingerprint"),
    "aws:ec2/securityGroup:SecurityGroup": ("arn", "ownerId"),
    "aws:ec2/instance:Instance": (
        "arn",
        "publicIp",
        "publicDns",
        "privateIp",
        "instanceState",
        "subnetId",
    ),
}
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateSecurityGroup.html
_DESCRIPTION = re.compile(r"[a-zA-Z0-9. _\-:/()#,@\[\]+=&;{}!$*]{1,255}")


class AwsPlugin(Plugin):
    """The plugin.

    Args:
        key: the id of the account's key, which a real one takes from its environment.
        secret: what belongs to it.
    """

    name = "aws"
    version = "7.51.1"

    def __init__(self, key: str, secret: str) -> None:
        super().__init__()
        self._key, self._secret = key, secret

    def check(self, type: str, inputs: Values) -> Sequence[tuple[str, str]]:
        if type not in _REQUIRED:
            return [("type", f"{type} is not known here")]
        missing = [
            (name, "Missing required argument") for name in _REQUIRED[type] if not inputs.get(name)
        ]
        further = _CHECKS.get(type)
        return missing if further is None else [*missing, *further(inputs)]

    def planned(self, type: str, inputs: Values) -> Values:
        return {**inputs, **dict.fromkeys(_OUTPUTS.get(type, ()), UNKNOWN)}

    def invoke(self, configuration: Values, token: str, arguments: Values) -> Values:
        if token == "aws:ssm/getParameter:getParameter":
            with _worded(f"reading SSM Parameter ({arguments['name']})", "SSM", "GetParameter"):
                ssm = self._client(configuration, "ssm")
                found = ssm.get_parameter(Name=arguments["name"])["Parameter"]
            return {"id": arguments["name"], "value": found["Value"], "name": found["Name"]}
        if token == "aws:ec2/getAmi:getAmi":
            filters = [{"Name": f["name"], "Values": f["values"]} for f in arguments["filters"]]
            with _worded("reading EC2 AMIs", "EC2", "DescribeImages"):
                ec2 = self._client(configuration, "ec2")
                images = ec2.describe_images(Filters=filters, Owners=arguments["owners"])["Images"]
            if not images:
                raise Refusal(
                    "Your query returned no results. Please change your search criteria and try again."
                )
            newest = max(images, key=lambda image: str(image["CreationDate"]))
            return {"id": newest["ImageId"], "imageId": newest["ImageId"]}
        return super().invoke(configuration, token, arguments)

    def create(self, configuration: Values, type: str, inputs: Values) -> tuple[str, Values]:
        ec2 = self._client(configuration, "ec2")
        default = json.loads(configuration.get("defaultTags") or "{}").get("tags", {})
        tags = {**default, **inputs.get("tags", {})}
        id, outputs = _CREATES[type](ec2, inputs, tags)
        return id, {**inputs, **outputs, "id": id, "tagsAll": tags}

    def delete(self, configuration: Values, type: str, id: str, outputs: Values) -> None:
        ec2 = self._client(configuration, "ec2")
        with contextlib.suppress(_Gone):
            _DELETES[type](ec2, id, outputs)

    def _client(self, configuration: Values, service: str) -> Any:
        import boto3
        from botocore.config import Config

        endpoints = json.loads(configuration.get("endpoints") or "[{}]")[0]
        retries = int(configuration.get("maxRetries") or _RETRIES)
        # A session of its own: boto3's are not for several threads.
        session = boto3.Session(self._key, self._secret, region_name=configuration["region"])
        return session.client(
            service,
            endpoint_url=endpoints[service],
            config=Config(retries={"mode": "standard", "total_max_attempts": retries + 1}),
        )


class _Gone(Exception):
    """It is not there any more."""


@contextlib.contextmanager
def _worded(doing: str, service: str, operation: str) -> Iterator[None]:
    """What AWS refuses, in the words in which the real plugin passes it on."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        told, about = error.response["Error"], error.response["ResponseMetadata"]
        if str(told["Code"]).endswith(".NotFound") and doing.startswith("deleting"):
            raise _Gone from error
        raise Refusal(
            f"1 error occurred:\n\t* {doing}: operation error {service}: {operation}, https response error StatusCode:"
            f" {about['HTTPStatusCode']}, RequestID: {about.get('RequestId', '')}, api error {told['Code']}: {told['Message']}\n\n"
        ) from error
    except BotoCoreError as error:
        raise Refusal(
            f"1 error occurred:\n\t* {doing}: operation error {service}: {operation}, {error}\n\n"
        ) from error


def _until(true: Callable[[], bool], doing: str) -> None:
    end = time.monotonic() + _WAIT_S
    while not true():
        if time.monotonic() > end:
            raise Refusal(
                f"1 error occurred:\n\t* {doing}: timeout while waiting for state to become 'gone'\n\n"
            )
        time.sleep(_STEP_S)


def _specified(kind: str, tags: Mapping[str, str]) -> list[dict[str, Any]]:
    rows = [{"Key": name, "Value": str(value)} for name, value in tags.items()]
    return [{"ResourceType": kind, "Tags": rows}] if rows else []


# -- what cannot be


def _check_key(inputs: Values) -> Sequence[tuple[str, str]]:
    key = str(inputs.get("publicKey", ""))
    known = key in (UNKNOWN, "") or key.startswith(("ssh-rsa ", "ssh-ed25519 "))
    return [] if known else [("publicKey", f"invalid public key: {key!r}")]


def _check_group(inputs: Values) -> Sequence[tuple[str, str]]:
    wrong = []
    description = str(inputs.get("description", "Managed by Pulumi"))
    if not _DESCRIPTION.fullmatch(description):
        wrong.append(("description", f"invalid value for description: {description!r}"))
    for rule in [*inputs.get("ingress", ()), *inputs.get("egress", ())]:
        for cidr in rule.get("cidrBlocks", ()):
            try:
                ipaddress.IPv4Network(cidr)
            except ValueError as error:
                wrong.append(("cidrBlocks", f'"{cidr}" is not a valid CIDR block: {error}'))
    return wrong


def _check_instance(inputs: Values) -> Sequence[tuple[str, str]]:
    wrong = []
    behaviour = inputs.get("instanceInitiatedShutdownBehavior", "stop")
    if behaviour not in ("stop", "terminate"):
        wrong.append(
            ("instanceInitiatedShutdownBehavior", f"expected stop or terminate, got {behaviour}")
        )
    tokens = inputs.get("metadataOptions", {}).get("httpTokens", "optional")
    if tokens not in ("optional", "required"):
        wrong.append(("metadataOptions.httpTokens", f"expected optional or required, got {tokens}"))
    market = inputs.get("instanceMarketOptions", {}).get("marketType", "spot")
    if market not in ("spot", "capacity-block"):
        wrong.append(("instanceMarketOptions.marketType", f"unknown: {market}"))
    return wrong


_CHECKS: Mapping[str, Callable[[Values], Sequence[tuple[str, str]]]] = {
    "aws:ec2/keyPair:KeyPair": _check_key,
    "aws:ec2/securityGroup:SecurityGroup": _check_group,
    "aws:ec2/instance:Instance": _check_instance,
}


# -- what is made


def _create_key(ec2: Any, inputs: Values, tags: Mapping[str, str]) -> tuple[str, Values]:
    with _worded("importing EC2 Key Pair", "EC2", "ImportKeyPair"):
        made = ec2.import_key_pair(
            KeyName=inputs["keyName"],
            PublicKeyMaterial=inputs["publicKey"].encode(),
            TagSpecifications=_specified("key-pair", tags),
        )
    return made["KeyName"], {"keyPairId": made["KeyPairId"], "fingerprint": made["KeyFingerprint"]}


def _create_vpc(ec2: Any, inputs: Values, tags: Mapping[str, str]) -> tuple[str, Values]:
    with _worded("creating EC2 VPC", "EC2", "CreateVpc"):
        vpc = ec2.create_vpc(
            CidrBlock=inputs["cidrBlock"], TagSpecifications=_specified("vpc", tags)
        )["Vpc"]
        if inputs.get("enableDnsHostnames"):
            ec2.modify_vpc_attribute(VpcId=vpc["VpcId"], EnableDnsHostnames={"Value": True})
    return vpc["VpcId"], {}


def _create_subnet(ec2: Any, inputs: Values, tags: Mapping[str, str]) -> tuple[str, Values]:
    zone = (
        {"AvailabilityZone": inputs["availabilityZone"]} if inputs.get("availabilityZone") else {}
    )
    with _worded("creating EC2 Subnet", "EC2", "CreateSubnet"):
        made = ec2.create_subnet(
            VpcId=inputs["vpcId"],
            CidrBlock=inputs["cidrBlock"],
            TagSpecifications=_specified("subnet", tags),
            **zone,
        )["Subnet"]
    return made["SubnetId"], {"availabilityZone": made["AvailabilityZone"]}


def _create_gateway(ec2: Any, inputs: Values, tags: Mapping[str, str]) -> tuple[str, Values]:
    with _worded("creating EC2 Internet Gateway", "EC2", "CreateInternetGateway"):
        made = ec2.create_internet_gateway(TagSpecifications=_specified("internet-gateway", tags))
        id = made["InternetGateway"]["InternetGatewayId"]
        ec2.attach_internet_gateway(InternetGatewayId=id, VpcId=inputs["vpcId"])
    return id, {}


def _create_routes(ec2: Any, inputs: Values, tags: Mapping[str, str]) -> tuple[str, Values]:
    with _worded("creating EC2 Route Table", "EC2", "CreateRouteTable"):
        made = ec2.create_route_table(
            VpcId=inputs["vpcId"], TagSpecifications=_specified("route-table", tags)
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
    with _worded("creating EC2 Route Table Association", "EC2", "AssociateRouteTable"):
        made = ec2.associate_route_table(
            RouteTableId=inputs["routeTableId"], SubnetId=inputs["subnetId"]
        )
    return made["AssociationId"], {}


def _create_group(ec2: Any, inputs: Values, tags: Mapping[str, str]) -> tuple[str, Values]:
    vpc = {"VpcId": inputs["vpcId"]} if inputs.get("vpcId") else {}
    with _worded("creating EC2 Security Group", "EC2", "CreateSecurityGroup"):
        id = ec2.create_security_group(
            GroupName=inputs["name"],
            Description=inputs.get("description", "Managed by Pulumi"),
            TagSpecifications=_specified("security-group", tags),
            **vpc,
        )["GroupId"]
    try:
        with _worded(
            "authorizing EC2 Security Group rules", "EC2", "AuthorizeSecurityGroupIngress"
        ):
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
    with _worded("creating EC2 Instance", "EC2", "RunInstances"):
        id = ec2.run_instances(**_launch(inputs, tags))["Instances"][0]["InstanceId"]
    doing = f"waiting for EC2 Instance ({id}) create"
    end = time.monotonic() + _WAIT_S
    while True:
        with _worded(doing, "EC2", "DescribeInstances"):
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
            *_specified("instance", tags),
            *_specified("volume", inputs.get("volumeTags", {})),
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
            },
        }
    return asked


def _described(ec2: Any, id: str) -> Mapping[str, Any]:
    row: Mapping[str, Any] = ec2.describe_instances(InstanceIds=[id])["Reservations"][0][
        "Instances"
    ][0]
    return row


_CREATES: Mapping[str, Callable[[Any, Values, Mapping[str, str]], tuple[str, Values]]] = {
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


def _delete_instance(ec2: Any, id: str, _outputs: Values) -> None:
    doing = f"deleting EC2 Instance ({id})"
    with _worded(doing, "EC2", "TerminateInstances"):
        ec2.terminate_instances(InstanceIds=[id])
        _until(lambda: _described(ec2, id)["State"]["Name"] == "terminated", doing)


def _delete_gateway(ec2: Any, id: str, outputs: Values) -> None:
    with _worded(f"deleting EC2 Internet Gateway ({id})", "EC2", "DeleteInternetGateway"):
        ec2.detach_internet_gateway(InternetGatewayId=id, VpcId=outputs["vpcId"])
        ec2.delete_internet_gateway(InternetGatewayId=id)


def _by(operation: str, name: str, what: str) -> Callable[[Any, str, Values], None]:
    """A delete that is one call, which is tried again while something else still holds the thing, as the real one does."""
    method = re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower()

    def delete(ec2: Any, id: str, _outputs: Values) -> None:
        end = time.monotonic() + _WAIT_S
        while True:
            try:
                with _worded(f"deleting {what} ({id})", "EC2", operation):
                    getattr(ec2, method)(**{name: id})
                return
            except Refusal as refusal:
                if "DependencyViolation" not in str(refusal) or time.monotonic() > end:
                    raise
                time.sleep(_STEP_S)

    return delete


_DELETES: Mapping[str, Callable[[Any, str, Values], None]] = {
    "aws:ec2/keyPair:KeyPair": _by("DeleteKeyPair", "KeyName", "EC2 Key Pair"),
    "aws:ec2/vpc:Vpc": _by("DeleteVpc", "VpcId", "EC2 VPC"),
    "aws:ec2/subnet:Subnet": _by("DeleteSubnet", "SubnetId", "EC2 Subnet"),
    "aws:ec2/internetGateway:InternetGateway": _delete_gateway,
    "aws:ec2/routeTable:RouteTable": _by("DeleteRouteTable", "RouteTableId", "EC2 Route Table"),
    "aws:ec2/routeTableAssociation:RouteTableAssociation": _by(
        "DisassociateRouteTable", "AssociationId", "EC2 Route Table Association"
    ),
    "aws:ec2/securityGroup:SecurityGroup": _by(
        "DeleteSecurityGroup", "GroupId", "EC2 Security Group"
    ),
    "aws:ec2/instance:Instance": _delete_instance,
}
