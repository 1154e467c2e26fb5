"""What is kept of a run beside its state is taken for what it is only where the secrets provider itself has encrypted it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dayfly.errors import BackendFailed, ConfigurationError, DayflyError
from dayfly.infra import creations
from dayfly.stacks import journal, vault
from dayfly.stacks.workspace import Workspace
from tests.runs import opened

_STACK = "a-session"
_SIGNATURE = "4dabf18193072939515e22adb298388d"
_SECRET = "1b47061264138c4ac30d75fd1eb44270"
_PASSPHRASE = {"type": "passphrase", "state": {"salt": "v1:c2FsdA==:v1:xyz"}}
_KMS = "awskms://alias/x?region=us-east-1"


def exported(**changes: Any) -> str:
    """A stack's deployment as `pulumi stack export` gives it."""
    deployment = {
        "manifest": {"time": "2026-01-01T00:00:00Z", "magic": "m", "version": "v3.250.0"},
        "secrets_providers": _PASSPHRASE,
        **changes,
    }
    return json.dumps({"version": 3, "deployment": deployment})


def resource(secret: Any, **changes: Any) -> dict[str, Any]:
    """The stack itself, with its one output."""
    return {
        "urn": f"urn:pulumi:{_STACK}::dayfly::pulumi:pulumi:Stack::dayfly-{_STACK}",
        "custom": False,
        "type": "pulumi:pulumi:Stack",
        "outputs": {"session": secret},
        **changes,
    }


def in_clear(text: str) -> str:
    """As the engine exports a deployment whose secrets it has decrypted."""
    secret = {_SIGNATURE: _SECRET, "plaintext": json.dumps(text)}
    return exported(resources=[resource(secret)])


def test_what_is_packed_is_unpacked_and_no_other_file_is(workspace: Workspace) -> None:
    """The keys in use and the two records; the bootstrap host key has no use any more, and stays."""
    directory = workspace.directory(opened(workspace))
    (directory / "user_key.pub").write_text("public")
    found = vault.unpacked(in_clear(vault.packed(directory)), directory.name)
    assert set(found) == {journal.FILE, "user_key", "hmac_key"}
    assert all((directory / name).read_bytes() == content for name, content in found.items())
    creations.begin(directory, "instance")
    found = vault.unpacked(in_clear(vault.packed(directory)), directory.name)
    assert found[creations.FILE] == (directory / creations.FILE).read_bytes()


def test_the_engine_is_given_a_secret_and_nothing_else(workspace: Workspace) -> None:
    """Whatever lay there before is not taken along; the stack's own secrets provider is."""
    before = exported(resources=[resource("old"), resource("older")])
    told = json.loads(vault.filled(before, _STACK, "the text", "passphrase"))
    (only,) = told["deployment"]["resources"]
    secret = only["outputs"].pop("session")
    assert json.loads(secret["plaintext"]) == "the text"
    assert secret[_SIGNATURE] == _SECRET
    assert only["outputs"] == {}
    assert only["urn"].startswith(f"urn:pulumi:{_STACK}::dayfly::")
    assert told["deployment"]["secrets_providers"] == _PASSPHRASE


def test_only_what_was_looked_at_is_decrypted() -> None:
    """A checkpoint with the one ciphertext, under the stack's own name."""
    secret = {_SIGNATURE: _SECRET, "ciphertext": "v1:abc"}
    found = exported(
        resources=[resource(secret, id="x", inputs={"__provider": "pickled"})],
        pending_operations=[{"resource": {}}],
    )
    checkpoint = json.loads(vault.sealed(found, _STACK, "passphrase"))
    assert checkpoint["version"] == 3
    latest = checkpoint["checkpoint"]["latest"]
    assert set(latest) == {"manifest", "secrets_providers", "resources"}
    assert latest["resources"] == [resource(secret)]


@pytest.mark.parametrize(
    "resources",
    [
        [resource({_SIGNATURE: _SECRET, "plaintext": '"mine"'})],
        [resource({_SIGNATURE: _SECRET, "plaintext": '"mine"', "ciphertext": "v1:abc"})],
        [resource({_SIGNATURE: "another", "ciphertext": "v1:abc"})],
        [resource({_SIGNATURE: _SECRET, "ciphertext": {"a": "dict"}})],
        [resource("in clear")],
        [resource({_SIGNATURE: _SECRET, "ciphertext": "v1:abc"}, type="pulumi-python:dynamic:X")],
        [resource({_SIGNATURE: _SECRET, "ciphertext": "v1:abc"})] * 2,
        ["no resource"],
        [{}],
    ],
)
def test_what_the_secrets_provider_has_not_encrypted_is_not_used(resources: list[Any]) -> None:
    """Whoever may write to the backend can put anything there, but for a ciphertext."""
    with pytest.raises(BackendFailed, match="nothing of it was used"):
        vault.sealed(exported(resources=resources), _STACK, "passphrase")


