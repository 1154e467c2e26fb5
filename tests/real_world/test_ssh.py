"""One run on a machine of one's own that is elsewhere, for $0; what it would put there is printed first.

Needs DAYFLY_TEST_SSH_HOST, a host as `ssh` takes it, into which `ssh -o BatchMode=yes HOST true` gets without a question:

    DAYFLY_TEST_SSH_HOST=gpu-box make real-world
"""

from __future__ import annotations

import os
import platform
import subprocess
from typing import Any

import pytest

from dayfly import cluster
from dayfly.infra import ssh_records
from dayfly.infra.ssh_host import SshHost
from dayfly.infra.ssh_login import Login
from dayfly.runtime import wording
from dayfly.runtime.context import Context
from dayfly.stacks import journal

# Asked when this file is read: the tests' own environment has none of these.
_HOST = os.environ.get("DAYFLY_TEST_SSH_HOST", "")
_AGENT = os.environ.get("SSH_AUTH_SOCK", "")

pytestmark = [
    pytest.mark.engine,
    pytest.mark.network,
    pytest.mark.tried("ssh", "real"),
    pytest.mark.skipif(
        not _HOST, reason="DAYFLY_TEST_SSH_HOST is not set: a host as `ssh` takes it"
    ),
]


def _where() -> dict[str, Any]:
    print("on", platform.node(), flush=True)
    return {"host": platform.node(), "pid": os.getpid()}


def _plain(command: str) -> str:
    """What the machine answers, without any code of ours on it."""
    done = subprocess.run(
        ["ssh", "-o", "BatchMode=yes", *SshHost.parse(_HOST).arguments, command],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_a_function_runs_there_and_the_machine_is_as_it_was(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Host and pid are the machine's; its keys are as before to the byte, and nothing of the run is left."""
    if _AGENT:
        monkeypatch.setenv("SSH_AUTH_SOCK", _AGENT)
    keys, name = "cat ~/.ssh/authorized_keys", _plain("uname -n").strip()
    before = _plain(keys)
    remote = cluster(provider="ssh", host=_HOST, environment=[], time="10m")(_where)
    with capsys.disabled():
        for label, text in wording.plan_rows(remote.plan()):
            print(label, text, flush=True)
        print("it can cost $0 at most", flush=True)
    job = remote.submit()
    assert job.result()["host"] == name
    receipt = job.receipt()
    assert (receipt.destroyed, receipt.left, receipt.usd) == (2, 0, 0.0)
    assert _plain(keys) == before
    told = Login.own(SshHost.parse(_HOST)).ask({"op": "look", "runs": [job.id]}).values
    assert job.id not in str(told)
    assert ssh_records.open_ones() == []
    history = journal.read(Context.open().workspace.directory(job.id))
    assert history.machine is not None
    print(receipt)
