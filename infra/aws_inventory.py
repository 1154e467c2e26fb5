"""What there is of ours at AWS, in every region where it can be, and how each of it is ended."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dayfly.errors import ConfigurationError
from dayfly.infra import aws_session
from dayfly.infra.aws_errors import AwsError, mapped
from dayfly.infra.aws_ids import AwsId, zone_of
from dayfly.infra.found import GONE, Found, State

# Regions in which runs may be, and are looked for, "us-east-1,us-west-2"; all that are enabled unless set.
REGIONS_VARIABLE = "DAYFLY_AWS_REGIONS"
_AT_ONCE = 12
_TAG_KEYS = ("dayfly-run", "dayfly-owner", "dayfly-deadline", "dayfly-created")
# By the sort of id. A rule of a security group ends with its group, and the request for a spot machine with that.
_KINDS = {
    "vol": "disk",
    "key": "key",
    "sg": "network",
    "eni": "network",
    "subnet": "network",
    "rtb": "network",
    "igw": "network",
    "vpc": "network",
    "eipalloc": "address",
}
_STATES: Mapping[str, State] = {
    "pending": "booting",
    "running": "running",
    "shutting-down": "stopping",
    "terminated": "terminated",
    # It has switched itself off in a way that leaves its disk, and has still to be ended.
    "stopping": "unhealthy",
    "stopped": "unhealthy",
}
# EC2 says so of a spot machine that it has taken back, which is not billed from then on:
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html
_TAKEN_BACK = ("Server.SpotInstanceTermination", "Server.SpotInstanceShutdown")


def regions() -> list[str]:
    """Where anything of ours can be.

    Raises:
        AwsError: AWS cannot be asked.
        ConfigurationError: the setting is not a list of regions.
    """
    given = [name.strip() for name in os.environ.get(REGIONS_VARIABLE, "").split(",")]
    named = list(dict.fromkeys(name for name in given if name))
    for name in named:
        if zone_of(name) != (name, ""):
            raise ConfigurationError(
                f"{REGIONS_VARIABLE}: {name!r} is no region; write names as AWS has them, us-east-1,us-west-2"
            )
    if named:
        return named
    with mapped("listing regions"):
        found = aws_session.client("ec2").describe_regions()["Regions"]
    return sorted(str(each["RegionName"]) for each in found)


def inventory(owner: str | None, where: Sequence[str] = ()) -> list[Found]:
    """Everything that carries our tags and this owner, over all regions; see `Provider.inventory`.

    Args:
        owner: whose; None for all.
        where: these regions alone, whatever the setting says.

    Raises:
        AwsError: a region cannot be asked.
    """
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="aws") as pool:
        names = where or regions()
        per_region = pool.map(lambda region: list(_in_region(region, owner)), names)
        return [found for listed in per_region for found in listed]


def _in_region(region: str, owner: str | None) -> Iterator[Found]:
    try:
        yield from _instances(region, owner)
        yield from _tagged(region, owner)
    except AwsError as error:
        if error.kind == "auth":
            error.add_note(
                f"where your organisation denies a whole region, set {REGIONS_VARIABLE} to those in which you may be"
            )
        raise


def _instances(region: str, owner: str | None) -> Iterator[Found]:
    only = [{"Name": "tag-key", "Values": ["dayfly-run"]}] if owner is not None else []
    for row in _rows(region, "describe_instances", "Reservations", Filters=only):
        for instance in row["Instances"]:
            tags = _tags(instance.get("Tags", ()))
            tags = tags if tags.get("dayfly-run") else {}
            state = _state(instance)
            if state not in GONE and (owner is None or tags.get("dayfly-owner") == owner):
                yield Found("instance", str(AwsId(region, instance["InstanceId"])), tags, state)


def _tagged(region: str, owner: str | None) -> Iterator[Found]:
    """What is no instance: EC2 lists the tags of all of it in one."""
    tags: dict[str, dict[str, str]] = {}
    filters = [{"Name": "key", "Values": list(_TAG_KEYS)}]
    for row in _rows(region, "describe_tags", "Tags", Filters=filters):
        tags.setdefault(row["ResourceId"], {})[row["Key"]] = row["Value"]
    for id, carried in tags.items():
        kind = _KINDS.get(AwsId(region, id).sort)
        ours = carried.get("dayfly-run") and owner in (None, carried.get("dayfly-owner"))
        if kind is not None and ours:
            yield Found(kind, str(AwsId(region, id)), carried)


def _rows(region: str, operation: str, name: str, **arguments: Any) -> list[Any]:
    """All rows of a listing, over all pages."""
    with mapped(f"{operation.replace('_', ' ')} in {region}"):
        pages = aws_session.client("ec2", region).get_paginator(operation).paginate(**arguments)
        return [row for page in pages for row in page[name]]


def _tags(rows: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Ours; a name that somebody gives it for the console is none."""
    return {row["Key"]: row["Value"] for row in rows if row["Key"].startswith("dayfly-")}


