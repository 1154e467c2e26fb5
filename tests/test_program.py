"""The program of a run: what does not end is ended."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from dayfly.infra.run import Run
from dayfly.infra.spec import Spec
from dayfly.stacks import isolated, program
from tests.runs import OFFER


def test_a_stack_init_that_hangs_is_ended_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend out of reach must not keep a call for ever."""
    monkeypatch.setattr(program, "_INIT_TIMEOUT_S", 0.2)
    run = Run("a" * 32, "me", 0.0, 0.0, tmp_path, "", "")
    request = program.Request(run, Spec(), OFFER, tmp_path, "3.250.0", tmp_path, "passphrase")
    log = tmp_path / "engine.log"
    making = isolated.start(["sleep", "600"], cwd=tmp_path, log=log, environment=os.environ)
    with pytest.raises(RuntimeError, match="stack init did not end in 0 s"):
        program._wait_for_init(request, making)
    assert not psutil.pid_exists(making.pid)


def test_of_what_the_engine_says_the_errors_alone_are_kept() -> None:
    """What a plugin prints below its first line too, and nothing of the progress, which says all of it again."""
    said = """
Updating (run):
 +  gcp:compute:Instance instance **creating failed** error: 1 error occurred:
Diagnostics:
  gcp:compute:Instance (instance):
    error: 1 error occurred:
    \t* Error waiting for instance to create: there is none
Resources:
    + 3 created
"""
    assert program._words(said).splitlines() == [
        "error: 1 error occurred:",
        "* Error waiting for instance to create: there is none",
    ]
