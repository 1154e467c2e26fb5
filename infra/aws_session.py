"""AWS through its own SDK: the usual chain of credentials, by reference, and one client a region and service.

The chain is botocore's: variables, profile, SSO, a web identity, a container's role, an instance's role.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import threading
from pathlib import Path
from typing import Any

from dayfly.infra import aws_endpoint
from dayfly.infra.aws_errors import AwsError, mapped

CREDENTIALS = (
    # The id is worth nothing alone, and nobody has the one without the other.
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
)
# Where a credential is kept, who is to be taken, and where AWS is.
PLACES = (
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    *aws_endpoint.VARIABLES,
)
# What the chain looks at beside, where no variable names it.
_FILES = ("~/.aws/credentials", "~/.aws/config", "~/.boto", "/etc/boto.cfg")
_OLD_PLACES = ("AWS_CREDENTIAL_FILE", "BOTO_CONFIG")
HOME_REGION = "us-east-1"
# The list of prices is kept in a few regions alone: https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/price-changes.html
_PRICING_REGION = "us-east-1"
_CONNECT_S, _READ_S, _ATTEMPTS, _CONNECTIONS = 5.0, 30.0, 4, 16
_DMI = Path("/sys/devices/virtual/dmi/id/board_asset_tag")
_lock = threading.Lock()


def client(service: str, region: str = "") -> Any:
    """A client of this process's credentials; from any thread.

    Args:
        service: "ec2", "ssm", "sts" or "pricing".
        region: "" is the one that is set up here.

    Raises:
        AwsError: there are no credentials, or the profile that is named is not there.
    """
    if service == "pricing":
        region = _PRICING_REGION
    with _lock, mapped(f"preparing to ask {service}"):
        return _client(service, region or _region(_session(_settings())), _settings())


def home_region() -> str:
    """The region that variables or profile name, else us-east-1.

    Raises:
        AwsError: the profile that is named is not there.
    """
    with _lock, mapped("reading AWS's settings"):
        return _region(_session(_settings()))


def account() -> str:
    """The id of the account that these credentials are of, asked for once for each of them.

    Raises:
        AwsError: there are none, or AWS cannot be asked.
    """
    return _account(_settings())


def has_credentials() -> bool:
    """Whether the chain ends in something; a role or an SSO login may still turn out to have expired."""
    if importlib.util.find_spec("boto3") is None or _is_chain_bare():
        return False
    try:
        with _lock, mapped("looking for AWS credentials"):
            return _session(_settings()).get_credentials() is not None
    except AwsError:
        return False


def _is_chain_bare() -> bool:
    """Whether nothing is there that botocore's chain looks at, which is known without the half second that loading it takes.

    botocore's credentials.py, create_credential_resolver.
    """
    named = any(name in os.environ for name in (*CREDENTIALS, *PLACES, *_OLD_PLACES))
    kept = any(Path(file).expanduser().exists() for file in _FILES)
    return not named and not kept and not is_instance()


def is_instance() -> bool:
    """Whether this computer is an EC2 instance, which alone has a metadata service to ask: elsewhere that is a wait in vain.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/identify_ec2_instances.html
    """
    try:
        return _DMI.read_text().startswith("i-")
    except OSError:
        return False


def _settings() -> tuple[tuple[str, str], ...]:
    """What of the environment decides who asks whom: another one is another client."""
    names = (*CREDENTIALS, *PLACES)
    return tuple((name, os.environ[name]) for name in names if name in os.environ)


def _region(session: Any) -> str:
    # AWS_REGION is not among what boto3 reads, and is among what all of AWS's other tools do.
    return os.environ.get("AWS_REGION") or session.region_name or HOME_REGION


@functools.lru_cache(maxsize=4)
def _session(_settings: tuple[tuple[str, str], ...]) -> Any:
    import boto3
    from botocore.session import Session

    bare = Session()
    if not is_instance():
        bare.get_component("credential_provider").remove("iam-role")
    return boto3.Session(botocore_session=bare)


@functools.lru_cache(maxsize=4)
def _account(_settings: tuple[tuple[str, str], ...]) -> str:
    # No permission is needed: https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html
    sts = client("sts")
    with mapped("asking which account these credentials are of"):
        return str(sts.get_caller_identity()["Account"])


@functools.lru_cache(maxsize=128)
def _client(service: str, region: str, settings: tuple[tuple[str, str], ...]) -> Any:
    from botocore.config import Config

    config = Config(
        connect_timeout=_CONNECT_S,
        read_timeout=_READ_S,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        max_pool_connections=_CONNECTIONS,
        user_agent_extra="dayfly",
    )
    return _session(settings).client(service, region_name=region, config=config)
