"""What a machine at AWS starts from, how much disk that needs, and what it is told to do at its first boot."""

from __future__ import annotations

import math
from typing import Any

from dayfly.infra import aws_sdk, user_data
from dayfly.infra.offers import Offer
from dayfly.infra.run import Run
from dayfly.infra.spec import Spec

# https://docs.aws.amazon.com/dlami/latest/devguide/aws-deep-learning-x86-base-gpu-ami-ubuntu-24-04.html
_GPU = "/aws/service/deeplearning/ami/{arch}/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
# https://documentation.ubuntu.com/aws/aws-how-to/instances/find-ubuntu-images/
_UBUNTU = "/aws/service/canonical/ubuntu/server/24.04/stable/current/{arch}/hvm/ebs-gp3/ami-id"
# Images of AWS's, of Canonical, and of the account itself.
_OWNERS = ("amazon", "099720109477", "self")
# What the image itself takes (a GPU's: driver and several CUDAs), and what a run gets beside it that asks for nothing.
_TAKEN_GB, _GPU_TAKEN_GB, _FREE_GB = 8, 65, 32
_MOST_GB = 16384
# logind turns users away in the last five minutes before a shutdown that it knows of, and a run may use all of its time.
_AFTER_DEADLINE_S = 360.0


def parameter(offer: Offer) -> str:
    """AWS's public parameter with the newest image for a machine: NVIDIA's driver where it has GPUs, else plain Ubuntu."""
    if offer.gpus:
        return _GPU.format(arch=offer.arch or "x86_64")
    return _UBUNTU.format(arch="arm64" if offer.arch == "arm64" else "amd64")


def ami(spec: Spec, offer: Offer, options: Any) -> Any:
    """The image's id, looked up by the engine: `image=` is that id, a parameter of AWS's that holds it ("/..."), or the name of an image.

    Args:
        spec: what is asked for.
        offer: the machine.
        options: of the look-up, `pulumi.InvokeOutputOptions`.
    """
    wanted = spec.image or parameter(offer)
    if wanted.startswith("ami-"):
        return wanted
    if wanted.startswith("/"):
        return aws_sdk.load().ssm.get_parameter_output(name=wanted, opts=options).value
    found = aws_sdk.load().ec2.get_ami_output(
        owners=list(_OWNERS),
        filters=[{"name": "name", "values": [wanted]}],
        most_recent=True,
        opts=options,
    )
    return found.id


def disk_gb(spec: Spec, gpus: int) -> int:
    """The root volume: the image, and what is asked for, or enough for an environment, beside it."""
    wanted = math.ceil(spec.disk_bytes / 1e9) or _FREE_GB
    return (_GPU_TAKEN_GB if gpus else _TAKEN_GB) + wanted


def most_disk_gb() -> int:
    """How much can be asked for; https://docs.aws.amazon.com/ebs/latest/userguide/general-purpose.html"""
    return _MOST_GB - _GPU_TAKEN_GB


def boot(run: Run, node: int) -> str:
    """The user data: a host key that only this run knows, and a timer that ends the machine when nobody else has.

    In clear it is a secret; whoever may read the account's user data can see it until the first login has replaced the key.
    """
    return user_data.of(run, node) + _deadline(run)


def _deadline(run: Run) -> str:
    """At every boot, so that a restart does not make it forget; a clock that is wrong makes it no longer than the whole run."""
    at = int(run.deadline + _AFTER_DEADLINE_S)
    most = math.ceil((run.deadline - run.created + _AFTER_DEADLINE_S) / 60)
    script = "/var/lib/cloud/scripts/per-boot/dayfly-deadline"
    return (
        "write_files:\n"
        f"  - path: {script}\n"
        "    permissions: '0755'\n"
        "    content: |\n"
        "      #!/bin/sh\n"
        f"      left=$(( ({at} - $(date +%s) + 59) / 60 ))\n"
        f'      [ "$left" -le {most} ] || left={most}\n'
        '      [ "$left" -ge 1 ] || left=1\n'
        '      exec shutdown -h "+$left"\n'
        "runcmd:\n"
        f"  - [{script}]\n"
    )
