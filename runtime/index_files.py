"""The files in which uv, pip and netrc keep this computer's indexes and their passwords, as variables for the machine's uv."""

from __future__ import annotations

import configparser
import netrc
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from dayfly.errors import SpecError
from dayfly.runtime import toml_file

_KEYRING_S = 60.0
# uv's keys that have the meaning of a variable, and how that is written.
_UV_TEXTS = {
    "exclude-newer": "UV_EXCLUDE_NEWER",
    "index-strategy": "UV_INDEX_STRATEGY",
    "index-url": "UV_DEFAULT_INDEX",
    "prerelease": "UV_PRERELEASE",
    "pypy-install-mirror": "UV_PYPY_INSTALL_MIRROR",
    "python-downloads": "UV_PYTHON_DOWNLOADS",
    "python-downloads-json-url": "UV_PYTHON_DOWNLOADS_JSON_URL",
    "python-install-mirror": "UV_PYTHON_INSTALL_MIRROR",
    "resolution": "UV_RESOLUTION",
    "torch-backend": "UV_TORCH_BACKEND",
}
_UV_SWITCHES = {"native-tls": "UV_NATIVE_TLS", "offline": "UV_OFFLINE"}
_UV_LISTS = {
    "allow-insecure-host": "UV_INSECURE_HOST",
    "extra-index-url": "UV_EXTRA_INDEX_URL",
    "find-links": "UV_FIND_LINKS",
}
_PIP_KEYS = {
    "cert": "SSL_CERT_FILE",
    "extra-index-url": "UV_EXTRA_INDEX_URL",
    "find-links": "UV_FIND_LINKS",
    "index-url": "UV_DEFAULT_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
}
_ADDRESS = re.compile(r"https?://[^\s,'\"]+")


@dataclass(frozen=True)
class NamedIndex:
    """One `[[index]]` of uv's settings.

    Attributes:
        name: "" where it has none.
        url: may hold a password.
        default: stands in the place of the public index.
        explicit: only for packages whose `[tool.uv.sources]` name it.
    """

    name: str
    url: str
    default: bool
    explicit: bool


