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
    picked = _picked(environment, root)
    if root is not None:
        passwords = passwords_of(environment, root)
        picked = {
            name: passwords.into(value) if _is_address(name) else value
            for name, value in picked.items()
        }
    held = {name: _held(name, value, same_computer) for name, value in picked.items()}
    return {name: value for name, value in held.items() if value}


def left_here(environment: Mapping[str, str], root: Path, options: str) -> list[str]:
    """Warnings of what names files of this computer, so that a machine that is another one does without.

    Args:
        environment: this process's variables.
        root: the project, whose own settings of uv count.
        options: those among the requirements.

    Raises:
        SpecError: a file of settings cannot be read.
    """
    picked = _picked(environment, root)
    said = [
        f"find-links names {part!r} on this computer, where the machine does not look: name the wheels that are meant among"
        " the requirements (./name.whl), they travel, or give the folder as a web address"
        for part in picked.get("UV_FIND_LINKS", "").split(",")
        if part.strip() and not _is_web(part.strip())
    ]
    # Public places are reached with the certificates that every machine has.
    private = any(addresses("\n".join([*picked.values(), options])))
    said += [
        f"{name} names {picked[name]!r} on this computer, and the machine has its own certificates: where they do not suffice"
        " for the indexes and proxies of these settings, use an image that has yours, or name the host in UV_INSECURE_HOST"
        for name in _PATHS
        if private and name in picked and Path(picked[name]).exists()
    ]
    return said


def _picked(environment: Mapping[str, str], root: Path | None) -> dict[str, str]:
    """By uv's names, without passwords that are kept elsewhere."""
    picked = {name: value for name, value in environment.items() if value and _wanted(name)}
    tables = [] if root is None else uv_tables(root, environment)
    below = [uv_variables(tables)]
    pip = {ours: environment.get(theirs, "") for theirs, ours in _FROM_PIP.items()}
    # pip's list has spaces between, uv's commas.
    below.append({**pip, "UV_FIND_LINKS": ",".join(pip["UV_FIND_LINKS"].split())})
    if root is not None:
        below.append(pip_variables(environment))
    for layer in below:
        for name, value in layer.items():
            if value and not _replaced(name, picked):
                picked.setdefault(name, value)
    return picked


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


def _held(name: str, value: str, same_computer: bool) -> str:
    """What of a setting means something on the machine; uv stops at a folder that does not exist."""
    if name in _PATHS:
        return value if same_computer and Path(value).exists() else ""
    if name in _PLACES:
        parts = [part.strip() for part in value.split(",")]
        return ",".join(
            part for part in parts if _is_web(part) or (same_computer and part and _is_here(part))
        )
    return value


def _is_here(place: str) -> bool:
    return Path(place.removeprefix("file://")).exists()


def _is_web(place: str) -> bool:
    return place.startswith(("http://", "https://"))
