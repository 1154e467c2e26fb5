"""What each instance costs at EC2, by EC2's own rules and out of nothing that Dayfly says of it.

By the second from `running` on until it ends, for 60 s at least, and beside it its volumes and its public address for as long:
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-lifecycle.html#lifecycle-billing,
https://aws.amazon.com/about-aws/whats-new/2017/10/announcing-amazon-ec2-per-second-billing/, https://aws.amazon.com/ebs/pricing/,
https://aws.amazon.com/vpc/pricing/. Prices of volumes and addresses are us-east-1's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tests.emulators.aws.instances import Instance

_LEAST_S = 60
_GP3_USD_PER_GB_HOUR, _ADDRESS_USD_PER_HOUR = 0.08 / 730, 0.005


@dataclass(frozen=True)
class Bill:
    """Of one instance.

    Attributes:
        instance: its id, as a Machine of ours has it.
        usd_per_hour: of all that is billed for it.
        seconds: that it ran, until now where it runs.
    """

    instance: str
    usd_per_hour: float
    seconds: float

    @classmethod
    def of(cls, instance: Instance, now: float) -> Bill:
        """What it has cost."""
        address = _ADDRESS_USD_PER_HOUR if instance.public else 0.0
        disk = instance.disk_gb * _GP3_USD_PER_GB_HOUR
        lived_s = (instance.ended or now) - instance.launched
        return cls(instance.id, instance.usd_per_hour + disk + address, lived_s)

    @property
    def billed_s(self) -> float:
        """Seconds on the bill."""
        return max(math.ceil(self.seconds), _LEAST_S)

    @property
    def dollars(self) -> float:
        """The bill."""
        return self.billed_s * self.usd_per_hour / 3600
