"""The Azure account of this computer: which subscription, and what logs in to it, both by reference only."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

SUBSCRIPTION = "AZURE_SUBSCRIPTION_ID"
# What azure-identity reads, by its own documentation: learn.microsoft.com/python/api/azure-identity.
SECRETS = (
    "AZURE_CLIENT_SECRET",
    "AZURE_CLIENT_CERTIFICATE_PASSWORD",
    "IDENTITY_HEADER",
    "MSI_SECRET",
)
VARIABLES = (
    SUBSCRIPTION,
    "AZURE_TENANT_ID",
    "AZURE_CLIENT_ID",
    *SECRETS,
    "AZURE_CLIENT_CERTIFICATE_PATH",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_AUTHORITY_HOST",
    "AZURE_TOKEN_CREDENTIALS",
    "AZURE_CONFIG_DIR",
    "IDENTITY_ENDPOINT",
    "MSI_ENDPOINT",
)
_ID = r"(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_LOG_IN = (
    "no Azure log-in: run `az login`, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET (or"
    " AZURE_CLIENT_CERTIFICATE_PATH, or AZURE_FEDERATED_TOKEN_FILE) of a service principal; on a machine of Azure's with an"
    " identity of its own set AZURE_TOKEN_CREDENTIALS=ManagedIdentityCredential"
)


def subscription() -> str:
    """The subscription that pays, "" where none is set."""
    return os.environ.get(SUBSCRIPTION, "").strip()


def missing() -> Sequence[str]:
    """What is missing, each with its fix; found out without a request."""
    found = []
    if not subscription():
        found.append(
            f"{SUBSCRIPTION} is not set: export {SUBSCRIPTION}=$(az account show --query id -o tsv)"
        )
    elif not re.fullmatch(_ID, subscription()):
        found.append(
            f"{SUBSCRIPTION}={subscription()!r} is not the id of a subscription; `az account list -o table` shows them"
        )
    if not _can_log_in():
        found.append(_LOG_IN)
    return found


def _can_log_in() -> bool:
    """Whether something of azure-identity's default chain is set up here; not whether it is let in."""
    is_set = {name for name in VARIABLES if os.environ.get(name, "").strip()}
    principal = {"AZURE_TENANT_ID", "AZURE_CLIENT_ID"} <= is_set and is_set & {
        "AZURE_CLIENT_SECRET",
        "AZURE_CLIENT_CERTIFICATE_PATH",
        "AZURE_FEDERATED_TOKEN_FILE",
    }
    identity = is_set & {"IDENTITY_ENDPOINT", "MSI_ENDPOINT", "AZURE_TOKEN_CREDENTIALS"}
    return bool(principal or identity) or _has_cli_login()


def _has_cli_login() -> bool:
    folder = Path(os.environ.get("AZURE_CONFIG_DIR") or Path.home() / ".azure")
    return shutil.which("az") is not None and (folder / "azureProfile.json").is_file()
