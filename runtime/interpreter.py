"""Whether the client's Python minor can be had on a machine, found out before one is paid for."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence

from dayfly.errors import SpecError
from dayfly.infra import providers
from dayfly.runtime.environment import PYTHON
from dayfly.runtime.wheels import run_uv

_OFF = ("manual", "never")


def check(names: Sequence[str], variables: Mapping[str, str], minor: str = PYTHON) -> None:
    """Refuse providers on whose machines nobody could have this minor.

    A machine of this computer has it, others have it where their provider says so of all its images, and uv fetches it
    where it may.

    Args:
        names: of the providers.
        variables: uv's settings, as the machine will have them.
        minor: major.minor.

    Raises:
        SpecError: a machine would be paid for, and could not run the function.
    """
    unsure = [name for name in names if not _has(name, minor)]
    if not unsure:
        return
    where = " and ".join(unsure)
    off = _downloads_off(variables)
    if off:
        raise SpecError(
            f"the machine needs Python {minor}, as this program; {where} does not say that its machines have it, and {off}"
            " keeps uv from fetching it there: allow that, or start this program with a Python that they have"
        )
    if not _is_offered(minor, variables.get("UV_PYTHON_DOWNLOADS_JSON_URL", "")):
        raise SpecError(
            f"the machine needs Python {minor}, as this program; {where} does not say that its machines have it, and uv has"
            f" no Python {minor} for Linux to fetch: update uv, or start this program with another Python"
        )


def _has(name: str, minor: str) -> bool:
    provider = providers.load(name)
    return provider.same_computer or minor in provider.pythons


def _downloads_off(variables: Mapping[str, str]) -> str:
    """The setting that keeps uv from fetching a Python, "" where none does."""
    downloads = variables.get("UV_PYTHON_DOWNLOADS", "").lower()
    if downloads in _OFF:
        return f"python-downloads={downloads} (UV_PYTHON_DOWNLOADS, or uv's settings)"
    for name in ("UV_OFFLINE", "UV_NO_MANAGED_PYTHON"):
        if variables.get(name, "").lower() in ("1", "true", "yes", "on", "y", "t"):
            return name
    if variables.get("UV_PYTHON_PREFERENCE", "") == "only-system":
        return "UV_PYTHON_PREFERENCE=only-system"
    return ""


@functools.cache
def _is_offered(minor: str, listed_at: str) -> bool:
    """Whether uv knows a CPython of that minor for Linux; it is asked for the list that it has in itself, or is told of."""
    command = ["python", "list", minor, "--only-downloads", "--all-platforms", "--all-arches"]
    command += ["--output-format", "json"]
    if listed_at:
        command += ["--python-downloads-json-url", listed_at]
    found = json.loads(run_uv(command, "uv cannot say which Pythons there are"))
    return any(each["implementation"] == "cpython" and each["os"] == "linux" for each in found)
