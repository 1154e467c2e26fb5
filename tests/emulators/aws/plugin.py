"""A stand-in for Pulumi's plugin `aws`: resources become calls to EC2 and SSM, through boto3, at the endpoints of its configuration.

Like the real one it waits inside its creates and deletes, tries what fails on the way (a lack of capacity too) `maxRetries` times
in all, or 25, tags by `defaultTags`, empties a new group of the rule that lets everything out, reads what it has made, and wraps
what AWS says in words of its own. Left out: everything but the types below, refreshes, and updates; between attempts it waits half
as long.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

from tests.emulators.aws.checks import CHECKS
from tests.emulators.aws.reads import read
from tests.emulators.aws.resources import CREATES, DELETES
from tests.emulators.aws.words import Gone, worded
from tests.emulators.plugin import UNKNOWN, Plugin, Refusal, Values

# https://github.com/hashicorp/aws-sdk-go-base/blob/v2/aws_config.go makes the setting `MaxAttempts` of the SDK for Go.
_ATTEMPTS = 25
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
        further = CHECKS.get(type)
        return missing if further is None else [*missing, *further(inputs)]

    def planned(self, type: str, inputs: Values) -> Values:
        return {**inputs, **dict.fromkeys(_OUTPUTS.get(type, ()), UNKNOWN)}

    def invoke(self, configuration: Values, token: str, arguments: Values) -> Values:
        if token == "aws:ssm/getParameter:getParameter":
            with worded(f"reading SSM Parameter ({arguments['name']})", "SSM", "GetParameter"):
                ssm = self._client(configuration, "ssm")
                found = ssm.get_parameter(Name=arguments["name"])["Parameter"]
            return {"id": arguments["name"], "value": found["Value"], "name": found["Name"]}
        if token == "aws:ec2/getAmi:getAmi":
            filters = [{"Name": f["name"], "Values": f["values"]} for f in arguments["filters"]]
            with worded("reading EC2 AMIs", "EC2", "DescribeImages"):
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
        id, outputs = CREATES[type](ec2, inputs, tags)
        made = {**inputs, **outputs, "id": id, "tagsAll": tags}
        return id, {**made, **read(ec2, type, id, made)}

    def delete(self, configuration: Values, type: str, id: str, outputs: Values) -> None:
        ec2 = self._client(configuration, "ec2")
        with contextlib.suppress(Gone):
            DELETES[type](ec2, id, outputs)

    def _client(self, configuration: Values, service: str) -> Any:
        import boto3
        from botocore.config import Config

        endpoints = json.loads(configuration.get("endpoints") or "[{}]")[0]
        attempts = int(configuration.get("maxRetries") or _ATTEMPTS)
        # A session of its own: boto3's are not for several threads.
        session = boto3.Session(self._key, self._secret, region_name=configuration["region"])
        return session.client(
            service,
            endpoint_url=endpoints[service],
            config=Config(retries={"mode": "standard", "total_max_attempts": attempts}),
        )