def uv_tables(root: Path, environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """uv's own settings in its files, those that win first: the project's, the user's, the system's.

    Raises:
        SpecError: a file is not TOML.
    """
    if environment.get("UV_NO_CONFIG", "").lower() in ("1", "true"):
        return []
    if named := environment.get("UV_CONFIG_FILE"):
        return [toml_file.read(Path(named))]
    home = Path(environment.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    system = environment.get("XDG_CONFIG_DIRS") or "/etc/xdg"
    others = [home, *(Path(folder) for folder in system.split(":") if folder), Path("/etc")]
    found = [_project_table(root)]
    found += [toml_file.read(folder / "uv" / "uv.toml") for folder in others]
    return [table for table in found if table]


def _project_table(root: Path) -> dict[str, Any]:
    """That of the nearest uv.toml or [tool.uv], from the project upwards, as uv looks for it."""
    for folder in (root, *root.parents):
        if (folder / "uv.toml").is_file():
            return toml_file.read(folder / "uv.toml")
        table = toml_file.read(folder / "pyproject.toml").get("tool", {}).get("uv", {})
        if table:
            return dict(table)
    return {}


def uv_variables(tables: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """uv's settings as uv's variables; an earlier table wins."""
    made: dict[str, str] = {}
    listed: list[NamedIndex] = []
    for table in tables:
        # `[pip]` is what `uv pip` alone heeds, and it wins there.
        for level in (table.get("pip", {}), table):
            for name, value in _of_table(level).items():
                made.setdefault(name, value)
        listed += indexes(table)
    default = next((index for index in listed if index.default), None)
    if default is not None:
        made["UV_DEFAULT_INDEX"] = default.url
    others = [index for index in listed if not index.default and not index.explicit]
    if others:
        named = (f"{index.name}={index.url}" if index.name else index.url for index in others)
        made["UV_INDEX"] = " ".join(dict.fromkeys(named))
    return made


def indexes(table: Mapping[str, Any]) -> list[NamedIndex]:
    """The `[[index]]` tables of uv's settings."""
    return [
        NamedIndex(
            str(entry.get("name") or ""),
            str(entry["url"]),
            bool(entry.get("default")),
            bool(entry.get("explicit")),
        )
        for entry in table.get("index", ())
        if isinstance(entry, Mapping) and "url" in entry
    ]


def _of_table(table: Mapping[str, Any]) -> dict[str, str]:
    made = {ours: str(table[key]) for key, ours in _UV_TEXTS.items() if table.get(key)}
    made |= {ours: "true" for key, ours in _UV_SWITCHES.items() if table.get(key) is True}
    for key, ours in _UV_LISTS.items():
        if table.get(key):
            separator = "," if key == "find-links" else " "
            made[ours] = separator.join(map(str, table[key]))
    return made


def pip_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The settings of pip's own files under the names of uv's variables; pip's variables are not among them."""
    parser = configparser.RawConfigParser()
    for file in _pip_files(environment):
        try:
            parser.read(file)
        except (configparser.Error, UnicodeDecodeError) as error:
            # Not its words: they have the line itself, which may be the one with a password.
            kind = type(error).__name__
            raise SpecError(f"pip's settings cannot be read: {kind} in {file}") from None
    made = {}
    for section in ("global", "install"):
        for key, ours in _PIP_KEYS.items():
            value = parser.get(section, key, fallback="") or parser.get(
                section, key.replace("-", "_"), fallback=""
            )
            if value.split():
                made[ours] = ("," if key == "find-links" else " ").join(value.split())
    return made


def _pip_files(environment: Mapping[str, str]) -> list[Path]:
    """In pip's order: what is later wins."""
    named = environment.get("PIP_CONFIG_FILE", "")
    if named == os.devnull:
        return []
    home, system = Path.home(), environment.get("XDG_CONFIG_DIRS") or "/etc/xdg"
    config = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    files = [Path(folder) / "pip" / "pip.conf" for folder in system.split(":") if folder]
    files += [Path("/etc/pip.conf"), home / "Library/Application Support/pip/pip.conf"]
    files += [home / ".pip" / "pip.conf", config / "pip" / "pip.conf"]
    return [*files, Path(sys.prefix) / "pip.conf", *([Path(named)] if named else [])]


class Passwords:
    """What this computer knows of the passwords of indexes: uv's variables for those that have a name, netrc, and the
    keyring where uv or pip is told to ask it.

    Args:
        environment: this process's variables.
        named: indexes of uv's settings.
        keyring: whether to ask it for the password of a user that an address names without one.
    """

    def __init__(
        self, environment: Mapping[str, str], named: Iterable[NamedIndex] = (), *, keyring: bool
    ) -> None:
        self._keyring = keyring
        self._named: dict[str, tuple[str, str]] = {}
        for index in named:
            name = re.sub(r"[^A-Z0-9]", "_", index.name.upper())
            user, password = (
                environment.get(f"UV_INDEX_{name}_{word}", "") for word in ("USERNAME", "PASSWORD")
            )
            if index.name and password:
                self._named[index.url.rstrip("/")] = user, password
        path = Path(environment.get("NETRC") or Path.home() / ".netrc").expanduser()
        try:
            self._netrc: netrc.netrc | None = netrc.netrc(str(path)) if path.is_file() else None
        except (netrc.NetrcParseError, OSError, UnicodeDecodeError) as error:
            # Not the line itself: it may be the one with a password.
            raise SpecError(f"{path} cannot be read: {type(error).__name__}") from None

    def of(self, url: str) -> tuple[str, str] | None:
        """User and password for an address that names no password; None where there is none."""
        parts = urlsplit(url)
        if parts.password is not None or not parts.hostname:
            return None
        for index, known in self._named.items():
            if f"{url}/".startswith(f"{index}/"):
                return known
        if parts.username and self._keyring:
            found = _from_keyring(url, parts.hostname, parts.username)
            if found:
                return parts.username, found
        entry = self._netrc.authenticators(parts.hostname) if self._netrc else None
        if entry is None or not entry[2] or parts.username not in (None, entry[0]):
            return None
        return entry[0], entry[2]

    def into(self, text: str) -> str:
        """The text with user and password in each address that has none and for whose host there are some."""
        return _ADDRESS.sub(lambda found: self._into_address(found[0]), text)

    def _into_address(self, url: str) -> str:
        found = self.of(url)
        return url if found is None else with_user(url, *(quote(part, safe="") for part in found))


def with_user(url: str, user: str, password: str) -> str:
    """An address with user and password, both quoted already."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{host}"))


def addresses(text: str) -> Iterator[str]:
    """Every web address in a text."""
    return (found[0] for found in _ADDRESS.finditer(text))


def _from_keyring(url: str, host: str, user: str) -> str:
    """By the command `keyring`, as uv and pip ask it: for the address, then for its host."""
    bare = urlunsplit(urlsplit(url)._replace(netloc=urlsplit(url).netloc.rpartition("@")[2]))
    for service in (bare, host):
        try:
            done = subprocess.run(
                ["keyring", "get", service, user],
                capture_output=True,
                text=True,
                timeout=_KEYRING_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.strip()
    return ""
