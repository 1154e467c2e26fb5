"""The account's SSH keys."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_public_key,
)

from tests.emulators.lambda_cloud import refusal
from tests.emulators.lambda_cloud.body import Body
from tests.emulators.machines.truth import Truth


@dataclass(frozen=True)
class SSHKey:
    """One key; the API never keeps a private half."""

    id: str
    name: str
    public_key: str

    def as_json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {"id": self.id, "name": self.name, "public_key": self.public_key}


class SSHKeys:
    """All of them, in the order in which they came."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self._keys: dict[str, SSHKey] = {}

    def all(self) -> list[SSHKey]:
        """Every key."""
        return list(self._keys.values())

    def named(self, name: str) -> SSHKey:
        """The key that a launch asks for.

        Raises:
            Refusal: there is none of the name, or more than one.
        """
        found = [key for key in self._keys.values() if key.name == name]
        if not found:
            raise refusal.missing(f"SSH key {name} does not exist.")
        if len(found) > 1:
            raise refusal.unknown()
        return found[0]

    def add(self, body: Body, *, twice: bool = False) -> dict[str, Any]:
        """Stores a key, or makes one and gives its private half this once.

        Args:
            body: of the request.
            twice: the race of two requests, which in the field stores two keys of one name.
        """
        name = body.text("name", least=1, most=64)
        public_key = body.optional_text("public_key", least=1, most=4096)
        body.end()
        if not twice and any(key.name == name for key in self._keys.values()):
            raise refusal.invalid("Key name must be unique")
        private = {}
        if public_key is None:
            private_key, public_key = _generate()
            private = {"private_key": private_key}
        else:
            _check(body, public_key)
        key = SSHKey(uuid.uuid4().hex, name, public_key.strip())
        self._keys[key.id] = key
        self._truth.write("ssh_key_added", id=key.id, name=name)
        return key.as_json() | private

    def delete(self, id: str) -> dict[str, Any]:
        """Forgets a key; machines that have it keep it."""
        if id not in self._keys:
            raise refusal.not_found()
        gone = self._keys.pop(id)
        self._truth.write("ssh_key_deleted", id=id, name=gone.name)
        return {}


def _check(body: Body, public_key: str) -> None:
    try:
        load_ssh_public_key(public_key.strip().encode())
    except (ValueError, UnsupportedAlgorithm):
        raise body.refusal("public_key", "Input should be a valid SSH public key") from None


def _generate() -> tuple[str, str]:
    key = generate_private_key(65537, 2048)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return private.decode(), public.decode()
