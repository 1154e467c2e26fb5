"""What a launch asks for, checked against the API's rules before anything is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.emulators.lambda_cloud import catalog, refusal
from tests.emulators.lambda_cloud.body import Body
from tests.emulators.lambda_cloud.catalog import InstanceType
from tests.emulators.lambda_cloud.file_systems import FileSystems, Mount
from tests.emulators.lambda_cloud.firewalls import Firewalls
from tests.emulators.lambda_cloud.ssh_keys import SSHKey, SSHKeys

USER_DATA_BYTES = 1_000_000
_DEFAULT_FAMILY = "lambda-stack-22-04"


@dataclass(frozen=True)
class Order:
    """One launch whose fields are all as they should be."""

    region: str
    type: InstanceType
    ssh_key: SSHKey
    image: Mapping[str, Any]
    name: str | None
    hostname: str | None
    user_data: str
    tags: tuple[tuple[str, str], ...]
    mounts: tuple[Mount, ...]
    rulesets: tuple[str, ...]


def read(body: Body, keys: SSHKeys, file_systems: FileSystems, firewalls: Firewalls) -> Order:
    """Reads the body of a launch; its form first, then whether what it names exists.

    Raises:
        Refusal: the first rule that it breaks.
    """
    region = body.text("region_name")
    type_name = body.text("instance_type_name")
    key_names = body.texts("ssh_key_names", required=True)
    if len(key_names) != 1:
        raise body.refusal("ssh_key_names", "Exactly one SSH key must be specified")
    body.number("quantity", 1, least=1, most=1)
    name = body.optional_text("name", most=64)
    hostname = body.optional_text(
        "hostname", least=1, most=63, pattern=r"^[a-z0-9][0-9a-z-]{0,62}\Z"
    )
    user_data = body.optional_text("user_data") or ""
    if len(user_data.encode()) > USER_DATA_BYTES:
        raise body.refusal("user_data", "Must be plain text of at most 1MB")
    tags = tuple(_tag(entry) for entry in body.records("tags"))
    image = body.record("image")
    if region not in catalog.REGIONS:
        raise body.refusal("region_name", f"Unknown region {region}")
    if type_name not in catalog.TYPES:
        raise refusal.missing(f"Instance type {type_name} does not exist.")
    type = catalog.TYPES[type_name]
    order = Order(
        region,
        type,
        keys.named(key_names[0]),
        _image(image, region, type),
        name,
        hostname,
        user_data,
        tags,
        file_systems.mounts(body, region),
        firewalls.wanted(body, region),
    )
    body.end()
    return order


def _tag(entry: Body) -> tuple[str, str]:
    key = entry.text("key", most=55, pattern=r"^[a-z][a-z0-9-:]+\Z")
    value = entry.text("value", most=128)
    entry.end()
    return key, value


def _image(wanted: Body | None, region: str, type: InstanceType) -> Mapping[str, Any]:
    """The image by id or family; the newest Lambda Stack where none is asked for."""
    family: str | None = _DEFAULT_FAMILY
    id = None
    if wanted is not None:
        id, family = wanted.optional_text("id"), wanted.optional_text("family")
        wanted.end()
        if (id is None) == (family is None):
            raise wanted.refusal("id", "Either id or family is required")
    fitting = [
        image
        for image in catalog.images()
        if image["region"]["name"] == region and image["architecture"] == type.architecture
    ]
    for image in fitting:
        if image["id"] == id or image["family"] == family:
            return image
    raise refusal.missing(
        f"Image {id or family} for {type.architecture} does not exist in {region}."
    )
