"""Where Lambda Cloud's API is, and how fast its time goes: both are settled, but for emulators."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from dayfly.errors import ConfigurationError
from dayfly.infra import emulated

URL = "https://cloud.lambda.ai/api/v1"
# For emulators only.
URL_VARIABLE, SCALE_VARIABLE = "LAMBDA_API_URL", "LAMBDA_TIME_SCALE"


def base_url() -> str:
    """Where the API is.

    Raises:
        ConfigurationError: the override would send the key in clear over a network.
    """
    url = os.environ.get(URL_VARIABLE, "").strip().rstrip("/") or URL
    scheme = urlsplit(url).scheme
    if scheme != "https" and not (scheme == "http" and emulated.is_here(url)):
        raise ConfigurationError(
            f"{URL_VARIABLE}={url}: the API key is only sent over https, or to this computer; unset it to use {URL}"
        )
    return url


def is_emulated() -> bool:
    """True where the address is not Lambda's own."""
    return base_url() != URL


def time_scale() -> float:
    """How many of the API's seconds pass in one of ours: 1, but for an emulator that says otherwise.

    Raises:
        ConfigurationError: the override is not a number of at least 1, or is meant for the real API.
    """
    return emulated.time_scale(SCALE_VARIABLE, URL_VARIABLE, emulated=is_emulated())
