"""Whose Google Cloud project a run is in, how its credentials are found, and where its APIs are."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dayfly.errors import ConfigurationError

# For emulators only: one address for Compute Engine and for the price catalogue.
URL_VARIABLE = "DAYFLY_GCP_URL"
URL = "https://compute.googleapis.com"
# As Google's own libraries and gcloud name them (google.auth.environment_vars, `gcloud topic configurations`).
KEY_FILE_VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"
PROJECT_VARIABLES = ("GOOGLE_CLOUD_PROJECT", "CLOUDSDK_CORE_PROJECT")
CONFIG_VARIABLE = "CLOUDSDK_CONFIG"
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
# What the firmware of Google's own machines says; google.auth looks for the same before it asks the metadata server.
_PRODUCT = Path("/sys/class/dmi/id/product_name")


def base_url() -> str:
    """Where Compute Engine is.

    Raises:
        ConfigurationError: the override would have an emulator's requests leave this computer.
    """
    url = os.environ.get(URL_VARIABLE, "").strip().rstrip("/")
    if url and urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1"):
        raise ConfigurationError(
            f"{URL_VARIABLE}={url} is for emulators on this computer only; unset it to use {URL}"
        )
    return url or URL


def is_emulated() -> bool:
    """True where the address is not Google's own."""
    return base_url() != URL


def missing() -> list[str]:
    """What is not there of credentials and project, each with its fix; by looking at files alone."""
    lacking = []
    file = key_file()
    if not is_emulated() and not file.is_file() and not _is_on_google():
        named = os.environ.get(KEY_FILE_VARIABLE)
        lacking.append(
            f"{KEY_FILE_VARIABLE}={named}: there is no such file; correct it, or unset it and run"
            " `gcloud auth application-default login`"
            if named
            else "no Google Cloud credentials: run `gcloud auth application-default login`, or export"
            f" {KEY_FILE_VARIABLE}=FILE of a service account's key"
        )
    if not lacking and not _known_project() and not _is_on_google():
        lacking.append(
            f"no Google Cloud project: export {PROJECT_VARIABLES[0]}=PROJECT-ID (`gcloud projects list` shows yours)"
        )
    return lacking


def project() -> str:
    """The project that machines are made in, and paid by.

    Raises:
        ConfigurationError: there is none, or there are no credentials; with the fix.
    """
    if lacking := missing():
        raise ConfigurationError("; ".join(lacking))
    return _known_project() or str(_default()[1] or "")


def credentials() -> Any:
    """Google's own search for credentials (Application Default Credentials); an emulator takes none.

    Raises:
        ConfigurationError: there are none.
    """
    if is_emulated():
        from google.auth.credentials import AnonymousCredentials

        return AnonymousCredentials()
    return _default()[0]


def _default() -> tuple[Any, str | None]:
    import google.auth
    from google.auth.exceptions import GoogleAuthError

    try:
        found, name = google.auth.default(scopes=[_SCOPE])
    except GoogleAuthError as error:
        raise ConfigurationError(
            f"Google Cloud's credentials cannot be used: {error}; run `gcloud auth application-default login`"
        ) from error
    return found, name


def _known_project() -> str:
    """From the environment, else from the file with the credentials; "" where neither says."""
    for name in PROJECT_VARIABLES:
        if value := os.environ.get(name, "").strip():
            return value
    try:
        held = json.loads(key_file().read_text())
        # Of a service account's key, or as `gcloud auth application-default set-quota-project` has written it.
        return str(held.get("project_id") or held.get("quota_project_id") or "")
    except (OSError, ValueError, AttributeError):
        return ""


def key_file() -> Path:
    """Where Google's libraries look for credentials."""
    named = os.environ.get(KEY_FILE_VARIABLE)
    if named:
        return Path(named).expanduser()
    folder = os.environ.get(CONFIG_VARIABLE)
    root = Path(folder).expanduser() if folder else Path.home() / ".config" / "gcloud"
    return root / "application_default_credentials.json"


def _is_on_google() -> bool:
    """Whether this computer is one of Google's, whose metadata server gives credentials and project."""
    try:
        return not is_emulated() and _PRODUCT.read_text().strip().startswith("Google")
    except OSError:
        return False
