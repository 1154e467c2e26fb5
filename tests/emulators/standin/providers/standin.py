"""provider="standin": a vendor's provider as small as one can be, on the real Pulumi SDK for AWS."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from dayfly.errors import SpecError
from dayfly.infra.found import Found, State
from dayfly.infra.held import Held, Whose
from dayfly.infra.offers import Offer
from dayfly.infra.providers.base import FailureKind, Limits
from dayfly.infra.run import Run
from dayfly.infra.spec import PREFER_SPOT, Spec
from dayfly.infra.vendor import ENVIRONMENT, VendorProvider

KEY_VARIABLE = "STANDIN_KEY"
_TYPES = {"small": (2, 1.0), "large": (8, 4.0)}


class StandIn(VendorProvider):
    """Machines that are planned and never made."""

    name = "standin"
    plugin = "aws"
    sdk = "pulumi_aws"
    extra = "aws"
    codes: ClassVar[Mapping[str, FailureKind]] = {"NoCapacity": "capacity"}
    code = r"api error (\w+)"
    environment = (*ENVIRONMENT, KEY_VARIABLE)
    credentials = (KEY_VARIABLE,)
    free = frozenset({"aws:ec2/keyPair:KeyPair", "aws:ec2/securityGroup:SecurityGroup"})
    limits = Limits(0.0, 0.0, 1.0, "the machine ends itself", "nowhere")

    def offers(self, spec: Spec) -> Sequence[Offer]:
        ways = (True, False) if spec.spot == PREFER_SPOT else (bool(spec.spot),)
        found = [
            Offer(
                "standin",
                spec.region or "north-1",
                name,
                cores,
                8 << 30,
                price / (2 if spot else 1),
                spot=spot,
                as_of="2026-01-01",
                source="the stand-in",
            )
            for spot in ways
            for name, (cores, price) in _TYPES.items()
            if cores >= (spec.cores or 0) and spec.instance_type in (None, name)
        ]
        if not found:
            raise SpecError("the stand-in has nothing like that")
        return found

    def declare(self, spec: Spec, offer: Offer, run: Run) -> Mapping[str, Any]:
        import pulumi
        import pulumi_aws as aws

        cloud = aws.Provider("cloud", region=offer.region, skip_credentials_validation=True)
        options = pulumi.ResourceOptions(provider=cloud)
        group = aws.ec2.SecurityGroup("door", description="ssh", opts=options)
        key = aws.ec2.KeyPair("key", public_key=run.public_key or "none yet", opts=options)
        machine = aws.ec2.Instance(
            "machine",
            instance_type=offer.instance_type,
            ami="ami-1",
            key_name=key.key_name,
            vpc_security_group_ids=[group.id],
            opts=options,
        )
        disk = aws.ebs.Volume("disk", availability_zone="north-1a", size=10, opts=options)
        attached = pulumi.Output.all(machine.public_ip, disk.id).apply(lambda found: found[0])
        return {"id": machine.id, "host": attached, "port": 22, "user": "ubuntu", "host_key": ""}

    def inventory(self, owner: str | None) -> Sequence[Found]:
        return []

    def terminate(self, found: Found) -> None:
        pass

    def instance_state(self, id: str) -> State:
        return "unknown"

    def owns(self, held: Held, whose: Whose) -> bool:
        return False  # None was ever made.

    def sets(self, settings: Mapping[str, Any], whose: Whose) -> bool:
        return False

    def without_credentials(self) -> Sequence[str]:
        return [] if os.environ.get(KEY_VARIABLE) else [f"export {KEY_VARIABLE}=..."]


PROVIDER = StandIn()
