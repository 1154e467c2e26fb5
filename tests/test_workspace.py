"""The state folder is private, its passphrase strong, and the engine sees no secret that it does not need."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dayfly.errors import ConfigurationError
from dayfly.infra import providers
from dayfly.stacks import settings, slots
from dayfly.stacks import workspace as places
from dayfly.stacks.engine import Engine
from dayfly.stacks.settings import Setting, Settings
from dayfly.stacks.workspace import Workspace, slug

_ENGINE = Engine(Path("/opt/pulumi/bin/pulumi"), "3.250.0", "path")


def _open(**values: str) -> Workspace:
    return Workspace.open(
        Settings({name: Setting(value, "test") for name, value in values.items()})
    )


@pytest.fixture
def home(
    clean_environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A folder to spoil, since the test's own is looked through at the end."""
    folder = tmp_path / "own"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("DAYFLY_HOME", str(folder))
    yield folder
    monkeypatch.setenv("DAYFLY_HOME", str(clean_environment))


def test_all_folders_are_made_and_private(home: Path) -> None:
    """0700, whatever the umask was."""
    made = _open()
    assert made.home == home
    for folder in (made.home, made.runs, made.home / "state", made.home / "slots"):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert made.backend == f"file://{home}/state"


def test_a_folder_that_others_may_read_is_closed_to_them(home: Path) -> None:
    """Harmless so far, so it is mended without a word."""
    home.chmod(0o755)
    _open()
    assert home.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
@pytest.mark.parametrize("part", ["", "runs", "state"])
def test_a_folder_that_others_may_write_to_is_refused(home: Path, mode: int, part: str) -> None:
    """Whoever can write there can run code as you; the fix is in the message."""
    _open()
    folder = home / part
    folder.chmod(mode)
    with pytest.raises(ConfigurationError, match=f"chmod 700 {folder}"):
        _open()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_another_users_folder_is_refused(home: Path) -> None:
    """Even to root: it is not ours."""
    os.chown(home, 12345, 12345)
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        _open()


@pytest.mark.parametrize("part", ["runs", "state"])
def test_a_link_in_place_of_a_folder_is_refused(home: Path, tmp_path: Path, part: str) -> None:
    """It could lead anywhere by the time it is used."""
    (home / part).symlink_to(tmp_path)
    with pytest.raises(ConfigurationError, match="not a link"):
        _open()


def test_a_file_in_place_of_the_folder_is_refused(home: Path) -> None:
    """With the name of the folder and the way out."""
    home.rmdir()
    home.write_text("")
    with pytest.raises(ConfigurationError, match=f"{home}: .*DAYFLY_HOME"):
        _open()


@pytest.mark.parametrize("name", ['say "x"', "two\nlines"])
def test_a_home_that_cannot_be_written_into_a_configuration_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """An SSH server's configuration has no way to write such a path; nothing is made."""
    with monkeypatch.context() as inside:
        inside.setenv("DAYFLY_HOME", str(tmp_path / name))
        with pytest.raises(ConfigurationError, match="DAYFLY_HOME"):
            _open()
    assert list(tmp_path.iterdir()) == []


def test_the_passphrase_is_made_once_and_is_private(workspace: Workspace) -> None:
    """256 bits, and the same ones ever after."""
    file = workspace.passphrase_file
    first = file.read_text()
    assert len(bytes.fromhex(first.strip())) == 32
    assert file.stat().st_mode & 0o777 == 0o600
    assert workspace.passphrase_file.read_text() == first


