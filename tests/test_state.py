"""The engine's state is read with suspicion: what cannot be read, or was edited, never reaches the engine."""

from __future__ import annotations

import base64
import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from dayfly.infra.providers.local import InstanceProvider, ReadyProvider
from dayfly.stacks import journal, state
from dayfly.stacks.engine_teardown import EngineTeardown
from dayfly.stacks.state import State, StateUnusable
from dayfly.stacks.workspace import Workspace
from tests import runs

_RUN = "a" * 32


def _dynamic(provider: Any, side: str = "inputs") -> dict[str, Any]:
    return {
        "urn": "urn:pulumi:r::dayfly::pulumi-python:dynamic/dayfly:LocalInstance::instance",
        "type": "pulumi-python:dynamic/dayfly:LocalInstance",
        "custom": True,
        side: {"__provider": provider},
    }


def _file(workspace: Workspace) -> Path:
    file = state.file_of(workspace, _RUN)
    assert file is not None
    file.parent.mkdir(parents=True, exist_ok=True)
    workspace.directory(_RUN).mkdir(exist_ok=True)
    return file


@pytest.mark.parametrize("cls", [InstanceProvider, ReadyProvider])
@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_our_own_references_are_accepted(cls: Any, side: str) -> None:
    """The dotted name of each dynamic class, pickled, and nothing else."""
    State((_dynamic(cls.reference(), side),), ()).check_providers()


def _edited() -> list[Any]:
    own = base64.b64decode(InstanceProvider.reference())
    return [
        base64.b64encode(pickle.dumps(print, protocol=4)).decode(),
        base64.b64encode(b"\x80\x04N." + own).decode(),
        InstanceProvider.reference() + "\n",
        "",
        {
            "4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270",
            "ciphertext": "v1:",
        },
        7,
    ]


@pytest.mark.parametrize("value", _edited())
@pytest.mark.parametrize("pending", [False, True])
def test_anything_else_is_refused_before_the_engine_sees_it(value: Any, pending: bool) -> None:
    """Also in an operation that was begun and never ended."""
    resource = _dynamic(value)
    held = State((), ({"resource": resource},)) if pending else State((resource,), ())
    with pytest.raises(StateUnusable, match="__provider is not Dayfly's"):
        held.check_providers()


@pytest.mark.parametrize(
    "edited",
    [
        {"inputs": {"run": "f" * 32}},
        {"outputs": {"run": "f" * 32}},
        {"outputs": {"run": 7}},
        {"outputs": {"directory": "/etc"}},
        {"inputs": {"directory": f"/home/{_RUN}/../other"}},
        {"id": "i-other"},
    ],
)
@pytest.mark.parametrize("pending", [False, True])
def test_what_is_not_this_run_s_is_refused(edited: dict[str, Any], pending: bool) -> None:
    """The engine would end another run's machine, or remove another's folder."""
    own = {"custom": True, "urn": "u", "type": "pulumi-python:dynamic/dayfly:X", "id": "i-1"}
    own |= {"inputs": {"run": _RUN}, "outputs": {"run": _RUN, "directory": f"/home/{_RUN}/machine"}}
    ready = own | {"id": f"ready-{_RUN}"}
    provider = {"custom": True, "type": "pulumi:providers:pulumi-python", "id": "some-uuid"}
    State((own, ready, provider), ({"resource": own},)).check_ownership(_RUN, {"i-1"})
    wrong = own | edited
    held = State((), ({"resource": wrong},)) if pending else State((own, wrong), ())
    with pytest.raises(StateUnusable, match="not given to the engine"):
        held.check_ownership(_RUN, {"i-1"})


def test_a_stack_that_never_was_has_no_state(workspace: Workspace) -> None:
    """That is no error: nothing was created."""
    assert state.read(workspace, None, _RUN, _RUN) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"\x00\xff garbage",
        b"[]",
        b"null",
        b'{"checkpoint": []}',
        b'{"checkpoint": 3}',
        b'{"version": 3}',
        b'"text"',
    ],
)
def test_what_is_no_state_is_named_as_unusable(workspace: Workspace, content: bytes) -> None:
    """Never a parser's own exception."""
    _file(workspace).write_bytes(content)
    with pytest.raises(StateUnusable):
        state.read(workspace, None, _RUN, _RUN)


