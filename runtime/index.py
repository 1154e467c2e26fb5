"""Which of this computer's index, proxy and certificate settings the machine's uv needs to install the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_AS_THEY_ARE = frozenset(
    {
        "ALL_PROXY",
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "NO_PROXY",
        "UV_FIND_LINKS",
        "UV_HTTP_TIMEOUT",
        "UV_INSECURE_HOST",
        "UV_NATIVE_TLS",
        "UV_OFFLINE",
        "UV_PYTHON_DOWNLOADS",
        "UV_PYTHON_INSTALL_MIRROR",
        "UV_SYSTEM_CERTS",
    }
)
_PATHS = ("SSL_CERT_DIR", "SSL_CERT_FILE")
# pip's names for what uv calls otherwise; uv's own win.
_FROM_PIP = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_CERT": "SSL_CERT_FILE",
}


def variables(environment: Mapping[str, str], *, same_computer: bool) -> dict[str, str]:
    """Pick the settings out of an environment.

    Args:
        environment: this process's variables.
        same_computer: False leaves out what names a file or folder of this computer.
    """
    picked = {name: value for name, value in environment.items() if value and _wanted(name)}
    for theirs, ours in _FROM_PIP.items():
        value = environment.get(theirs, "")
        if value and ours not in picked and not _replaced(ours, picked):
            picked[ours] = value
    return {name: value for name, value in picked.items() if _holds(name, value, same_computer)}


def _wanted(name: str) -> bool:
    index = name.startswith("UV_") and "INDEX" in name
    return index or name in _PATHS or name.upper() in _AS_THEY_ARE


def _replaced(name: str, picked: Mapping[str, str]) -> bool:
    """UV_INDEX_URL is uv's older name of UV_DEFAULT_INDEX."""
    return name == "UV_DEFAULT_INDEX" and "UV_INDEX_URL" in picked


def _holds(name: str, value: str, same_computer: bool) -> bool:
    """True where a setting means something on the machine; uv stops at a folder that does not exist."""
    if name in _PATHS:
        return same_computer and Path(value).exists()
    if name == "UV_FIND_LINKS" and "://" not in value:
        return same_computer and all(
            Path(part).exists() for part in value.replace(",", " ").split()
        )
    return True
