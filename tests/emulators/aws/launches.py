"""What EC2 looks at before it launches: image, key, quota, capacity of a zone, and whether it has done so already."""

from __future__ import annotations

import base64
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS

from dayfly.infra import catalog
from tests.emulators.aws import prices
from tests.emulators.aws.asked import Asked
from tests.emulators.aws.faults import Refused
from tests.emulators.aws.instances import Instances

_GPU_IMAGE, _UBUNTU = "ami-0d15ea5e0000c0da1", "ami-0b5e550000000c0de"
_HOLDS_GB = {_GPU_IMAGE: 65, _UBUNTU: 8}
_PARAMETERS = {
    "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id": _GPU_IMAGE,
    "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id": _UBUNTU,
}
_USER_DATA_BYTES = 16384
_VOLUMES = ("gp2", "gp3", "io1", "io2", "st1", "sc1", "standard")


@dataclass
class Launches:
    """The rules, and what there is.

    Attributes:
        instances: those that there are.
        capacity: how many more of a type a zone has; any number where it is not named.
        quota_vcpus: of all running instances of a region together; None for any number.
    """

    instances: Instances
    capacity: dict[tuple[str, str], int] = field(default_factory=dict)
    quota_vcpus: int | None = None
    _answers: dict[str, bytes] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def earlier(self, token: str) -> bytes | None:
        """The answer that a token has got already."""
        return self._answers.get(token) if token else None

    def remember(self, token: str, said: bytes) -> None:
        """For the next one with this token."""
        if token:
            self._answers[token] = said

    def parameter(self, name: str) -> str | None:
        """A public parameter of SSM."""
        return _PARAMETERS.get(name)

    def images(self, ids: Sequence[str]) -> str:
        """What EC2 says of these, where they are of this world; "" where one is another's."""
        if not all(id in _HOLDS_GB for id in ids):
            return ""
        rows = (
            f"<item><imageId>{id}</imageId><imageState>available</imageState><rootDeviceType>ebs</rootDeviceType>"
            "<rootDeviceName>/dev/sda1</rootDeviceName></item>"
            for id in ids
        )
        return f"<imagesSet>{''.join(rows)}</imagesSet>"

    def zones(self, region: str, type: str) -> list[str]:
        """Those in which a type is sold."""
        known = INSTANCE_TYPE_OFFERINGS["availability-zone"].get(region, [])
        return sorted(each["Location"] for each in known if each["InstanceType"] == type)

    def checked(self, asked: Asked, backend: Any) -> Asked:
        """The launch, in a zone that has one.

        Raises:
            Refused: it is not done.
        """
        fields = asked.fields
        _check_image(fields, backend)
        if fields.get("KeyName") not in backend.key_pairs:
            raise Refused(
                "InvalidKeyPair.NotFound", f"The key pair '{fields.get('KeyName')}' does not exist"
            )
        if len(base64.b64decode(fields.get("UserData", ""))) > _USER_DATA_BYTES:
            raise Refused("InvalidParameterValue", "User data is limited to 16384 bytes")
        type = fields["InstanceType"]
        self._check_quota(asked.region, type)
        zone = self._zone(asked.region, type, _zone_asked_for(fields, backend))
        _check_price(fields, prices.spot(type, zone))
        if (type, zone) in self.capacity:
            self.capacity[type, zone] -= 1
        return asked.having(**{"Placement.AvailabilityZone": zone})

    def _check_quota(self, region: str, type: str) -> None:
        if self.quota_vcpus is None:
            return
        used = [each.row.instance_type for each in self.instances.alive() if each.region == region]
        if sum(map(_vcpus, [*used, type])) > self.quota_vcpus:
            raise Refused(
                "VcpuLimitExceeded",
                f"You have requested more vCPU capacity than your current vCPU limit of {self.quota_vcpus} allows for the"
                " instance bucket that the specified instance type belongs to. Please visit"
                " http://aws.amazon.com/contact-us/ec2-request to request an adjustment to this limit.",
            )

    def _zone(self, region: str, type: str, wanted: str) -> str:
        sold = self.zones(region, type)
        if not sold:
            raise Refused(
                "Unsupported",
                "The requested configuration is currently not supported. Please check the documentation for supported"
                " configurations.",
            )
        if wanted and wanted not in sold:
            raise Refused(
                "Unsupported",
                f"Your requested instance type ({type}) is not supported in your requested Availability Zone ({wanted})."
                f" Please retry your request by not specifying an Availability Zone or choosing {', '.join(sold)}.",
            )
        free = [zone for zone in sold if self.capacity.get((type, zone), 1) > 0]
        if wanted and wanted not in free:
            choice = f" or choosing {', '.join(free)}" if free else ""
            raise Refused(
                "InsufficientInstanceCapacity",
                f"We currently do not have sufficient {type} capacity in the Availability Zone you requested ({wanted})."
                " Our system will be working on provisioning additional capacity. You can currently get"
                f" {type} capacity by not specifying an Availability Zone in your request{choice}.",
                500,
            )
        if not free:
            raise Refused(
                "InsufficientInstanceCapacity",
                f"We currently do not have sufficient {type} capacity in zones with support for 'gp3' volumes. Our system"
                " will be working on provisioning additional capacity.",
                500,
            )
        return wanted or free[0]


def _check_image(fields: dict[str, str], backend: Any) -> None:
    image = fields["ImageId"]
    if image not in _HOLDS_GB and image not in backend.amis:
        raise Refused("InvalidAMIID.NotFound", f"The image id '[{image}]' does not exist")
    size = int(float(fields.get("BlockDeviceMapping.1.Ebs.VolumeSize", 10**6)))
    kind = fields.get("BlockDeviceMapping.1.Ebs.VolumeType", "gp2")
    if kind not in _VOLUMES:
        raise Refused("InvalidParameterValue", f"Invalid value '{kind}' for VolumeType.")
    least = _HOLDS_GB.get(image, 8)
    if size < least:
        raise Refused(
            "InvalidBlockDeviceMapping",
            f"Volume of size {size}GB is smaller than snapshot 'snap-0abc', expect size >= {least}GB",
        )


def _check_price(fields: dict[str, str], price: float | None) -> None:
    """Of a spot machine, against what is to be paid at most."""
    most = fields.get("InstanceMarketOptions.SpotOptions.MaxPrice")
    if most is not None and price is not None and float(most) < price:
        raise Refused(
            "SpotMaxPriceTooLow",
            f"Your Spot request price of {most} is lower than the minimum required Spot request fulfillment price of {price}.",
        )


def _zone_asked_for(fields: dict[str, str], backend: Any) -> str:
    """Of the placement, or of the subnet; a subnet cannot be in another zone than the placement."""
    subnet = fields.get("SubnetId") or fields.get("NetworkInterface.1.SubnetId", "")
    if subnet:
        return str(backend.get_subnet(subnet).availability_zone)
    if not any(vpc.is_default == "true" or vpc.is_default is True for vpc in backend.vpcs.values()):
        raise Refused("VPCIdNotSpecified", "No default VPC for this user")
    return str(fields.get("Placement.AvailabilityZone", ""))


def _vcpus(type: str) -> int:
    return catalog.machine_types("aws")[type].cores
