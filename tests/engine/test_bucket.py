"""Checkpoints in a bucket with the real engine: a retry begins with them, and so does the next call."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dayfly import cluster
from dayfly.stacks import journal
from tests.emulators.s3 import s3

# The environment's s3fs comes from the index.
pytestmark = [pytest.mark.engine, pytest.mark.sshd, pytest.mark.network]


@pytest.mark.long
def test_an_attempt_and_the_next_call_begin_with_what_the_bucket_keeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also of an attempt that was killed; nothing of it comes through this computer."""
    with s3() as store:
        variables = store.variables()
        # It is no secret, and too short to be given as one; the keys are there, so that nobody looks for others.
        del variables["AWS_EC2_METADATA_DISABLED"]
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        url = f"s3://{store.make('kept')}/function"

        @cluster(
            provider="local",
            environment=["s3fs"],
            time="10m",
            retries=1,
            secrets=list(variables),
            checkpoints=url,
        )
        def f() -> list[str]:
            folder = Path(os.environ["DAYFLY_CHECKPOINT_DIR"])
            found = sorted(path.name for path in folder.iterdir())
            (folder / f"step_{len(found)}").write_text("kept")
            if not found:
                os.kill(os.getpid(), 9)
            return found

        job = f.submit()
        assert job.result(timeout=400) == ["step_0"]
        job.receipt(timeout=120)
        first = job.directory.with_name(journal.read(job.directory).intent["lineage"])
        assert first != job.directory
        assert not list(first.glob("checkpoints*"))
        came = journal.read(job.directory).last("checkpoints_restored")
        assert came is not None
        assert (came.fields["files"], came.fields["left_by"]) == (1, first.name)
        later = f.submit()
        assert later.result(timeout=400) == ["step_0", "step_1"]
        later.receipt(timeout=120)
        kept = json.loads(store.get("kept/function/manifest.json") or b"{}")
        assert [entry[0] for entry in kept["files"]] == ["step_0", "step_1", "step_2"]
