"""Images at Azure: what a machine boots from, as `image=` names it, and how large its disk has to be for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dayfly.errors import SpecError
from dayfly.infra.offers import Offer
from dayfly.infra.spec import Spec

# Microsoft's own for GPUs: driver, CUDA, NCCL and docker are in it (github.com/Azure/azhpc-images). It boots without
# Secure Boot only, which is what a machine has that asks for no security type.
GPU = "microsoft-dsvm:ubuntu-hpc:2404:latest"
PLAIN = "Canonical:ubuntu-24_04-lts:server:latest"
PLAIN_ARM = "Canonical:ubuntu-24_04-lts:server-arm64:latest"
# No less than the image's own disk, and room for CUDA wheels beside it; of any disk the image itself takes so much.
_LEAST_GB, _LEAST_GPU_GB = 64, 128
_TAKEN_GB, _TAKEN_GPU_GB = 8, 40
# learn.microsoft.com/azure/virtual-machines/managed-disks-overview: an OS disk has at most 4095 GiB.
MOST_DISK_GB = 4095
MOST_FREE_BYTES = (MOST_DISK_GB - _TAKEN_GPU_GB) << 30
_NAMED = r"[\w.-]+:[\w.-]+:[\w.-]+:[\w.-]+"
_BY_ID = (
    r"(?i)/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.Compute/"
    r"(images/[^/]+|galleries/[^/]+/images/[^/]+(/versions/[^/]+)?)"
    r"|/(CommunityGalleries|SharedGalleries)/[^/]+/Images/[^/]+(/Versions/[^/]+)?"
)


def check(image: str | None) -> None:
    """Refuses what no image can be called.

    Raises:
        SpecError: with the two forms.
    """
    if image and not (re.fullmatch(_NAMED, image) or re.fullmatch(_BY_ID, image)):
        raise SpecError(
            f'image={image!r}: provider="azure" takes PUBLISHER:OFFER:SKU:VERSION, as {GPU!r}, or the id of an image or of'
            " a version in a gallery, /subscriptions/...; `az vm image list --all -p microsoft-dsvm` shows some"
        )


def reference(spec: Spec, offer: Offer) -> Mapping[str, Any]:
    """What the machine boots from, as `image_reference` takes it."""
    plain = PLAIN_ARM if offer.arch == "arm64" else PLAIN
    image = spec.image or (GPU if offer.gpus else plain)
    if re.fullmatch(_NAMED, image):
        names = ("publisher", "offer", "sku", "version")
        return dict(zip(names, image.split(":"), strict=True))
    lower = image.lower()
    if lower.startswith("/communitygalleries/"):
        return {"community_gallery_image_id": image}
    if lower.startswith("/sharedgalleries/"):
        return {"shared_gallery_image_id": image}
    return {"id": image}


def disk_gb(spec: Spec, offer: Offer) -> int:
    """GiB of the machine's disk, so that as much is free as is asked for."""
    least, taken = (_LEAST_GPU_GB, _TAKEN_GPU_GB) if offer.gpus else (_LEAST_GB, _TAKEN_GB)
    return max(least, min(-(-spec.disk_bytes // (1 << 30)) + taken, MOST_DISK_GB))
