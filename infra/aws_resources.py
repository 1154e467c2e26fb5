"""The resources of a run at AWS: a key, a security group, the machines; and a network where the account has no default one."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dayfly.infra import (
    aws_endpoint,
    aws_image,
    aws_network,
    aws_prices,
    aws_sdk,
    aws_session,
    caller,
)
from dayfly.infra.aws_errors import AwsError
from dayfly.infra.aws_ids import AwsId, zone_of
from dayfly.infra.ingress import SSH_PORT
from dayfly.infra.offers import Offer
from dayfly.infra.run import Run
from dayfly.infra.spec import Spec

if TYPE_CHECKING:
    from pulumi import Output, ResourceOptions

USER = "ubuntu"
# The plugin takes a lack of capacity for an error of the network and tries again, by itself 25 times, most of an hour:
# https://github.com/hashicorp/terraform-provider-aws/issues/38133. Despite its name the setting counts the first attempt, too:
# https://github.com/hashicorp/aws-sdk-go-base, aws_config.go, `WithRetryMaxAttempts(c.MaxRetries)`.
_MAX_RETRIES = 2
_CREATE, _DELETE = "10m", "15m"
_NETWORK = "10.77.0.0/24"
# A preview has no keys, and the plugin takes none that is empty; nobody has the other half of this one, which is all zeros.
_NO_KEY = f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{'A' * 43} preview"
_EVERYWHERE = "0.0.0.0/0"


def ask_ahead(offer: Offer) -> None:
    """What each program of the offer's place asks AWS: the answers, and what it takes to ask, stay in this process and its forks.

    Where it cannot be asked the program says so.
    """
    place = zone_of(offer.region)
    if place is not None and aws_session.has_credentials():
        with contextlib.suppress(AwsError):
            aws_network.look_ahead(place[0])
            if not aws_endpoint.given():
                # Closed for the same reason as that one's.
                with contextlib.closing(aws_session.client("sts")):
                    aws_session.account()


@dataclass(frozen=True)
class Declared:
    """What is said of one run, to the machines of which it is common.

    Attributes:
        spec: what is asked for.
        offer: the rung.
        run: whose.
        region: of the offer's place.
        zone: of it, "" where EC2 chooses one.
    """

    spec: Spec
    offer: Offer
    run: Run
    region: str
    zone: str

    @classmethod
    def of(cls, spec: Spec, offer: Offer, run: Run) -> Declared:
        """The offer's place is one of AWS's."""
        place = zone_of(offer.region)
        assert place is not None, offer.region
        return cls(spec, offer, run, *place)

    @property
    def name(self) -> str:
        """Of key and group: after an unclean end it says whose they are."""
        return f"dayfly-{self.run.id}"

    def machines(self) -> list[Mapping[str, Any]]:
        """Registers everything, and gives the outputs of each machine."""
        import pulumi

        allowed = caller.of_run(self.spec, self.run, aws_endpoint.api_url(self.region))
        aws = aws_sdk.load()

        provider = aws.Provider("aws", **self._settings())
        options = pulumi.ResourceOptions(
            provider=provider,
            custom_timeouts=pulumi.CustomTimeouts(create=_CREATE, delete=_DELETE),
        )
        ami = aws_image.ami(self.spec, self.offer, pulumi.InvokeOutputOptions(provider=provider))
        key = aws.ec2.KeyPair(
            "key",
            key_name=self.name,
            public_key=self.run.public_key or _NO_KEY,
            tags=self.run.tags,
            opts=options,
        )
        vpc, subnet, routed = self._network(options)
        group = self._group(allowed.cidr, vpc, options)
        common = {
            "ami": ami,
            "key_name": key.key_name,
            "vpc_security_group_ids": [group.id],
            **({"subnet_id": subnet} if subnet is not None else {}),
        }
        # Packets have to find their way before anybody is waited for.
        options = pulumi.ResourceOptions.merge(options, pulumi.ResourceOptions(depends_on=routed))
        return [
            self._machine(node, common, str(allowed), options) for node in range(self.spec.nodes)
        ]

    def _settings(self) -> dict[str, Any]:
        """Of the plugin; no credential, which it takes from the environment by the same chain."""
        settings: dict[str, Any] = {
            "region": self.region,
            "max_retries": _MAX_RETRIES,
            "default_tags": {"tags": self.run.tags},
            "skip_metadata_api_check": not aws_session.is_instance(),
        }
        endpoints = aws_endpoint.given()
        if not endpoints:
            if self.run.public_key and aws_session.has_credentials():
                # Also when the stack is destroyed, by whoever that is.
                settings["allowed_account_ids"] = [aws_session.account()]
            return settings
        skipped = ("credentials_validation", "requesting_account_id", "region_validation")
        return settings | {
            "endpoints": aws_endpoint.settings(),
            **{f"skip_{name}": True for name in skipped},
        }

    def _network(
        self, options: ResourceOptions
    ) -> tuple[Output[str] | None, Output[str] | str | None, list[Any]]:
        """A network of the run's own; a subnet of the region's default one, where there is one in the zone.

        Returns:
            Network, subnet, and what has to be there before a machine can be reached; None is the default, and EC2's choice.
        """
        certain = bool(self.run.public_key)
        there = aws_network.default_subnet(
            self.region, self.zone, self.offer.instance_type, certain=certain
        )
        if there is not None:
            return None, there or None, []
        aws = aws_sdk.load()
        named = {"tags": self.run.tags, "opts": options}
        vpc = aws.ec2.Vpc("network", cidr_block=_NETWORK, enable_dns_hostnames=True, **named)
        subnet = aws.ec2.Subnet(
            "subnet",
            vpc_id=vpc.id,
            cidr_block=_NETWORK,
            **({"availability_zone": self.zone} if self.zone else {}),
            **named,
        )
        gateway = aws.ec2.InternetGateway("gateway", vpc_id=vpc.id, **named)
        routes = aws.ec2.RouteTable(
            "routes",
            vpc_id=vpc.id,
            routes=[{"cidr_block": _EVERYWHERE, "gateway_id": gateway.id}],
            **named,
        )
        way = aws.ec2.RouteTableAssociation(
            "way-out", subnet_id=subnet.id, route_table_id=routes.id, opts=options
        )
        return vpc.id, subnet.id, [way]

    def _group(self, cidr: str, vpc: Output[str] | None, options: ResourceOptions) -> Any:
        aws = aws_sdk.load()
        port = SSH_PORT
        ingress: list[dict[str, Any]] = [
            {"protocol": "tcp", "from_port": port, "to_port": port, "cidr_blocks": [cidr]}
        ]
        if self.spec.nodes > 1:
            # Ranks and workers talk to each other, and to nobody else.
            ingress.append({"protocol": "-1", "from_port": 0, "to_port": 0, "self": True})
        out = {"protocol": "-1", "from_port": 0, "to_port": 0, "cidr_blocks": [_EVERYWHERE]}
        return aws.ec2.SecurityGroup(
            "firewall",
            name=self.name,
            description=f"dayfly run of {self.run.owner}",
            ingress=ingress,
            egress=[out],
            tags=self.run.tags,
            opts=_settled(options, "ingress"),
            **({"vpc_id": vpc} if vpc is not None else {}),
        )

    def _machine(
        self, node: int, common: Mapping[str, Any], firewall: str, options: ResourceOptions
    ) -> Mapping[str, Any]:
        import pulumi

        aws = aws_sdk.load()

        other = f"-{node}" if node else ""
        instance = aws.ec2.Instance(
            f"instance{other}",
            **common,
            **({"availability_zone": self.zone} if self.zone else {}),
            **(_spot(self.spec, self.offer) if self.offer.spot else {}),
            instance_type=self.offer.instance_type,
            associate_public_ip_address=True,
            # With it a machine that switches itself off is ended, and its disk with it.
            instance_initiated_shutdown_behavior="terminate",
            user_data=pulumi.Output.secret(aws_image.boot(self.run, node)),
            metadata_options={
                "http_endpoint": "enabled",
                "http_tokens": "required",
                "http_put_response_hop_limit": 1,
            },
            root_block_device={
                "volume_type": "gp3",
                "volume_size": aws_image.disk_gb(self.spec, self.offer.gpus),
                "encrypted": True,
                "delete_on_termination": True,
            },
            tags={**self.run.tags, "Name": f"dayfly-{self.run.id[:12]}{other}"},
            # The default tags of the plugin are not for volumes.
            volume_tags=self.run.tags,
            opts=_settled(options, "ami"),
        )
        return {
            "id": instance.id.apply(lambda id: str(AwsId(self.region, id))),
            "host": instance.public_ip,
            "port": SSH_PORT,
            "user": USER,
            "host_key": self.run.host_key_of(node),
            # It comes with the user data, which whoever holds the account may read.
            "host_key_bootstrap": True,
            "firewall": firewall,
            "inner_host": instance.private_ip,
        }


def _settled(options: ResourceOptions, name: str) -> ResourceOptions:
    """With one input that stays as it was first: another address of this computer, or a newer image, changes nothing that is up."""
    import pulumi

    return pulumi.ResourceOptions.merge(options, pulumi.ResourceOptions(ignore_changes=[name]))


def _spot(spec: Spec, offer: Offer) -> Mapping[str, Any]:
    """For at most what the offer's rate has of the machine itself."""
    beside = aws_prices.beside_usd_per_hour(aws_image.disk_gb(spec, offer.gpus))
    return {
        "instance_market_options": {
            "market_type": "spot",
            "spot_options": {
                "spot_instance_type": "one-time",
                "instance_interruption_behavior": "terminate",
                "max_price": f"{offer.usd_per_hour - beside:.6f}",
            },
        }
    }
