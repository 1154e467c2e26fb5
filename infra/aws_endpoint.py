"""Where AWS's APIs are: at AWS, or where AWS's own variables for this say, as an emulator has it."""

from __future__ import annotations

import os

from dayfly.infra import emulated

SERVICES = ("ec2", "ssm", "sts", "pricing")
# https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html
VARIABLES = (
    "AWS_ENDPOINT_URL",
    *(f"AWS_ENDPOINT_URL_{service.upper()}" for service in SERVICES),
)


def of(service: str) -> str:
    """The address that the environment gives for a service, "" where AWS's own is meant."""
    own = os.environ.get(f"AWS_ENDPOINT_URL_{service.upper()}", "").strip()
    return own or os.environ.get("AWS_ENDPOINT_URL", "").strip()


def given() -> dict[str, str]:
    """All such addresses by service; empty where AWS's own are meant."""
    return {service: url for service in SERVICES if (url := of(service))}


def settings() -> list[dict[str, str]]:
    """Those that the plugin is told, as it takes them; it does not ask for prices."""
    told = {name: url for name, url in given().items() if name != "pricing"}
    return [told] if told else []


def api_url(region: str) -> str:
    """Where EC2 is asked in a region."""
    return of("ec2") or f"https://ec2.{region}.amazonaws.com"


def is_here() -> bool:
    """True where EC2 is an emulator on this computer, which is as consistent as a program can be."""
    return emulated.is_here(of("ec2"))
