"""What stands in front of moto: the rules of EC2 that moto does not know, and the services that it does not have."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from moto.backends import get_backend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from tests.emulators.aws import asked as wire
from tests.emulators.aws import prices
from tests.emulators.aws.asked import Asked, Environ, StartResponse
from tests.emulators.aws.faults import Faults, Refused
from tests.emulators.aws.instances import Instances
from tests.emulators.aws.launches import Launches
from tests.emulators.aws.spot_requests import SpotRequests
from tests.emulators.machines.truth import Truth

ACCOUNT = "123456789012"
_ID = re.compile(r"<instanceId>(i-[0-9a-f]+)</instanceId>")
_RULES = ("AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress")


class Front:
    """One world's API, as a WSGI application.

    Attributes:
        key: the id of the account's one key.
        regions: that the account has enabled.
        calls: what was carried out, by region and operation.
        permissions: all that a policy would have had to allow so far, "ec2:RunInstances".
        tagging: the operations that have tagged what they make, "RunInstances".
        spot_requests: of the spot instances.
    """

    def __init__(
        self,
        key: str,
        regions: Iterable[str],
        *,
        instances: Instances,
        launches: Launches,
        faults: Faults,
        truth: Truth,
        lock: threading.RLock,
    ) -> None:
        self.key, self.regions = key, tuple(regions)
        self.calls: list[tuple[str, str]] = []
        self.permissions: set[str] = set()
        self.tagging: set[str] = set()
        self.spot_requests = SpotRequests(instances)
        self._instances, self._launches, self._faults = instances, launches, faults
        self._truth, self._lock = truth, lock
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._own: dict[str, Callable[[Asked, StartResponse], Iterable[bytes]]] = {
            "GetParameter": self._parameter,
            "GetProducts": self._products,
            "DescribeSpotPriceHistory": self._spot_prices,
            "DescribeRegions": self._regions,
            "DescribeSpotInstanceRequests": self.spot_requests.describe,
            "CancelSpotInstanceRequests": self.spot_requests.cancel,
        }
        self._before: dict[str, Callable[[Asked], None]] = {
            "DeleteSecurityGroup": self._check_group,
            "DeleteSubnet": self._check_subnet,
            "DeleteVpc": self._check_vpc,
            "DescribeTags": self._forget_the_dead,
            "ModifyInstanceAttribute": self.spot_requests.check_modified,
        }

    def __call__(self, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        request = Asked.of(environ)
        fault = self._faults.take(request.action)
        try:
            if request.key != self.key:
                raise Refused(
                    "AuthFailure" if request.service == "ec2" else "UnrecognizedClientException",
                    "AWS was not able to validate the provided access credentials",
                    401,
                )
            refused = None if fault is None else fault.refusal
            if fault is not None and not fault.after:
                self._truth.write("refused", action=request.action, code=fault.code)
                raise fault.refusal
            with self._lock:
                self.calls.append((request.region, request.action))
                self._note(request)
                said = self._carry_out(request, environ, start if refused is None else _nowhere)
            if refused is not None:
                raise refused
            return said
        except Refused as refusal:
            return wire.refuse(start, request, refusal)
        except Exception:
            self._truth.failed(f"{request.service} {request.action}")
            raise

    def _note(self, asked: Asked) -> None:
        """What a policy has to allow for it; tags that are given with what is made are one thing more.

        https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/supported-iam-actions-tagging.html
        """
        self.permissions.add(f"{asked.service}:{asked.action}")
        if any(name.startswith("TagSpecification.") for name in asked.fields):
            self.permissions.add("ec2:CreateTags")
            self.tagging.add(asked.action)

    def _carry_out(self, asked: Asked, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        own = self._own.get(asked.action)
        if own is not None:
            return own(asked, start)
        if asked.action == "DescribeImages" and (images := asked.listed("ImageId")):
            described = self._launches.images(images)
            if described:
                return wire.answer_xml(start, asked.action, described)
        if asked.action == "RunInstances":
            return self._launch(asked, environ, start)
        if asked.action == "DeleteKeyPair" and "KeyPairId" in asked.fields:
            environ = self._key_by_name(asked).environ(environ)
        before = self._before.get(asked.action)
        if before is not None:
            before(asked)
        said = list(self._moto(environ, start))
        if asked.action == "TerminateInstances":
            for id in asked.listed("InstanceId"):
                self._instances.terminated(id)
        elif asked.action in _RULES:
            self._instances.look_again()
        return said

    def _launch(self, asked: Asked, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        token = asked.fields.get("ClientToken", "")
        earlier = self._launches.earlier(token)
        if earlier is not None:
            return wire.answer(start, "200 OK", earlier, "text/xml")
        backend = self.backend(asked.region)
        launched = self._launches.checked(asked, backend)
        said = b"".join(self._moto(launched.environ(environ), start))
        found = _ID.findall(said.decode())
        for id in found:
            key = backend.key_pairs[asked.fields["KeyName"]]
            data = asked.fields.get("UserData", "")
            row = backend.get_instance(id)
            public = _is_public(asked, backend.get_subnet(row.subnet_id))
            self._instances.add(asked.region, row, data, key.public_key, public=public)
        if found:
            self._launches.remember(token, said)
        return [said]

    def backend(self, region: str) -> Any:
        """What moto has of one region."""
        return get_backend("ec2")[ACCOUNT][region]

    def _key_by_name(self, asked: Asked) -> Asked:
        """Moto deletes keys by their names alone."""
        id, pairs = asked.fields["KeyPairId"], self.backend(asked.region).key_pairs.values()
        name = next((each.key_name for each in pairs if each.id == id), None)
        if name is None:
            raise Refused("InvalidKeyPair.NotFound", f"The key pair ID '{id}' does not exist")
        return asked.having(KeyName=name)

    # -- what moto lets be deleted

    def _check_group(self, asked: Asked) -> None:
        id = asked.fields.get("GroupId", "")
        if any(
            group.id == id for each in self._instances.alive() for group in each.row.security_groups
        ):
            raise Refused("DependencyViolation", f"resource {id} has a dependent object")

    def _check_subnet(self, asked: Asked) -> None:
        id = asked.fields.get("SubnetId", "")
        if any(each.row.subnet_id == id for each in self._instances.alive()):
            raise Refused(
                "DependencyViolation", f"The subnet '{id}' has dependencies and cannot be deleted."
            )

    def _check_vpc(self, asked: Asked) -> None:
        id, backend = asked.fields.get("VpcId", ""), self.backend(asked.region)
        gateways = [
            each for each in backend.internet_gateways.values() if each.vpc and each.vpc.id == id
        ]
        groups = [each for each in backend.groups.get(id, {}).values() if each.name != "default"]
        if gateways or groups:
            raise Refused(
                "DependencyViolation", f"The vpc '{id}' has dependencies and cannot be deleted."
            )

    def _forget_the_dead(self, asked: Asked) -> None:
        """Moto keeps the tags of what was deleted."""
        backend = self.backend(asked.region)
        there = {
            *(each.id for each in backend.key_pairs.values()),
            *(id for groups in backend.groups.values() for id in groups),
            *(id for subnets in backend.subnets.values() for id in subnets),
            *backend.volumes,
            *backend.vpcs,
            *backend.internet_gateways,
            *backend.route_tables,
        }
        for id in [id for id in backend.tags if id not in there and not id.startswith("i-")]:
            del backend.tags[id]

    # -- what moto does not have

    def _parameter(self, asked: Asked, start: StartResponse) -> Iterable[bytes]:
        name = asked.fields["Name"]
        value = self._launches.parameter(name)
        if value is None:
            raise Refused("ParameterNotFound", "")
        arn = f"arn:aws:ssm:{asked.region}::parameter{name}"
        shown = {"Name": name, "Type": "String", "Value": value, "Version": 1, "ARN": arn}
        return wire.answer_json(start, {"Parameter": shown | {"DataType": "aws:ec2:image"}})

    def _products(self, asked: Asked, start: StartResponse) -> Iterable[bytes]:
        found = prices.products(asked.fields["Filters"])
        first = int(asked.fields.get("NextToken") or 0)
        page = {"FormatVersion": "aws_v1", "PriceList": found[first : first + 2]}
        more = {"NextToken": str(first + 2)} if first + 2 < len(found) else {}
        return wire.answer_json(start, page | more)

    def _spot_prices(self, asked: Asked, start: StartResponse) -> Iterable[bytes]:
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        rows = [
            f"<item><instanceType>{type}</instanceType><productDescription>Linux/UNIX</productDescription>"
            f"<spotPrice>{price:.6f}</spotPrice><timestamp>{at}</timestamp>"
            f"<availabilityZone>{zone}</availabilityZone></item>"
            for type in asked.listed("InstanceType")
            for zone in self._launches.zones(asked.region, type)
            if (price := prices.spot(type, zone)) is not None
        ]
        inner = f"<spotPriceHistorySet>{''.join(rows)}</spotPriceHistorySet><nextToken/>"
        return wire.answer_xml(start, asked.action, inner)

    def _regions(self, asked: Asked, start: StartResponse) -> Iterable[bytes]:
        rows = [
            f"<item><regionName>{name}</regionName><regionEndpoint>ec2.{name}.amazonaws.com</regionEndpoint>"
            "<optInStatus>opt-in-not-required</optInStatus></item>"
            for name in self.regions
        ]
        return wire.answer_xml(start, asked.action, f"<regionInfo>{''.join(rows)}</regionInfo>")


def _is_public(asked: Asked, subnet: Any) -> bool:
    """Whether a launch gets a public address: as it asks for its interface, else as its subnet is set."""
    wanted = asked.fields.get("NetworkInterface.1.AssociatePublicIpAddress")
    given = subnet.map_public_ip_on_launch if wanted is None else wanted
    return str(given).lower() == "true"


def _nowhere(_status: str, _headers: Any, _info: Any = None) -> None:
    """Of an answer that nobody gets."""
