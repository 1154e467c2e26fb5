"""The program that a run declares on a machine of one's own: its key there and the login with it, which open nothing and hold no secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dayfly.infra import providers
from dayfly.infra.offers import Offer
from dayfly.infra.run import Run
from dayfly.infra.spec import Spec
from dayfly.infra.ssh_resources import KeyProvider, ReadyProvider
from dayfly.stacks import recorder
from dayfly.stacks.intent import make_key
from tests import declared
from tests.declared import Declared

OFFER = Offer("ssh", "me@gpu-box:2222", "gpu-box", 8, 32 << 30, 0.0)
_TYPES = {
    "key": "pulumi-python:dynamic/dayfly:SshKey",
    "ready": "pulumi-python:dynamic/dayfly:SshReady",
}
_HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEFk"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that is about to be brought up; the machine brings its own host key."""
    return Run("b" * 32, "me", 1000.0, 4600.0, tmp_path, make_key(tmp_path / "user_key"), "")


@pytest.fixture
def graph(run: Run) -> tuple[dict[str, Declared], dict[str, Any]]:
    """The resources by name, and the outputs of the machine."""
    told = {"host": "10.0.0.5", "port": 2222, "user": "me", "host_key": _HOST_KEY, "via": ""}
    found, (machine,) = declared.whole(
        Spec(provider="ssh", host="me@gpu-box:2222"), OFFER, run, told=told
    )
    return {each.name: each for each in found}, machine


def test_it_is_a_key_and_the_login_with_it(
    graph: tuple[dict[str, Declared], dict[str, Any]],
) -> None:
    """Each made by its own class and by no other; nothing of the machine's, no firewall and no rule in one."""
    found, machine = graph
    assert {name: each.type for name, each in found.items()} == _TYPES
    assert found["key"].inputs["__provider"] == KeyProvider.reference()
    assert found["ready"].inputs["__provider"] == ReadyProvider.reference()
    # What it is pinned to has been shown by the login, which comes after the key.
    assert found["ready"].inputs["host_key"] == _HOST_KEY
    assert machine == {
        "id": "key-id",
        "host": "10.0.0.5",
        "port": 2222,
        "user": "me",
        "host_key": _HOST_KEY,
        "via": "",
    }


def test_the_key_has_the_run_s_tags_and_its_end(
    run: Run, graph: tuple[dict[str, Declared], dict[str, Any]]
) -> None:
    """They are written beside it, so that whoever finds it there knows whose it is; the login leaves nothing that could carry any."""
    found, _ = graph
    inputs = {n: v for n, v in found["key"].inputs.items() if n != "__provider" and v is not None}
    assert inputs == {
        "run": run.id,
        "owner": "me",
        "deadline": 4600,
        "directory": str(run.directory),
        "ssh_host": "me@gpu-box:2222",
        "tags": run.tags,
        "public_key": run.public_key,
    }
    assert (found["ready"].inputs["run"], found["ready"].inputs["ssh_host"]) == (
        run.id,
        "me@gpu-box:2222",
    )


def test_no_secret_is_declared(run: Run, graph: tuple[dict[str, Declared], dict[str, Any]]) -> None:
    """In clear or sealed: of the run's key only the public half leaves its directory."""
    found, machine = graph
    assert all(each.secrets == () for each in found.values())
    text = json.dumps([[each.inputs for each in found.values()], machine])
    private = (run.directory / "user_key").read_text().splitlines()
    assert "PRIVATE KEY" in private[0]
    assert run.public_key in text
    assert not [line for line in private if line in text]


def test_the_recorder_lists_the_same(run: Run) -> None:
    """What `dayfly plan` shows without an engine; the machine itself is nobody's to pay for here."""
    listed = recorder.resources(Spec(provider="ssh", host="me@gpu-box:2222"), OFFER, run)
    assert {each["name"]: each["type"] for each in listed} == _TYPES
    assert {each["type"] for each in listed} - providers.load("ssh").free == {_TYPES["key"]}