@pytest.mark.parametrize(
    "latest",
    [
        {"resources": ["text"]},
        {"resources": [{"custom": True, "inputs": None}]},
        {"resources": [{"custom": True, "inputs": []}]},
        {"pending_operations": ["text"]},
        {"pending_operations": [{"resource": None}]},
    ],
)
def test_resources_of_another_shape_are_unusable_too(workspace: Workspace, latest: Any) -> None:
    """JSON that someone has edited into something that the engine never writes."""
    _file(workspace).write_text(json.dumps({"checkpoint": {"latest": latest}}))
    with pytest.raises(StateUnusable):
        found = state.read(workspace, None, _RUN, _RUN)
        assert found is not None
        found.check_providers()


def test_an_empty_stack_holds_nothing(workspace: Workspace) -> None:
    """As `pulumi stack init` leaves it."""
    _file(workspace).write_text('{"version": 3, "checkpoint": {"stack": "s", "latest": null}}')
    assert state.read(workspace, None, _RUN, _RUN) == State((), ())


def test_the_stack_itself_and_providers_are_no_custom_resources() -> None:
    """What is counted is what stands for something outside."""
    resources = (
        {"type": "pulumi:pulumi:Stack"},
        {"type": "pulumi:providers:pulumi-python", "custom": True},
        _dynamic(InstanceProvider.reference()),
    )
    assert State(resources, ()).custom_resources == resources[2:]


def test_a_state_that_is_set_aside_leaves_no_backup_behind(workspace: Workspace) -> None:
    """It stays readable in the run's directory, and nothing trips over it again."""
    file = _file(workspace)
    file.write_text("{")
    Path(f"{file}.bak").write_text("{")
    kept = state.quarantine(workspace, _RUN, _RUN)
    assert kept == workspace.directory(_RUN) / "state.unusable.json"
    assert kept.read_text() == "{"
    assert list(file.parent.iterdir()) == []
    assert state.quarantine(workspace, _RUN, _RUN) is None


def test_the_locks_of_a_stack_that_is_gone_are_removed_and_no_others(workspace: Workspace) -> None:
    """The engine was killed between the stack and its own lock."""
    run_id = runs.opened(workspace)
    history = journal.read(workspace.directory(run_id))
    folder = workspace.home / "state/.pulumi/locks/organization/dayfly"
    for stack in (run_id, _RUN):
        (folder / stack).mkdir(parents=True)
        (folder / stack / "x.json").touch()
        (folder / stack / "x.json.attrs").touch()
    EngineTeardown(workspace, None, print, []).remove(history, forced=True)
    assert list((folder / run_id).iterdir()) == []
    assert len(list((folder / _RUN).iterdir())) == 2


@pytest.mark.parametrize(
    ("backend", "root"),
    [
        ("file:///state", "/state"),
        ("file:///state?no_tmp_dir=true", "/state"),
        ("file:///a%20b/c%23d/e%2520f", "/a b/c#d/e%20f"),
        ("file:///a b", "/a b"),
        ("file://~/state", str(Path.home() / "state")),
    ],
)
def test_a_folder_s_url_is_read_as_the_engine_reads_it(
    workspace: Workspace, backend: str, root: str
) -> None:
    """Its query is no part of the path, and what is quoted is not the name."""
    held = dataclasses.replace(workspace, backend=backend)
    assert state.file_of(held, _RUN) == Path(root, ".pulumi/stacks/dayfly", f"{_RUN}.json")


def test_a_remote_backend_is_asked_through_the_engine_only(workspace: Workspace) -> None:
    """Without a CLI its state cannot be read, which is told rather than taken for an empty one."""
    remote = dataclasses.replace(workspace, backend="s3://bucket")
    assert state.file_of(remote, _RUN) is None
    with pytest.raises(StateUnusable, match="no Pulumi CLI"):
        state.read(remote, None, _RUN, _RUN)
