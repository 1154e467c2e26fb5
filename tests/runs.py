"""Real journals of runs, written by the journal's own functions: open, held, orphaned and closed ones."""

from __future__ import annotations

import secrets
import time
from typing import Any

from dayfly.infra.offers import Offer
from dayfly.infra.run import new_id
from dayfly.infra.spec import Spec
from dayfly.stacks import intent, journal
from dayfly.stacks.receipt import Receipt
from dayfly.stacks.workspace import Workspace

OFFER = Offer(
    "local", "loopback", "this-computer", 2, 8 * 10**9, 3.6, as_of="2026-01-01", source="a test"
)
# An owner that no other test process has, whose machines may all be ended.
TESTER = f"tester-{secrets.token_hex(4)}"
# A process of this computer that is no more: pid 1 lives, and has started at another time.
GONE = {**journal.myself(), "pid": 1, "started": 0.0, "ticks": -1}


_SPEC = Spec(job_name="night")


def opened(workspace: Workspace, *, alive: bool = True, spec: Spec = _SPEC, **details: Any) -> str:
    """A run that is written down and nothing more; its client is this process, or one that is gone.

    Returns:
        Its id.
    """
    run_id = new_id()
    client = journal.myself() if alive else GONE
    given = {
        "function": "train:fit",
        "code_digest": "c0de" * 16,
        "environment": "live (3 packages)",
    }
    intent.write(workspace, run_id, spec, OFFER, client=client, **{**given, **details})
    return run_id


def launched(workspace: Workspace, run_id: str) -> None:
    """Its machine is there, and the function has started."""
    directory = workspace.directory(run_id)
    resources = [{"type": "t:Instance", "name": "instance"}]
    journal.append(directory, "resources", resources=resources, resources_from="recorder")
    journal.append(directory, "launched", id="local-1", usd_per_hour=3.6)
    journal.append(
        directory,
        "machine",
        id="local-1",
        host="127.0.0.1",
        port=9,
        user="me",
        host_key="ssh-ed25519 AAAA",
        provider="local",
        region="loopback",
        instance_type="this-computer",
    )
    journal.append(directory, "connected", host="node7", gpus=["A100"], driver="550", agent_pid=5)
    journal.append(directory, "job_started", python="3.11")
    (directory / "stdout.log").write_bytes(b"out 1\n\r50%\r100%\n")
    (directory / "stderr.log").write_bytes(b"err 1\n")


def closed(workspace: Workspace, run_id: str) -> None:
    """It is proved gone."""
    directory = workspace.directory(run_id)
    now = time.time()
    journal.append(
        directory, "job_ended", how="finished", code=0, started=now - 3, ended=now, signal=0
    )
    receipt = Receipt(run_id, "local", 2, 2, 0, now, 600.0, 3.6, 0.6, "pulumi", ("a note",))
    journal.append(directory, "closed", **receipt.as_dict())
    journal.write_receipt(directory, receipt.as_dict())