@pytest.mark.parametrize(
    ("found", "wanted", "error"),
    [
        ({"type": "cloud", "state": {"url": "awskms://somebody-elses"}}, _KMS, ConfigurationError),
        ({"type": "cloud", "state": {"url": _KMS}}, "passphrase", ConfigurationError),
        (_PASSPHRASE, _KMS, ConfigurationError),
        ({"type": "b64"}, "passphrase", BackendFailed),
        ({"type": "cloud", "state": None}, _KMS, BackendFailed),
        (None, "passphrase", BackendFailed),
        ("passphrase", "passphrase", BackendFailed),
    ],
)
@pytest.mark.parametrize(
    "use",
    [
        lambda told, wanted: vault.filled(told, _STACK, "keys", wanted),
        lambda told, wanted: vault.sealed(told, _STACK, wanted),
    ],
    ids=["filled", "sealed"],
)
def test_another_secrets_provider_neither_gets_nor_gives_anything(
    use: Callable[[str, str], str], found: Any, wanted: str, error: type[DayflyError]
) -> None:
    """Keys that were encrypted for a key of somebody else's would be that one's."""
    secret = {_SIGNATURE: _SECRET, "ciphertext": "v1:abc"}
    told = exported(secrets_providers=found, resources=[resource(secret)])
    with pytest.raises(error):
        use(told, wanted)


def test_a_kms_is_told_apart_by_its_url() -> None:
    """The same one passes."""
    secret = {_SIGNATURE: _SECRET, "ciphertext": "v1:abc"}
    cloud = {"type": "cloud", "state": {"url": _KMS, "encryptedkey": "a2V5"}}
    told = exported(secrets_providers=cloud, resources=[resource(secret)])
    assert json.loads(vault.sealed(told, _STACK, _KMS))


def test_a_stack_that_was_made_a_moment_ago_is_no_forgery() -> None:
    """It says to try again."""
    with pytest.raises(BackendFailed, match="try again in a few seconds"):
        vault.sealed(exported(), _STACK, "passphrase")


@pytest.mark.parametrize("text", ["{", "[]", '{"deployment": null}', '{"deployment": 1}', ""])
def test_what_is_no_deployment_is_refused(text: str) -> None:
    """With an error of ours."""
    with pytest.raises(BackendFailed):
        vault.sealed(text, _STACK, "passphrase")


def _told(directory: Path, **changes: Any) -> str:
    return json.dumps({**json.loads(vault.packed(directory)), **changes})


def test_a_genuine_session_in_another_run_s_place_is_refused(workspace: Workspace) -> None:
    """All of them are encrypted alike: each says whose it is."""
    one, other = (workspace.directory(opened(workspace)) for _ in range(2))
    with pytest.raises(BackendFailed, match="not that of run"):
        vault.unpacked(in_clear(vault.packed(one)), other.name)


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {}},
        {"files": {"user_key": "not base64!"}},
        {"files": None},
        {"files": {"hmac_key": os.urandom(3).hex()}},
    ],
)
def test_a_session_that_lacks_something_is_refused(
    workspace: Workspace, changes: dict[str, Any]
) -> None:
    """Before a directory is made of it."""
    directory = workspace.directory(opened(workspace))
    with pytest.raises(BackendFailed):
        vault.unpacked(in_clear(_told(directory, **changes)), directory.name)


def test_a_session_of_another_version_says_so(workspace: Workspace) -> None:
    """It is for that version to read."""
    directory = workspace.directory(opened(workspace))
    with pytest.raises(BackendFailed, match="another version"):
        vault.unpacked(in_clear(_told(directory, version=2)), directory.name)


def test_a_name_that_is_none_of_the_session_s_makes_no_file(workspace: Workspace) -> None:
    """Such as one that leads out of the directory."""
    directory = workspace.directory(opened(workspace))
    files = json.loads(vault.packed(directory))["files"] | {"../../evil": "AAAA"}
    found = vault.unpacked(in_clear(_told(directory, files=files)), directory.name)
    assert set(found) == {journal.FILE, "user_key", "hmac_key"}
