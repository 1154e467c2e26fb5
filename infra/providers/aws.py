"""provider="aws": machines of EC2, through pulumi-aws, listed and ended by boto3; docs/aws.md tells the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from dayfly.infra import (
    aws_endpoint,
    aws_errors,
    aws_ids,
    aws_inventory,
    aws_offers,
    aws_sdk,
    aws_session,
    port_map,
    vendor,
)
from dayfly.infra.found import Found, State
from dayfly.infra.held import Held, Whose
from dayfly.infra.ingress import SSH_PORT
from dayfly.infra.offers import Offer
from dayfly.infra.providers.base import Limits
from dayfly.infra.run import Run
from dayfly.infra.spec import Spec

_CONSOLE = "https://console.aws.amazon.com/ec2/home#Instances:tag-key=dayfly-run"
# https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html: what was made may be missing from a listing.
_LISTING_LAG_S, _LATE_CREATE_S = 20.0, 120.0
_HERE_S = 0.5
# Linux, on demand and spot, and volumes: https://aws.amazon.com/about-aws/whats-new/2017/10/announcing-amazon-ec2-per-second-billing/
_BILLING_INCREMENT_S, _BILLING_MINIMUM_S = 1.0, 60.0
_VCPU_QUOTA = "VcpuLimitExceeded|MaxSpotInstanceCountExceeded|InstanceLimitExceeded"
_CHOICE = r"\bchoosing\s+([a-z0-9, -]+)"


class Aws(vendor.VendorProvider):
    """EC2's machines."""

    name = "aws"
    plugin = "aws"
    sdk = "pulumi_aws"
    modules = ("boto3",)
    extra = "aws"
    machine = "aws:ec2/instance:Instance"
    codes = aws_errors.KINDS
    code = aws_errors.CODE
    up_timeout_s = 900.0
    # Of Ubuntu 24.04, which a machine gets that asks for no other image.
    pythons = ("3.12",)
    credentials = aws_session.CREDENTIALS
    environment = (
        *aws_session.CREDENTIALS,
        *aws_session.PLACES,
        aws_inventory.REGIONS_VARIABLE,
        port_map.VARIABLE,
        *vendor.ENVIRONMENT,
    )
    # The public address is in the machine's rate.
    free = frozenset(
        f"aws:ec2/{name[0].lower()}{name[1:]}:{name}"
        for name in (
            *("KeyPair", "SecurityGroup", "Vpc", "Subnet", "InternetGateway", "RouteTable"),
            "RouteTableAssociation",
        )
    )

    @property
    def limits(self) -> Limits:
        here = aws_endpoint.is_here()
        return Limits(
            listing_lag_s=_HERE_S if here else _LISTING_LAG_S,
            late_create_s=_HERE_S if here else _LATE_CREATE_S,
            billing_increment_s=_BILLING_INCREMENT_S,
            billing_minimum_s=_BILLING_MINIMUM_S,
            if_this_computer_dies="the machine ends the function at its deadline and switches itself off, which ends it and"
            " its disk at AWS; where that fails, a second timer of its own does six minutes later. Its key and its"
            " security group, which cost nothing, stay until `dayfly gc --yes`",
            console=_CONSOLE,
            deadline_action="poweroff",
        )

    def offers(self, spec: Spec) -> Sequence[Offer]:
        return aws_offers.ladder(spec)

    def price_list(self) -> Sequence[Offer]:
        return aws_offers.price_list() if self.is_configured() else super().price_list()

    def catalog_offers(self, spec: Spec) -> Sequence[Offer]:
        return aws_offers.from_catalog(spec)

    def owns(self, held: Held, whose: Whose) -> bool:
        from dayfly.infra import aws_owned

        return aws_owned.owns(held, whose)

    def sets(self, settings: Mapping[str, Any], whose: Whose) -> bool:
        from dayfly.infra import aws_owned

        return aws_owned.sets(settings, whose)

    def place(self) -> str:
        return aws_session.account()

    def load_sdk(self, offer: Offer) -> None:
        from dayfly.infra import aws_resources

        aws_sdk.load()
        aws_resources.ask_ahead(offer)

    def declare(self, spec: Spec, offer: Offer, run: Run) -> Sequence[Mapping[str, Any]]:
        from dayfly.infra.aws_resources import Declared

        return Declared.of(spec, offer, run).machines()

    def inventory(self, owner: str | None) -> Sequence[Found]:
        return aws_inventory.inventory(owner)

    def left_of(self, run: str, owner: str, where: Sequence[str] = ()) -> Sequence[Found]:
        """Of the regions of its offers alone: all that a run makes carries its place, and one region that cannot be asked
        must not leave the runs of all others unproved."""
        found = aws_inventory.inventory(owner, aws_ids.regions_of(where))
        return [each for each in found if each.run == run]

    def terminate(self, found: Found) -> None:
        aws_inventory.terminate(found.id)

    def instance_state(self, id: str) -> State:
        return aws_inventory.state(id)

    def address(self, id: str) -> tuple[str, int] | None:
        found = aws_inventory.instance(id)
        ip = found.get("PublicIpAddress") if found else None
        return (str(ip), SSH_PORT) if ip else None

    def admit(self, id: str) -> str:
        from dayfly.infra import aws_firewall

        return aws_firewall.admit(id)

    def regions_named(self, error: str) -> Sequence[str]:
        """The zones that a refusal names as having some: "... or choosing us-east-1b, us-east-1c"."""
        if self.failure(error) != "capacity":
            return ()
        return aws_ids.zones_named(" ".join(re.findall(_CHOICE, error)))

    def rules_out(self, error: str, tried: Offer, other: Offer) -> bool:
        """A quota of vCPUs is one region's, of one family and one way of buying; other quotas are one region's."""
        here, there = aws_ids.zone_of(tried.region), aws_ids.zone_of(other.region)
        if here is None or there is None or here[0] != there[0]:
            return False
        if not re.search(_VCPU_QUOTA, error):
            return True
        return (_family(tried), tried.spot) == (_family(other), other.spot)

    def without_credentials(self) -> Sequence[str]:
        if aws_session.has_credentials():
            return ()
        return (
            "AWS credentials are missing: `aws configure`, `aws sso login`, or export AWS_ACCESS_KEY_ID and"
            " AWS_SECRET_ACCESS_KEY (or AWS_PROFILE); docs/aws.md lists the permissions that they need",
        )


def _family(offer: Offer) -> str:
    """What a quota is of: "Running On-Demand G and VT instances", "... P instances", "... Standard (A, C, D, H, I, M, R, T, Z)".

    https://docs.aws.amazon.com/ec2/latest/instancetypes/ec2-instance-quotas.html
    """
    letters = re.match(r"[a-z]+", offer.instance_type)
    name = letters[0] if letters else ""
    if name in ("g", "gr", "vt"):
        return "g"
    return name if name in ("p", "inf", "trn", "dl", "f", "x", "u", "hpc") else "standard"


PROVIDER = Aws()
