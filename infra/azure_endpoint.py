"""Where Azure Resource Manager is, and how fast its time goes: both are settled, but for emulators."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from dayfly.errors import ConfigurationError
from dayfly.infra import emulated

URL = "https://management.azure.com"
# Microsoft documents it as open to everybody: learn.microsoft.com/rest/api/cost-management/retail-prices.
PRICES_URL = "https://prices.azure.com"
# For emulators only.
URL_VARIABLE, SCALE_VARIABLE = "DAYFLY_AZURE_URL", "DAYFLY_AZURE_TIME_SCALE"


def base_url() -> str:
    """Where the API is.

    Raises:
        ConfigurationError: the override is not on this computer.
    """
    url = os.environ.get(URL_VARIABLE, "").strip().rstrip("/") or URL
    if url != URL and not (urlsplit(url).scheme == "http" and emulated.is_here(url)):
        raise ConfigurationError(
            f"{URL_VARIABLE}={url}: it is for an emulator on this computer, http://127.0.0.1:PORT; unset it to use {URL}"
        )
    return url


def is_emulated() -> bool:
    """True where the address is not Azure's own."""
    return base_url() != URL


def prices_url() -> str:
    """Where the retail prices are; an emulator has its own."""
    return base_url() if is_emulated() else PRICES_URL


def time_scale() -> float:
    """How many of the API's seconds pass in one of ours: 1, but for an emulator that says otherwise.

    Raises:
        ConfigurationError: the override is not a number of at least 1, or is meant for the real API.
    """
    return emulated.time_scale(SCALE_VARIABLE, URL_VARIABLE, emulated=is_emulated())