def test_a_computer_that_is_renamed_keeps_its_owner(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its machines carry the name that it had, and would be another's otherwise."""
    before = _open().owner
    monkeypatch.setattr(socket, "gethostname", lambda: "dhcp-10-1-2-3")
    assert _open().owner == before


def test_many_processes_at_once_agree_on_the_passphrase(workspace: Workspace) -> None:
    """None of them meets a file that is there and empty."""
    with ThreadPoolExecutor(16) as pool:
        texts = list(pool.map(lambda _: workspace.passphrase_file.read_text(), range(64)))
    assert len(set(texts)) == 1
    assert {entry.name for entry in workspace.home.iterdir() if entry.is_file()} == {
        "owner",
        "passphrase",
    }


@pytest.mark.parametrize("content", ["", "\n", "  \n"])
def test_an_empty_passphrase_is_refused(workspace: Workspace, content: str) -> None:
    """Pulumi would take it, and the state of all runs would be readable."""
    workspace.passphrase_file.write_text(content)
    with pytest.raises(ConfigurationError, match="protects nothing"):
        workspace.environment(_ENGINE, "a" * 32)


@pytest.mark.skipif(os.getuid() == 0, reason="root reads every file")
def test_an_unreadable_passphrase_is_named(workspace: Workspace) -> None:
    """Instead of the system's bare refusal."""
    workspace.passphrase_file.chmod(0)
    with pytest.raises(ConfigurationError, match="passphrase"):
        workspace.environment(_ENGINE, "a" * 32)


def test_backend_owner_and_secrets_provider_are_settings(home: Path) -> None:
    """A KMS URL reaches the engine as it was written."""
    kms = "awskms://alias/dayfly?region=eu-west-1"
    found = _open(backend="s3://bucket", owner="Team A/ML", secrets_provider=kms)
    assert (found.backend, found.owner, found.secrets_provider) == ("s3://bucket", "team-a-ml", kms)


def test_two_homes_of_one_user_are_two_owners(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They must not clean up after each other; the name fits into a tag."""
    first = _open().owner
    monkeypatch.setenv("DAYFLY_HOME", str(tmp_path / "another"))
    second = _open().owner
    assert first != second
    assert max(len(first), len(second)) <= 40
    assert slug("Ä b_C/") == "b-c"


def test_the_owner_is_whoever_runs_not_who_the_environment_names(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`su` leaves LOGNAME and USER of another account; a uid without account is an owner too."""
    before = _open().owner
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody-else")
    assert _open().owner == before
    with monkeypatch.context() as inside:
        inside.setattr(os, "getuid", lambda: 3_999_999_999)
        assert places._new_owner(home).startswith("uid-3999999999-")


def test_no_stray_secret_reaches_the_engine(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proxy and home pass, keys do not; the passphrase goes by file."""
    passed = {"HTTPS_PROXY": "http://proxy", "no_proxy": "localhost", "LC_ALL": "C"}
    # A module system's interpreter finds neither its own library nor packages without these.
    passed |= {"PYTHONPATH": "/site", "LD_LIBRARY_PATH": "/opt/python/lib"}
    kept = {
        "AWS_SECRET_ACCESS_KEY": "canary",
        "GITHUB_TOKEN": "canary",
        "PULUMI_CONFIG_PASSPHRASE": "canary",
        "PULUMI_ACCESS_TOKEN": "canary",
        "WANDB_API_KEY": "canary",
        "PYTHONHOME": "canary",
        "DAYFLY_RUN": "canary",
    }
    for name, value in (passed | kept).items():
        monkeypatch.setenv(name, value)
    seen = workspace.environment(_ENGINE, "a" * 32, providers.load("local"))
    assert passed.items() <= seen.items()
    assert "canary" not in seen.values()
    assert seen["DAYFLY_STACK"] == "a" * 32
    assert seen["PULUMI_PYTHON_CMD"] == sys.executable
    assert seen["PULUMI_CONFIG_PASSPHRASE_FILE"] == str(workspace.passphrase_file)
    assert seen["PATH"].split(os.pathsep)[0] == "/opt/pulumi/bin"


@pytest.mark.parametrize(
    ("backend", "secrets_provider", "name"),
    [
        ("s3://bucket", "passphrase", "AWS_PROFILE"),
        ("file:///state", "awskms://key", "AWS_PROFILE"),
        ("gs://bucket", "passphrase", "GOOGLE_APPLICATION_CREDENTIALS"),
        ("azblob://box", "passphrase", "AZURE_STORAGE_ACCOUNT"),
        ("https://api.pulumi.com", "passphrase", "PULUMI_ACCESS_TOKEN"),
        ("file:///state", "hashivault://key", "VAULT_ADDR"),
    ],
)
def test_a_backends_own_credentials_pass(
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
    secrets_provider: str,
    name: str,
) -> None:
    """The state may be in a cloud that the run's own provider is not."""
    monkeypatch.setenv(name, "wanted")
    assert name not in workspace.environment(_ENGINE, "a" * 32)
    remote = dataclasses.replace(workspace, backend=backend, secrets_provider=secrets_provider)
    assert remote.environment(_ENGINE, "a" * 32)[name] == "wanted"


def test_there_are_as_many_places_for_operations_as_memory_carries(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place is free again when its descriptor is closed, also by the death of its holder."""
    assert 1 <= slots.slot_count() <= 8
    monkeypatch.setattr(slots, "slot_count", lambda: 2)
    with workspace.operation_slot() as first:
        with workspace.operation_slot() as second:
            assert first != second
            assert len(list((workspace.home / "slots").iterdir())) == 2
        with workspace.operation_slot():
            assert len(list((workspace.home / "slots").iterdir())) == 2


def test_a_teardown_has_a_place_where_creations_stand_in_line(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of them, which no creation takes."""
    monkeypatch.setattr(slots, "slot_count", lambda: 1)
    with (
        workspace.operation_slot(),
        workspace.operation_slot(wait_s=0.1, teardown=True) as one,
        workspace.operation_slot(wait_s=0.1, teardown=True) as other,
        workspace.operation_slot(wait_s=0.1) as none,
        workspace.operation_slot(wait_s=0.1, teardown=True) as no_more,
    ):
        assert one is not None
        assert other is not None
        assert (none, no_more) == (None, None)


def test_the_longer_a_place_is_waited_for_the_less_often_it_is_looked_for(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At first at once; later twice a second, so that two hundred who wait take no core; never past the end of the wait."""
    monkeypatch.setattr(slots, "slot_count", lambda: 1)
    slept: list[float] = []
    folder = workspace.home / "slots"
    with (
        workspace.operation_slot(),
        slots.slot(folder, wait_s=60.2, now=lambda: sum(slept), sleep=slept.append) as none,
    ):
        assert none is None
    assert slept[0] <= 0.05
    assert max(slept) <= 0.5
    assert sum(slept) == pytest.approx(60.2)
    assert len(slept) < 140


def test_the_reserve_is_kept_whole_and_given_back_only_when_space_is_short(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that a full disk cut short is made anew."""
    reserve = workspace.home / "reserve"
    reserve.write_bytes(b"short")
    workspace.keep_reserve()
    assert reserve.stat().st_size == 8 << 20
    workspace.free_reserve()
    assert reserve.exists()
    usage = shutil.disk_usage(workspace.home)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    workspace.free_reserve()
    assert not reserve.exists()


def test_the_users_own_settings_are_not_read_in_tests() -> None:
    """The developer's file must not decide whether a test passes."""
    assert str(settings.user_file()).startswith(os.environ["DAYFLY_HOME"])
