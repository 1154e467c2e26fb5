"""Who may reach a machine at AWS: the ingress of the run's own security group."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from dayfly.errors import ConfigurationError
from dayfly.infra import aws_endpoint, aws_session, caller
from dayfly.infra.aws_errors import mapped
from dayfly.infra.aws_ids import AwsId
from dayfly.infra.aws_inventory import instance
from dayfly.infra.caller import Allowed
from dayfly.infra.run import Run
from dayfly.infra.spec import Spec

SSH_PORT = 22


def allowed(spec: Spec, run: Run, region: str) -> Allowed:
    """Who is let in at the beginning.

    A preview tells the whole world where this computer's address cannot be found out; a run does not let that in.

    Raises:
        ConfigurationError: the Spec does not say, and this computer's address cannot be found out.
    """
    found = caller.allowed(spec.allow_cidr, aws_endpoint.api_url(region))
    everybody = ipaddress.IPv4Network(found.cidr).prefixlen == 0
    if everybody and spec.allow_cidr is None and run.public_key:
        raise ConfigurationError(
            f"this computer's own address could not be found out ({caller.SERVICE} did not tell), so that port"
            f' {SSH_PORT} would be open to all: set allow_cidr, "203.0.113.7/32"'
        )
    return found


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
