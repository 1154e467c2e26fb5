"""The host key to pin for a machine that its user knows already: the one that the user's own `ssh` has accepted."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from dayfly.errors import ConfigurationError

# What a session can check, in the order in which it would have them.
TYPES = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
)
_SEARCH_S = 20.0


def algorithms(key_type: str) -> tuple[str, ...]:
    """How a host key of that type may sign: RSA never with SHA-1."""
    return ("rsa-sha2-512", "rsa-sha2-256") if key_type == "ssh-rsa" else (key_type,)


def fingerprint(key: str) -> str:
    """Of "ssh-ed25519 AAAA...", as ssh shows it: "SHA256:..."."""
    digest = hashlib.sha256(base64.b64decode(key.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def known(name: str, files: Sequence[str]) -> list[str]:
    """Host keys of a name in files of known hosts, as type and base64; names that are stored as hashes are found, too.

    Raises:
        ConfigurationError: there is no ssh-keygen.
    """
    return [key for file in files if Path(file).is_file() for key in _found(name, file)]


def _found(name: str, file: str) -> Iterator[str]:
    try:
        done = subprocess.run(
            ["ssh-keygen", "-F", name, "-f", file],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SEARCH_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigurationError(f"ssh-keygen does not search {file}: {error}") from error
    for line in done.stdout.splitlines():
        parts = line.split()
        # A line that begins with a mark is of an authority, or of a key that nobody should trust any more.
        if len(parts) >= 3 and parts[1] in TYPES and not line.startswith(("#", "@")):
            yield f"{parts[1]} {parts[2]}"


def chosen(host: str, keys: Sequence[str], accepted: Sequence[str]) -> str:
    """The key to pin.

    Args:
        host: for the words.
        keys: of the machine: those that are known here, and those that it has told over the connection of the user's ssh.
        accepted: fingerprints of the keys that this ssh has accepted on its way, the machine's own last.

    Raises:
        ConfigurationError: none of them is one that ssh has accepted and a session can check.
    """
    usable = {fingerprint(key): key for key in keys if key.split()[0] in TYPES}
    for shown in reversed(accepted):
        if shown in usable:
            return usable[shown]
    raise ConfigurationError(
        f"host {host}: `ssh` accepts {accepted[-1] if accepted else 'a host key that it does not name'}, and neither the"
        f" known_hosts here nor the machine tells the key of that fingerprint, of a type that is known here"
        f" ({', '.join(TYPES)}): add it with `ssh-keyscan`, and compare the fingerprint"
    )
