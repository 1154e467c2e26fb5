"""Vault: the form in which a run's session lies in the state of a stack, and how little of what is found there is trusted."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dayfly.errors import BackendFailed, ConfigurationError
from dayfly.infra import creations
from dayfly.stacks import journal
from dayfly.stacks.workspace import PROJECT

# What `attach` reads of a run's directory, and what closing it elsewhere needs; of keys only those that are in use once the
# machine has a host key of its own.
FILES = (journal.FILE, creations.FILE, "user_key", "hmac_key")
_NEEDED = {journal.FILE, "user_key", "hmac_key"}
_VERSION = 1
_OUTPUT = "session"
# By these the engine tells a secret from an object of the user's; they are a part of the format of its state.
_SIGNATURE, _SECRET = "4dabf18193072939515e22adb298388d", "1b47061264138c4ac30d75fd1eb44270"
_STACK_TYPE = "pulumi:pulumi:Stack"


def packed(directory: Path) -> str:
    """What another computer needs of a run, as one text.

    Raises:
        OSError: a file cannot be read.
    """
    files = {
        name: base64.b64encode((directory / name).read_bytes()).decode()
        for name in FILES
        if name in _NEEDED or (directory / name).exists()
    }
    return json.dumps({"version": _VERSION, "run": directory.name, "files": files})


def unpacked(exported: str, run_id: str) -> Mapping[str, bytes]:
    """The files of a run, from the deployment of its session with its secrets in clear.

    Raises:
        BackendFailed: it is of another run, or of another version of dayfly.
    """
    try:
        (resource,) = json.loads(exported)["deployment"]["resources"]
        told = json.loads(json.loads(resource["outputs"][_OUTPUT]["plaintext"]))
        version, run, files = told["version"], told["run"], dict(told["files"])
        found = {
            name: base64.b64decode(files[name], validate=True) for name in FILES if name in files
        }
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise _edited(f"it cannot be read ({type(error).__name__})") from error
    if version != _VERSION:
        raise BackendFailed(f"run {run_id} was started by another version of dayfly: use that one")
    if run != run_id or not set(found) >= _NEEDED:
        raise _edited(f"it is not that of run {run_id}")
    return found


def filled(exported: str, stack: str, text: str, provider: str) -> str:
    """The deployment of a session's stack with a text as its only content, for the engine to encrypt.

    Args:
        exported: the stack's deployment as it is, from which its secrets provider is taken.
        stack: its name.
        text: what is to be kept.
        provider: the secrets provider that must be the stack's.

    Raises:
        BackendFailed, ConfigurationError: it is not, and would encrypt for somebody else.
    """
    told = _told(exported)
    _check_provider(told["deployment"], provider)
    told["deployment"]["resources"] = [_resource(stack, {"plaintext": json.dumps(text)})]
    return json.dumps(told)


def sealed(exported: str, stack: str, provider: str) -> str:
    """The checkpoint of a session's stack, as the engine keeps it in a folder, all of it looked at before it is decrypted.

    Whoever may write to the backend could put a text of their own there, in clear or for a key of their own; what they
    cannot make is a ciphertext of this secrets provider.

    Args:
        exported: the stack's deployment as it lies there.
        stack: its name.
        provider: the secrets provider of this computer.

    Raises:
        BackendFailed: it was edited, or nothing has been kept yet.
        ConfigurationError: it is encrypted by another secrets provider.
    """
    told = _told(exported)
    deployment = told["deployment"]
    _check_provider(deployment, provider)
    resources = deployment.get("resources") or []
    if not resources:
        raise BackendFailed(
            "nothing has been kept of the run yet: its function has just started; try again in a few seconds"
        )
    # Only what was looked at goes on.
    kept = {
        "manifest": deployment.get("manifest"),
        "secrets_providers": deployment["secrets_providers"],
        "resources": [_resource(stack, {"ciphertext": _ciphertext_of(resources)})],
    }
    named = f"organization/{PROJECT}/{stack}"
    return json.dumps({"version": 3, "checkpoint": {"stack": named, "latest": kept}})


def _resource(stack: str, secret: Mapping[str, str]) -> dict[str, Any]:
    """The stack itself, which is all that there is in it, with its one output."""
    return {
        "urn": f"urn:pulumi:{stack}::{PROJECT}::{_STACK_TYPE}::{PROJECT}-{stack}",
        "custom": False,
        "type": _STACK_TYPE,
        "outputs": {_OUTPUT: {_SIGNATURE: _SECRET, **secret}},
    }


def _ciphertext_of(resources: list[Any]) -> str:
    try:
        (resource,) = resources
        secret = resource["outputs"][_OUTPUT]
        if resource["type"] != _STACK_TYPE or set(secret) != {_SIGNATURE, "ciphertext"}:
            raise ValueError("no ciphertext")
        if secret[_SIGNATURE] != _SECRET or not isinstance(secret["ciphertext"], str):
            raise ValueError("no secret")
        ciphertext: str = secret["ciphertext"]
    except (ValueError, KeyError, TypeError) as error:
        raise _edited("what it holds is not what the secrets provider has encrypted") from error
    return ciphertext


def _told(exported: str) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(exported)
        dict(told["deployment"])
    except (ValueError, KeyError, TypeError) as error:
        raise _edited(f"it cannot be read ({type(error).__name__})") from error
    return told


def _check_provider(deployment: Mapping[str, Any], provider: str) -> None:
    """Holds the secrets provider of a stack against the one that is set here."""
    found = deployment.get("secrets_providers")
    kind = found.get("type") if isinstance(found, dict) else None
    state = found.get("state") if isinstance(found, dict) else None
    if kind == "passphrase":
        used = "passphrase"
    elif kind == "cloud" and isinstance(state, dict):
        used = str(state.get("url"))
    else:
        raise _edited(f"it names no secrets provider that dayfly uses ({kind})")
    if used != provider:
        raise ConfigurationError(
            f"it is encrypted by {used}, and secrets_provider here is {provider}: set the one that the run was started with"
        )


def _edited(why: str) -> BackendFailed:
    return BackendFailed(
        f"what is kept of the run beside its state was damaged or edited: {why}; nothing of it was used. Attach on the"
        " computer that started it"
    )
