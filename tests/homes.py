"""Homes of several computers, as far as one computer can play them: workspaces that share a remote state backend."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from dayfly.runtime.context import Context
from dayfly.stacks import journal
from dayfly.stacks.settings import Settings
from dayfly.stacks.workspace import Workspace

BACKEND = "s3://bucket"


def remote(workspace: Workspace) -> Workspace:
    """The same home, with its state where others reach it."""
    shared = dataclasses.replace(workspace, backend=BACKEND)
    assert shared.identity
    return shared


def another(folder: Path, like: Workspace) -> Workspace:
    """A home of another computer, in a folder that is not there yet, with the same passphrase."""
    for name in ("runs", "state", "slots", "cache", "making"):
        (folder / name).mkdir(parents=True, mode=0o700)
    folder.chmod(0o700)
    if (like.home / "passphrase").exists():
        shutil.copy2(like.home / "passphrase", folder / "passphrase")
    found = dataclasses.replace(like, home=folder, owner="somebody-else")
    assert found.identity
    return found


def context(workspace: Workspace) -> Context:
    """As a process of that home has it."""
    return Context(Settings({}), workspace)


def hand(workspace: Workspace, **client: Any) -> dict[str, Any]:
    """What a machine says of a run that a home has taken in hand."""
    described = {**journal.myself(), "host": "elsewhere.example", **client}
    return {"home": workspace.identity, "named": "somebody on elsewhere", "client": described}
