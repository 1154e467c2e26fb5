"""Who may reach a machine at AWS: the ingress of the run's own security group."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from dayfly.infra import aws_endpoint, aws_session, caller
from dayfly.infra.aws_errors import mapped
from dayfly.infra.aws_ids import AwsId
from dayfly.infra.aws_inventory import instance
from dayfly.infra.ingress import SSH_PORT


def admit(id: str) -> str:
    """Lets this computer in at the address that it has now; see `Provider.admit`.

    Raises:
        AwsError: AWS refuses, or cannot be asked.
    """
    where, found = AwsId.of(id), instance(id)
    if where is None or found is None:
        return ""
    here = caller.own(aws_endpoint.api_url(where.region))
    if here is None:
        return ""  # Nobody is let in for whom nobody can be named.
    with mapped(f"letting {here.cidr} reach {id}"):
        return str(here) if _let_in(where.region, found, here.cidr) else ""


def _let_in(region: str, found: Mapping[str, Any], cidr: str) -> bool:
    """Adds a rule where the run's own group has none that lets it in."""
    ec2 = aws_session.client("ec2", region)
    ids = [group["GroupId"] for group in found.get("SecurityGroups", ())]
    groups = ec2.describe_security_groups(GroupIds=ids)["SecurityGroups"] if ids else []
    # Only what is ours: others of the account may be behind the same group.
    ours = [each for each in groups if any(t["Key"] == "dayfly-run" for t in each.get("Tags", ()))]
    closed = [group for group in ours if not _reaches(group, cidr)]
    for group in closed:
        ranges = [{"CidrIp": cidr, "Description": "dayfly: let in later"}]
        rule = {"IpProtocol": "tcp", "FromPort": SSH_PORT, "ToPort": SSH_PORT, "IpRanges": ranges}
        ec2.authorize_security_group_ingress(GroupId=group["GroupId"], IpPermissions=[rule])
    return bool(closed)


def _reaches(group: Mapping[str, Any], cidr: str) -> bool:
    here = ipaddress.IPv4Network(cidr)
    for rule in group.get("IpPermissions", ()):
        everything = rule["IpProtocol"] == "-1"
        if everything or rule.get("FromPort", 0) <= SSH_PORT <= rule.get("ToPort", -1):
            networks = (ipaddress.IPv4Network(each["CidrIp"]) for each in rule["IpRanges"])
            if any(here.subnet_of(network) for network in networks):
                return True
    return False
