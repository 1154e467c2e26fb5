"""A Python minor that nobody could have on the machine is refused before the machine exists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dayfly.errors import SpecError
from dayfly.infra import providers
from dayfly.infra.spec import Spec
from dayfly.runtime import interpreter
from dayfly.runtime.call import Call
from dayfly.stacks import journal
from dayfly.stacks.workspace import Workspace

OFF = [
    ({"UV_PYTHON_DOWNLOADS": "never"}, "python-downloads=never"),
    ({"UV_PYTHON_DOWNLOADS": "manual"}, "python-downloads=manual"),
    ({"UV_OFFLINE": "1"}, "UV_OFFLINE"),
    ({"UV_NO_MANAGED_PYTHON": "true"}, "UV_NO_MANAGED_PYTHON"),
    ({"UV_PYTHON_PREFERENCE": "only-system"}, "only-system"),
]


@pytest.mark.parametrize(("variables", "words"), OFF)
def test_with_downloads_off_only_what_the_provider_promises_is_taken(
    variables: dict[str, str], words: str
) -> None:
    """The message names the setting, the provider, and the minor."""
    with pytest.raises(SpecError, match=words) as refused:
        interpreter.check(["local", "lambda"], variables, "3.11")
    assert "Python 3.11" in str(refused.value)
    assert "lambda does not say" in str(refused.value)
    interpreter.check(["lambda"], variables, providers.load("lambda").pythons[0])
    interpreter.check(["local"], variables, "3.11")


def test_what_uv_cannot_fetch_for_linux_is_refused(tmp_path: Path) -> None:
    """By the list that uv has in itself, or is told of; no network is asked."""
    interpreter.check(["lambda"], {}, "3.12")
    with pytest.raises(SpecError, match=r"no Python 3\.7 for Linux"):
        interpreter.check(["lambda"], {}, "3.7")
    entry = {
        "name": "cpython",
        "arch": {"family": "x86_64", "variant": None},
        "os": "linux",
        "libc": "gnu",
        "major": 3,
        "minor": 7,
        "patch": 9,
        "prerelease": "",
        "url": "https://example.org/python.tar.gz",
        "sha256": None,
        "variant": None,
        "build": None,
    }
    listed = tmp_path / "pythons.json"
    listed.write_text(json.dumps({"cpython-3.7.9-linux-x86_64-gnu": entry}))
    interpreter.check(["lambda"], {"UV_PYTHON_DOWNLOADS_JSON_URL": str(listed)}, "3.7")


@pytest.mark.process
def test_a_call_is_refused_with_nothing_spent(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a run is written down."""
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    spec = Spec(provider="lambda", gpu="A100", environment=[])
    with pytest.raises(SpecError, match="keeps uv from fetching it"):
        Call.prepare(abs, (1,), {}, spec, to_run=False)
    assert not list(journal.histories(workspace.runs))
