"""Where in a region a machine is put: a subnet that AWS has made for everybody, or a network of the run's own."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from dayfly.infra import aws_session
from dayfly.infra.aws_errors import AwsError, mapped
from dayfly.infra.aws_ids import zone_of

# EC2 chooses a default subnet.
ANY = ""
_known: dict[str, dict[str, _Subnet]] = {}


class _Subnet(NamedTuple):
    """A default one of a zone, and whether a machine in it has a public address without asking for one."""

    id: str
    public: bool


def look_ahead(region: str) -> None:
    """Asks for the default network of a region, once for all programs that this process and its forks run from now on.

    Raises:
        AwsError: AWS cannot be asked.
    """
    # A fork on the same connection would break its TLS; it makes another one.
    with contextlib.closing(aws_session.client("ec2", region)):
        _known[region] = _default_subnets(region)


def default_subnet(region: str, zone: str, type: str, *, certain: bool) -> str | None:
    """The subnet in which a machine of a run is, of those that AWS makes for everybody, and some delete or close.

    A public address is asked for with a subnet alone: pulumi-aws has no effect of `associate_public_ip_address` without one
    (terraform-provider-aws, internal/service/ec2/ec2_instance.go, buildInstanceOpts). Asked here and not by the engine, so
    that who lists the resources without an engine lists the same. A program cannot declare by what only its engine will know.

    Args:
        region: which.
        zone: of it, "" where EC2 may choose.
        type: of the machine, which not every zone has.
        certain: False where it is enough to assume that nothing was deleted, when nobody can be asked.

    Returns:
        Its id; `ANY` where every one of the region will do, or nobody was asked; None where there is none, so that the run
        brings a network of its own.

    Raises:
        AwsError: it has to be certain, and AWS cannot be asked.
    """
    if not aws_session.has_credentials():
        return ANY
    try:
        found = _known[region] if region in _known else _default_subnets(region)
        if zone:
            return found[zone].id if zone in found else None
        if found and all(each.public for each in found.values()):
            return ANY
        sold = zones(region, [type]) if found else []
        return next((found[name].id for name in sold if name in found), None)
    except AwsError:
        if certain:
            raise
        return ANY


def zones(region: str, types: list[str]) -> list[str]:
    """The zones of a region that have any of the types, in the order of their names; EC2 knows which.

    Places beyond the region's own data centres, which have other prices, images and networks, are none.

    Raises:
        AwsError: AWS cannot be asked.
    """
    with mapped(f"listing zones of {region}"):
        rows = (
            aws_session.client("ec2", region)
            .get_paginator("describe_instance_type_offerings")
            .paginate(
                LocationType="availability-zone",
                Filters=[{"Name": "instance-type", "Values": types}],
            )
        )
        found = {str(row["Location"]) for page in rows for row in page["InstanceTypeOfferings"]}
    return sorted(name for name in found if zone_of(name) is not None)


def _default_subnets(region: str) -> dict[str, _Subnet]:
    """By zone; one without them is as good as one without a default network."""
    with mapped(f"looking for the default network of {region}"):
        filters = [{"Name": "default-for-az", "Values": ["true"]}]
        pages = aws_session.client("ec2", region).get_paginator("describe_subnets")
        rows = [row for page in pages.paginate(Filters=filters) for row in page["Subnets"]]
    return {
        str(row["AvailabilityZone"]): _Subnet(
            str(row["SubnetId"]), bool(row.get("MapPublicIpOnLaunch"))
        )
        for row in rows
    }
