"""Outputs with the real engine: they are here when the call has ended, whatever became of the function."""

from __future__ import annotations

import functools
import hashlib
import os
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dayfly import Data, cluster
from dayfly.runtime.show import paragraphs, story
from dayfly.stacks import journal

pytestmark = [pytest.mark.engine, pytest.mark.sshd]


@pytest.mark.long
def test_an_attempt_that_fails_has_its_outputs_here_and_the_next_goes_on_from_its_checkpoints(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the folder that was named, each attempt in one of its own; `show` tells of them. When the value is here
    checkpoints are not kept.

    What it was given were Data: a folder of this computer, and a file behind a URL.
    """
    given = tmp_path / "set"
    given.mkdir()
    (given / "weights").write_bytes(bytes(3_000_000))
    (given / "label").write_text("diverged")

    @cluster(provider="local", environment=[], time="10m", retries=1, outputs=tmp_path / "results")
    def f(given: Path, *, more: list[Path]) -> list[str]:
        kept = Path(os.environ["DAYFLY_CHECKPOINT_DIR"])
        found = sorted(path.name for path in kept.iterdir())
        if found:
            return [*found, (kept / "step_1").read_text()]
        (kept / "step_1").write_text("one")
        folder = Path(os.environ["DAYFLY_OUTPUT_DIR"])
        (folder / "epoch_1").mkdir()
        (folder / "epoch_1" / "weights").write_bytes((given / "weights").read_bytes())
        (folder / "away").symlink_to("/etc/passwd")
        raise ValueError((given / "label").read_text() + more[0].read_text())

    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(given))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True).start()
        url, digest = f"http://127.0.0.1:{web.server_port}/label", hashlib.sha256(b"diverged")
        job = f.submit(Data(given), more=[Data(url, sha256=digest.hexdigest())])
        assert job.result(timeout=240) == ["step_1", "one"]
        web.shutdown()
    job.receipt(timeout=120)
    first = job.directory.with_name(journal.read(job.directory).intent["lineage"])
    assert first != job.directory
    assert not list(first.glob("checkpoints*"))
    outputs = tmp_path / "results" / first.name[:12]
    assert (outputs / "epoch_1" / "weights").read_bytes() == bytes(3_000_000)
    assert not os.path.lexists(outputs / "away")
    assert job.outputs == tmp_path / "results" / job.id[:12]
    assert list(job.outputs.iterdir()) == []
    told = story(journal.read(first))
    assert (told["outputs"]["count"], told["outputs"]["bytes"]) == (1, 3_000_000)
    rows = dict(paragraphs(told))["outputs"]
    assert rows[0] == ("home", f"1 file, 3.0 MB, in {outputs}")
    assert rows[1][1] == "epoch_1/weights  (3.0 MB)"
    assert rows[2][0] == "left out"
    names = [event["event"] for event in told["events"]]
    (data,) = [event for event in told["events"] if event["event"] == "data"]
    assert data["bytes"] == 3_000_008
    assert names.index("result_fetched") < names.index("outputs") < names.index("acknowledged")
    shown = capfd.readouterr().err
    assert "attempt failed: ValueError: divergeddiverged; 1 more" in shown
    assert f"1 file, 3.0 MB, in {outputs}" in shown
    assert "left out of the outputs: away: it is a link out of the folder" in shown
