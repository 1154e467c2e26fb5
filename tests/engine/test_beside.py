"""A run's session beside its state, by the real engine: encrypted, read again, refused where it was edited, and removed."""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from dayfly.errors import BackendFailed, ConfigurationError, UnknownRun
from dayfly.infra import fence
from dayfly.stacks import journal, vault
from dayfly.stacks.beside import Beside, stack_of
from dayfly.stacks.engine import Engine
from dayfly.stacks.workspace import Workspace, folder_url
from tests import homes, runs

pytestmark = pytest.mark.engine


@pytest.fixture
def shared(workspace: Workspace, tmp_path: Path) -> Workspace:
    """A folder that two homes have their state in; the engine treats a bucket the same."""
    (tmp_path / "shared").mkdir()
    return dataclasses.replace(
        homes.remote(workspace),
        backend=folder_url(tmp_path / "shared"),
        secrets_provider="passphrase",
    )


@pytest.fixture
def directory(shared: Workspace) -> Path:
    """A run of the first home."""
    return shared.directory(runs.opened(shared, home=shared.identity))


def lying(shared: Workspace, run_id: str) -> Path:
    """The file in which the engine keeps the session."""
    root = Path(shared.backend.removeprefix("file://"))
    return root / ".pulumi/stacks/dayfly" / f"{stack_of(run_id)}.json"


def everything(shared: Workspace) -> dict[Path, bytes]:
    """All that lies in the shared folder."""
    root = Path(shared.backend.removeprefix("file://"))
    return {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}


def test_a_session_is_encrypted_read_again_and_removed_without_a_trace(
    shared: Workspace, engine: Engine, directory: Path, tmp_path: Path
) -> None:
    """Nothing of it is in clear anywhere, another home with the same passphrase reads it, and a later one takes its place."""
    beside = Beside(shared, engine)
    assert beside.keep(directory)
    key = (directory / "hmac_key").read_bytes()
    secrets = [key.hex(), base64.b64encode(key).decode(), "PRIVATE KEY"]
    secrets += [base64.b64encode(b"-----BEGIN OPENSSH PRIVATE KEY-----\n")[:40].decode()]
    for file, content in everything(shared).items():
        assert not [secret for secret in secrets if secret.encode() in content], file
    other = homes.another(tmp_path / "there", shared)
    there = Beside(dataclasses.replace(other, backend=shared.backend), engine)
    assert there.runs() == [directory.name]
    found = there.fetch(directory.name)
    assert found["hmac_key"] == key
    assert found["user_key"] == (directory / "user_key").read_bytes()
    journal.append(directory, "job_started")
    assert beside.keep(directory)
    assert b"job_started" in there.fetch(directory.name)[journal.FILE]
    assert there.hand(directory) == journal.read(directory).intent
    beside.remove(directory)
    assert there.runs() == []
    left = [file for file in everything(shared) if directory.name in str(file)]
    assert left == []
    with pytest.raises(UnknownRun):
        there.fetch(directory.name)
    beside.remove(directory)
    assert not list(directory.glob("session-*"))
    assert not list((other.home / "making").iterdir())


def test_another_passphrase_reads_nothing(
    shared: Workspace, engine: Engine, directory: Path, tmp_path: Path
) -> None:
    """And says which one is needed, and how else it could be had."""
    assert Beside(shared, engine).keep(directory)
    other = homes.another(tmp_path / "there", shared)
    other.passphrase_file.write_text("f" * 64)
    there = Beside(dataclasses.replace(other, backend=shared.backend), engine)
    with pytest.raises(ConfigurationError, match=r"is not the passphrase.*awskms://"):
        there.fetch(directory.name)


@pytest.mark.parametrize("kind", ["clear", "kms", "nobody", "other run"])
def test_what_was_edited_is_neither_used_nor_written_over(
    shared: Workspace, engine: Engine, directory: Path, kind: str
) -> None:
    """Whoever may write to the backend does not become the machine whose results are unpickled here, nor get the keys."""
    beside = Beside(shared, engine)
    assert beside.keep(directory)
    file = lying(shared, directory.name)
    told = json.loads(file.read_text())
    latest = told["checkpoint"]["latest"]
    secret = latest["resources"][0]["outputs"]["session"]
    error: type[Exception] = BackendFailed
    if kind == "clear":
        secret.pop("ciphertext")
        secret["plaintext"] = json.dumps(vault.packed(directory))
    elif kind == "kms":
        latest["secrets_providers"] = {"type": "cloud", "state": {"url": "awskms://mine"}}
        error = ConfigurationError
    elif kind == "nobody":
        latest.pop("secrets_providers")
    else:
        other = shared.directory(runs.opened(shared))
        assert beside.keep(other)
        theirs = json.loads(lying(shared, other.name).read_text())["checkpoint"]["latest"]
        latest["secrets_providers"] = theirs["secrets_providers"]
        latest["resources"][0]["outputs"] = theirs["resources"][0]["outputs"]
    file.write_text(json.dumps(told))
    with pytest.raises(error):
        beside.fetch(directory.name)
    if kind in ("kms", "nobody"):
        with pytest.raises(error):
            beside.keep(directory)
        assert json.loads(file.read_text()) == told


def test_a_lock_that_a_dead_engine_has_left_does_not_keep_it_there(
    shared: Workspace, engine: Engine, directory: Path
) -> None:
    """Nobody writes it any more once its run is closed."""
    waited: list[float] = []
    beside = Beside(shared, engine, waited.append)
    assert beside.keep(directory)
    root = Path(shared.backend.removeprefix("file://"))
    folder = root / ".pulumi/locks/organization/dayfly" / stack_of(directory.name)
    folder.mkdir(parents=True, exist_ok=True)
    lock = {
        "pid": 1,
        "username": "me",
        "hostname": "gone",
        "timestamp": "2026-01-01T00:00:00Z",
    }
    (folder / "dead.json").write_text(json.dumps(lock))
    with pytest.raises(BackendFailed, match="currently locked"):
        beside.keep(directory)
    assert len(waited) == 5
    beside.remove(directory)
    assert not lying(shared, directory.name).exists()


def test_nothing_is_kept_of_a_run_that_is_being_closed(
    shared: Workspace, engine: Engine, directory: Path
) -> None:
    """What had begun before that ends with the step that it is in, and closing removes it."""
    looks: list[Any] = []

    def closing() -> bool:
        looks.append(None)
        if len(looks) == 2:
            fence.shut(directory)
        return False

    beside = Beside(shared, engine)
    assert not beside.keep(directory, unless=closing)
    history = journal.read(directory)
    assert history.last("session_keeping") is not None
    assert history.last("session_kept") is None
    beside.remove(directory)
    assert beside.runs() == []


def test_a_backend_that_is_not_there_is_named_with_what_to_check(
    shared: Workspace, engine: Engine, directory: Path
) -> None:
    """And with the engine's own words."""
    away = dataclasses.replace(shared, backend="file:///nowhere/at/all")
    with pytest.raises(BackendFailed, match=r"(?s)pulumi stack.*dayfly doctor"):
        Beside(away, engine).keep(directory)