def _state(instance: Mapping[str, Any]) -> State:
    name = instance["State"]["Name"]
    reason = (instance.get("StateReason") or {}).get("Code", "")
    if name in ("shutting-down", "terminated") and reason in _TAKEN_BACK:
        return "preempted"
    return _STATES.get(name, "unknown")


def instance(id: str) -> Mapping[str, Any] | None:
    """What EC2 says of one instance; None where it knows none of the id.

    Raises:
        AwsError: it cannot be asked.
    """
    where = AwsId.of(id)
    if where is None:
        return None
    try:
        rows = _rows(where.region, "describe_instances", "Reservations", InstanceIds=[where.id])
    except AwsError as error:
        if error.gone:
            return None
        raise
    found = [each for row in rows for each in row["Instances"]]
    return found[0] if found else None


def is_instance_of(id: AwsId, run: str) -> bool:
    """Whether an instance is a run's by its tags, or there is none; one that has ended is known for an hour.

    Raises:
        AwsError: EC2 cannot be asked.
    """
    found = instance(str(id))
    return found is None or _tags(found.get("Tags", ())).get("dayfly-run") == run


def is_route_of(id: AwsId, run: str) -> bool:
    """Whether the table of routes that a subnet has by this association is a run's, or there is none.

    Raises:
        AwsError: EC2 cannot be asked.
    """
    name = "association.route-table-association-id"
    filters = [{"Name": name, "Values": [id.id]}]
    tables = _rows(id.region, "describe_route_tables", "RouteTables", Filters=filters)
    return all(_tags(each.get("Tags", ())).get("dayfly-run") == run for each in tables)


def state(id: str) -> State:
    """In the standard words."""
    found = instance(id)
    return "unknown" if found is None else _state(found)


def terminate(id: str) -> None:
    """Ends one thing; gone already is success, and what something still holds is left for the next time.

    Raises:
        AwsError: AWS refuses, or cannot be asked.
    """
    where = AwsId.of(id)
    if where is None:
        return
    end = _ENDS.get(where.sort)
    if end is None:
        raise AwsError(f"ending {id}", "UnsupportedOperation", "nobody knows here how that is done")
    try:
        with mapped(f"ending {id}"):
            end(aws_session.client("ec2", where.region), where.id)
    except AwsError as error:
        if not (error.gone or error.in_use):
            raise


def _detach(ec2: Any, id: str) -> None:
    """A gateway is deleted when no network has it."""
    for gateway in ec2.describe_internet_gateways(InternetGatewayIds=[id])["InternetGateways"]:
        for attached in gateway.get("Attachments", ()):
            ec2.detach_internet_gateway(InternetGatewayId=id, VpcId=attached["VpcId"])
    ec2.delete_internet_gateway(InternetGatewayId=id)


def _unroute(ec2: Any, id: str) -> None:
    """A table of routes is deleted when no subnet has it."""
    for table in ec2.describe_route_tables(RouteTableIds=[id])["RouteTables"]:
        for association in table.get("Associations", ()):
            if not association.get("Main"):
                ec2.disassociate_route_table(AssociationId=association["RouteTableAssociationId"])
    ec2.delete_route_table(RouteTableId=id)


_ENDS: Mapping[str, Callable[[Any, str], object]] = {
    "i": lambda ec2, id: ec2.terminate_instances(InstanceIds=[id]),
    "vol": lambda ec2, id: ec2.delete_volume(VolumeId=id),
    "key": lambda ec2, id: ec2.delete_key_pair(KeyPairId=id),
    "sg": lambda ec2, id: ec2.delete_security_group(GroupId=id),
    "eni": lambda ec2, id: ec2.delete_network_interface(NetworkInterfaceId=id),
    "subnet": lambda ec2, id: ec2.delete_subnet(SubnetId=id),
    "vpc": lambda ec2, id: ec2.delete_vpc(VpcId=id),
    "eipalloc": lambda ec2, id: ec2.release_address(AllocationId=id),
    "igw": _detach,
    "rtb": _unroute,
}
