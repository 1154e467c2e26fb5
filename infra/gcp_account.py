"""Whose Google Cloud project a run is in, how its credentials are found, and where its APIs are."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

from dayfly.errors import ConfigurationError
from dayfly.infra import emulated

# For emulators only: one address for Compute Engine and for the price catalogue.
URL_VARIABLE = "DAYFLY_GCP_URL"
URL = "https://compute.googleapis.com"
# As Google's own libraries and gcloud name them (google.auth.environment_vars, `gcloud topic configurations`).
KEY_FILE_VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"
PROJECT_VARIABLES = ("GOOGLE_CLOUD_PROJECT", "CLOUDSDK_CORE_PROJECT")
CONFIG_VARIABLE = "CLOUDSDK_CONFIG"
ACTIVE_VARIABLE = "CLOUDSDK_ACTIVE_CONFIG_NAME"
# Google's own libraries ask there, and let it be another with this variable (google.auth.environment_vars).
_METADATA, METADATA_VARIABLE, _METADATA_S = "169.254.169.254", "GCE_METADATA_HOST", 1.0
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
# What the firmware of Google's own machines says; google.auth looks for the same before it asks the metadata server.
_PRODUCT = Path("/sys/class/dmi/id/product_name")


def base_url() -> str:
    """Where Compute Engine is.

    Raises:
        ConfigurationError: the override would have an emulator's requests leave this computer.
    """
    url = os.environ.get(URL_VARIABLE, "").strip().rstrip("/")
    if url and not emulated.is_here(url):
        raise ConfigurationError(
            f"{URL_VARIABLE}={url} is for emulators on this computer only; unset it to use {URL}"
        )
    return url or URL


def is_emulated() -> bool:
    """True where the address is not Google's own."""
    return base_url() != URL


def missing() -> list[str]:
    """What is not there of credentials and project, each with its fix; by looking at files, and on Google's own computers at their metadata."""
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
    if not lacking and (doubt := _doubt()):
        lacking.append(doubt)
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
    return _named_project() or _held("project_id") or _held("quota_project_id")


def _named_project() -> str:
    found = (os.environ.get(name, "").strip() for name in PROJECT_VARIABLES)
    return next((value for value in found if value), "")


def _held(name: str) -> str:
    """A field of the file with the credentials: a service account's key has the project that it is of."""
    try:
        return str(json.loads(key_file().read_text()).get(name) or "")
    except (OSError, ValueError, AttributeError):
        return ""


def _doubt() -> str:
    """Why nobody can tell which project is to pay; "" where that is clear.

    A user's own credentials name one for quotas alone, which `gcloud config set project` leaves as it is.
    """
    quota, current = _held("quota_project_id"), _gcloud_project()
    if _named_project() or _held("project_id") or not quota or current in ("", quota):
        return ""
    return (
        f"two Google Cloud projects: {current!r} is gcloud's, {quota!r} the quota project of the credentials; export"
        f" {PROJECT_VARIABLES[0]}={current} (or {quota}) to say which one pays"
    )


def _gcloud_project() -> str:
    """Of gcloud's active configuration, as `gcloud topic configurations` describes its files; "" where there is none."""
    # A plan that asks nobody has no use for what this loads.
    import configparser

    try:
        active = os.environ.get(ACTIVE_VARIABLE) or (_config() / "active_config").read_text()
        settings = configparser.ConfigParser(interpolation=None)
        settings.read_string(
            (_config() / "configurations" / f"config_{active.strip()}").read_text()
        )
        return settings.get("core", "project", fallback="").strip()
    except (OSError, ValueError, configparser.Error):
        return ""


def key_file() -> Path:
    """Where Google's libraries look for credentials."""
    named = os.environ.get(KEY_FILE_VARIABLE)
    if named:
        return Path(named).expanduser()
    return _config() / "application_default_credentials.json"


def _config() -> Path:
    folder = os.environ.get(CONFIG_VARIABLE)
    return Path(folder).expanduser() if folder else Path.home() / ".config" / "gcloud"


def _is_on_google() -> bool:
    """Whether this computer is one of Google's, whose metadata server gives credentials and project.

    Many of them have no service account, as those that Dayfly itself makes: they get neither.
    """
    try:
        is_google = not is_emulated() and _PRODUCT.read_text().strip().startswith("Google")
    except OSError:
        return False
    return is_google and _has_service_account(os.environ.get(METADATA_VARIABLE) or _METADATA)


@functools.cache
def _has_service_account(host: str) -> bool:
    """By the metadata server, asked once a process: cloud.google.com/compute/docs/metadata/predefined-metadata-keys."""
    # Its import takes longer than all else here, and this is asked on Google's computers alone.
    import requests

    url = f"http://{host}/computeMetadata/v1/instance/service-accounts/"
    try:
        with requests.Session() as session:
            session.trust_env = False
            answer = session.get(
                url,
                headers={"Metadata-Flavor": "Google"},
                timeout=_METADATA_S,
                allow_redirects=False,
            )
    except requests.RequestException:
        return False
    return answer.status_code == 200 and "default/" in answer.text.split()
