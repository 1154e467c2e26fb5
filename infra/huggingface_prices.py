"""What machines Hugging Face has for jobs, and for how much just now: for people to choose from, since none is made there yet."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import requests
import requests.auth

from dayfly.errors import ConfigurationError, DayflyError
from dayfly.infra import catalog
from dayfly.infra.catalog import MachineType
from dayfly.infra.gpu_request import normal_model
from dayfly.infra.offers import Offer, today

PROVIDER = "huggingface"
TOKEN, ENDPOINT = "HF_TOKEN", "HF_ENDPOINT"
_HUB = "https://huggingface.co"
_TIMEOUT_S = (5.0, 15.0)
_PER_HOUR = {"minute": 60.0, "hour": 1.0}
_SIZE = re.compile(r"([0-9.]+)\s*(GB|TB)")
_SOURCE = "Hugging Face jobs API"


class _Bearer(requests.auth.AuthBase):
    """As `auth=` of a request, which a ~/.netrc then does not replace."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._secret}"
        return request


def price_list() -> list[Offer]:
    """With a token those of just now (GET /api/jobs/hardware, as huggingface_hub 2.4's `list_jobs_hardware` reads it); the
    catalog's without.

    Raises:
        ConfigurationError: the token is refused.
        DayflyError: the API cannot be asked, or answers something else.
    """
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        return catalog.price_list(PROVIDER)
    rows = _asked(f"{os.environ.get(ENDPOINT) or _HUB}/api/jobs/hardware", token)
    as_of = today()
    try:
        return [_machine(row, as_of).offer() for row in rows]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DayflyError(
            f"{_SOURCE}: a machine is not told of as documented: {error!r}"
        ) from error


def _asked(url: str, token: str) -> Any:
    try:
        answer = requests.get(url, auth=_Bearer(token), timeout=_TIMEOUT_S, allow_redirects=False)
        if answer.status_code in (401, 403):
            raise ConfigurationError(f"{TOKEN} is refused ({answer.status_code}): make another")
        if answer.status_code != 200:
            raise DayflyError(f"{_SOURCE}: {answer.status_code} {answer.reason}")
        return answer.json()
    except requests.RequestException as error:
        raise DayflyError(f"{_SOURCE} cannot be asked: {error}") from None


def _machine(row: Mapping[str, Any], as_of: str) -> MachineType:
    """From one row; prices are for a minute, and the memory of GPUs is that of all of them together."""
    listed = catalog.machine_types(PROVIDER).get(row["name"])
    gpu = row.get("accelerator") or {}
    gpus = int(gpu["quantity"]) if gpu else 0
    return MachineType(
        provider=PROVIDER,
        name=row["name"],
        cores=int(row["cpu"].split()[0]),
        memory_bytes=_gib(row["ram"]) << 30,
        usd_per_hour=row["unitCostMicroUSD"] * _PER_HOUR[row["unitLabel"]] / 1e6,
        gpus=gpus,
        gpu_model=normal_model(gpu["model"]) if gpu else "",
        gpu_memory_gb=_gib(gpu["vram"]) / gpus if gpu else 0.0,
        # The API does not tell.
        arch=listed.arch if listed else "",
        as_of=as_of,
        source=_SOURCE,
    )


def _gib(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size")
    return round(float(match[1]) * (1024 if match[2] == "TB" else 1))
