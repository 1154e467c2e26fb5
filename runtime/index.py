"""Which of this computer's index, proxy and certificate settings the machine's uv needs to install the same."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from dayfly.runtime.index_files import (
    Passwords,
    addresses,
    indexes,
    pip_variables,
    uv_tables,
    uv_variables,
    with_user,
)

_AS_THEY_ARE = frozenset(
    {
        "ALL_PROXY",
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "NO_PROXY",
        "UV_ASTRAL_MIRROR_URL",
        "UV_EXCLUDE_NEWER",
        "UV_FIND_LINKS",
        "UV_HTTP_TIMEOUT",
        "UV_INSECURE_HOST",
        "UV_NATIVE_TLS",
        "UV_NO_MANAGED_PYTHON",
        "UV_OFFLINE",
        "UV_PRERELEASE",
        "UV_PYTHON_DOWNLOADS",
        "UV_PYTHON_DOWNLOADS_JSON_URL",
        "UV_PYTHON_INSTALL_MIRROR",
        "UV_PYTHON_PREFERENCE",
        "UV_RESOLUTION",
        "UV_SYSTEM_CERTS",
        "UV_TORCH_BACKEND",
    }
)
# How and from whom something is had, and not what it is.
_ON_THE_WAY = frozenset(
    {
        "UV_ASTRAL_MIRROR_URL",
        "UV_HTTP_TIMEOUT",
        "UV_INSECURE_HOST",
        "UV_NATIVE_TLS",
        "UV_OFFLINE",
        "UV_PYTHON_DOWNLOADS",
        "UV_PYTHON_DOWNLOADS_JSON_URL",
        "UV_PYTHON_INSTALL_MIRROR",
        "UV_SYSTEM_CERTS",
    }
)
_USER = re.compile(r"://[^/\s]*@")
_REFERENCE = re.compile(r"\$\{([A-Z0-9_]+)\}")
_TOKEN_LENGTH = 20
_PATHS = ("SSL_CERT_DIR", "SSL_CERT_FILE")
# A file of this computer, or an address.
_PLACES = ("UV_FIND_LINKS", "UV_PYTHON_DOWNLOADS_JSON_URL")
# pip's names for what uv calls otherwise; uv's own win.
_FROM_PIP = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_TRUSTED_HOST": "UV_INSECURE_HOST",
    "PIP_CERT": "SSL_CERT_FILE",
}


def variables(
    environment: Mapping[str, str], *, same_computer: bool, root: Path | None = None
) -> dict[str, str]:
    """Pick the settings out of an environment and out of the files of uv and pip; what wins there wins here.

    Args:
        environment: this process's variables.
        same_computer: False leaves out what names a file or folder of this computer.
        root: the project, whose own settings of uv count; None reads no file.

    Raises:
        SpecError: a file of settings cannot be read.
    """
    picked = {name: value for name, value in environment.items() if value and _wanted(name)}
    tables = [] if root is None else uv_tables(root, environment)
    below = [uv_variables(tables)]
    below.append({ours: environment.get(theirs, "") for theirs, ours in _FROM_PIP.items()})
    if root is not None:
        below.append(pip_variables(environment))
    for layer in below:
        for name, value in layer.items():
            if value and not _replaced(name, picked):
                picked.setdefault(name, value)
    if root is not None:
        passwords = passwords_of(environment, root)
        picked = {
            name: passwords.into(value) if _is_address(name) else value
            for name, value in picked.items()
        }
    return {name: value for name, value in picked.items() if _holds(name, value, same_computer)}


def passwords_of(environment: Mapping[str, str], root: Path) -> Passwords:
    """What this computer knows of the passwords of indexes.

    Raises:
        SpecError: a file of settings cannot be read.
    """
    tables = uv_tables(root, environment)
    wishes = [environment.get(f"{tool}_KEYRING_PROVIDER") for tool in ("UV", "PIP")]
    wishes += [
        level.get("keyring-provider") for table in tables for level in (table, table.get("pip", {}))
    ]
    named = [entry for table in tables for entry in indexes(table)]
    return Passwords(environment, named, keyring="subprocess" in wishes)


def with_passwords(text: str, passwords: Passwords) -> tuple[str, dict[str, str]]:
    """Requirements whose addresses refer to passwords as ${NAME}, and those variables: no password is in the text itself."""
    made: dict[str, str] = {}
    for url in sorted(set(addresses(text)), key=len, reverse=True):
        found = passwords.of(url)
        if found is None:
            continue
        names = [f"DAYFLY_INDEX_{len(made) // 2}_{word}" for word in ("USER", "PASSWORD")]
        made |= dict(zip(names, (quote(part, safe="") for part in found), strict=True))
        text = text.replace(url, with_user(url, *(f"${{{name}}}" for name in names)))
    return text, made


def secrets_in(settings: Mapping[str, str]) -> Iterator[str]:
    """Every password in them: none may be in a log or a message."""
    for name, value in settings.items():
        if any(word in name for word in ("PASSWORD", "TOKEN", "SECRET")):
            yield from (value, unquote(value))
        for url in addresses(value):
            parts = urlsplit(url)
            # In the place of a user a token may stand alone; a name is not as long.
            alone = parts.username if len(parts.username or "") >= _TOKEN_LENGTH else None
            secret = parts.password or alone
            if secret and not secret.startswith("${"):
                yield from (secret, unquote(secret))


def deciding(settings: Mapping[str, str], text: str) -> list[tuple[str, str]]:
    """What of the settings decides which files are installed for the same lines, in an order of its own.

    Users and passwords are left out: with another password the same is installed.

    Args:
        settings: of an environment that is to be made.
        text: its lines; what an address in them has as ${NAME} is looked up in the settings.
    """
    found = [(name, value) for name, value in sorted(settings.items()) if _decides(name)]
    found += [
        ("", _REFERENCE.sub(lambda name: settings.get(name[1], name[0]), url))
        for url in addresses(text)
        if _REFERENCE.search(url)
    ]
    return [(name, _USER.sub("://", value)) for name, value in found]


def _decides(name: str) -> bool:
    own = name.startswith("UV_") and not name.endswith(("_USERNAME", "_PASSWORD"))
    return own and name not in _ON_THE_WAY


def _wanted(name: str) -> bool:
    index = name.startswith("UV_") and "INDEX" in name
    return index or name in _PATHS or name.upper() in _AS_THEY_ARE


def _is_address(name: str) -> bool:
    index = "INDEX" in name and not name.endswith(("_USERNAME", "_PASSWORD"))
    return index or name in ("UV_FIND_LINKS", "UV_PYTHON_INSTALL_MIRROR", *_PLACES)


def _replaced(name: str, picked: Mapping[str, str]) -> bool:
    """UV_INDEX_URL is uv's older name of UV_DEFAULT_INDEX."""
    return name == "UV_DEFAULT_INDEX" and "UV_INDEX_URL" in picked


def _holds(name: str, value: str, same_computer: bool) -> bool:
    """True where a setting means something on the machine; uv stops at a folder that does not exist."""
    if name in _PATHS:
        return same_computer and Path(value).exists()
    if name in _PLACES and not value.startswith(("http://", "https://")):
        return same_computer and all(
            Path(part.removeprefix("file://")).exists() for part in value.replace(",", " ").split()
        )
    return True
