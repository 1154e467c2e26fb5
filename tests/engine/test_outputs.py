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


def test_a_function_that_fails_after_it_wrote_has_its_outputs_here(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the folder that was named, each run in one of its own; the exception is the function's, and `show` tells of both.

    What it was given were Data: a folder of this computer, and a file behind a URL.
    """
    given = tmp_path / "set"
    given.mkdir()
    (given / "weights").write_bytes(bytes(3_000_000))
    (given / "label").write_text("diverged")

    @cluster(provider="local", environment=[], time="10m", outputs=tmp_path / "results")
    def f(given: Path, *, more: list[Path]) -> None:
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
        with pytest.raises(ValueError, match="divergeddiverged"):
            job.result(timeout=120)
        web.shutdown()
    assert job.outputs == tmp_path / "results" / job.id[:12]
    assert (job.outputs / "epoch_1" / "weights").read_bytes() == bytes(3_000_000)
    assert not os.path.lexists(job.outputs / "away")
    job.receipt(timeout=120)
    told = story(journal.read(job.directory))
    assert (told["outputs"]["count"], told["outputs"]["bytes"]) == (1, 3_000_000)
    rows = dict(paragraphs(told))["outputs"]
    assert rows[0] == ("home", f"1 file, 3.0 MB, in {job.outputs}")
    assert rows[1][1] == "epoch_1/weights  (3.0 MB)"
    assert rows[2][0] == "left out"
    names = [event["event"] for event in told["events"]]
    (data,) = [event for event in told["events"] if event["event"] == "data"]
    assert data["bytes"] == 3_000_008
    assert names.index("result_fetched") < names.index("outputs") < names.index("acknowledged")
    shown = capfd.readouterr().err
    assert f"1 file, 3.0 MB, in {job.outputs}" in shown
    assert "left out of the outputs: away: it is a link out of the folder" in shown


def test_the_next_attempt_goes_on_from_the_checkpoints_of_the_last() -> None:
    """On another machine, whose folder has them; when the value is here they are not kept."""

    @cluster(provider="local", environment=[], time="10m", retries=1)
    def f() -> list[str]:
        folder = Path(os.environ["DAYFLY_CHECKPOINT_DIR"])
        found = sorted(path.name for path in folder.iterdir())
        if not found:
            (folder / "step_1").write_text("one")
            os.kill(os.getpid(), 9)
        return [*found, (folder / "step_1").read_text()]

    job = f.submit()
    assert job.result(timeout=240) == ["step_1", "one"]
    job.receipt(timeout=120)
    first = job.directory.with_name(journal.read(job.directory).intent["lineage"])
    assert first != job.directory
    assert not list(first.glob("checkpoints*"))
