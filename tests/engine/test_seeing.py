"""One run with the real engine, watched while it runs and afterwards, and reached on a port that its function listens on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from dayfly import cluster
from dayfly.errors import RunFailed
from dayfly.runtime import samples
from tests.test_cli import dayfly

pytestmark = [pytest.mark.engine, pytest.mark.sshd]


@cluster(provider="local", environment=[], time="10m")
def serve() -> int:
    """Answers requests on a port of the machine's loopback until one says that it is enough."""
    import http.server

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f"from {self.path}".encode())

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        print(server.server_port, flush=True)
        answered = 0
        while answered < 3:
            server.handle_request()
            answered += 1
    return answered


def fetch(address: str, path: str) -> str:
    with urllib.request.urlopen(f"http://{address}/{path}", timeout=60) as answer:
        return str(answer.read().decode())


@pytest.mark.tried("local", "real")
def test_a_run_is_watched_and_reached_from_two_processes_and_told_afterwards(
    tmp_path: Path,
) -> None:
    """`top`, `usage`, `forward`, `show`: one run, and nothing of it is disturbed."""
    job = serve.submit()
    port = int(next(iter(job.logs(follow=True))))
    while job.usage().latest is None:
        time.sleep(0.05)
    told = json.loads(dayfly("top", job.id, "--json").stdout)
    assert (told["status"], told["phase"]) == ("RUNNING", "run")
    assert [phase["name"] for phase in told["phases"]] == [
        "provision",
        "connect",
        "environment",
        "run",
    ]
    assert told["log"] == [str(port)]
    assert told["now"]["memory_bytes"] > 1 << 20
    with job.forward(port) as tunnel:
        assert fetch(tunnel.address, "here") == "from /here"
    command = [sys.executable, "-m", "dayfly.runtime.cli", "forward", job.id, f"{port}:0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stderr is not None
        address = other.stdout.readline().strip()
        assert fetch(address, "there") == "from /there"
        other.send_signal(signal.SIGINT)
        assert other.wait(60) == 0
        assert other.stderr.read() == ""
    with job.forward(port) as tunnel:
        assert fetch(tunnel.address, "last") == "from /last"
    assert job.result(timeout=120) == 3
    with pytest.raises(RunFailed, match="has ended"):
        job.forward(port)
    job.receipt(timeout=120)
    use = job.usage()
    assert use.use is not None
    assert use.use.seconds == pytest.approx(
        sum(each.seconds for each in samples.read(job.directory))
    )
    assert [phase.name for phase in use.phases][-3:] == ["run", "result", "teardown"]
    assert use.phases[-1].end is not None
    shown = dayfly("show", job.id).stdout
    assert "in the mean" in shown
    page = tmp_path / "run.html"
    dayfly("show", job.id, "--html", str(page))
    assert page.read_text().count("<svg") == 3
    assert dayfly("forward", job.id, "1").returncode == 1
    assert "names no port" in dayfly("forward", job.id, "http").stderr
