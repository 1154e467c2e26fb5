"""Data in the calls of a session: brought once for each content, fetched once for all, a path in every call."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dayfly import Data
from dayfly.errors import SpecError
from dayfly.runtime import ledger
from dayfly.runtime.local_tree import LocalTree
from dayfly.runtime.tally import Tally
from tests.warm import WAIT_S, Warm, warm

pytestmark = pytest.mark.sshd


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """One run for all."""
    with warm(tmp_path_factory.mktemp("warm"), slots=4) as run:
        yield run
        assert run.end().how == "finished"


def read(given: dict[str, Any]) -> tuple[str, str]:
    """A path somewhere in an argument."""
    path = given["deep"][0]
    return str(path), path.read_text()


def aged(path: Path) -> Path:
    """As if it had been written long ago."""
    os.utime(path, (10**9, 10**9))
    return path


def test_what_lies_here_is_sent_once_and_again_when_it_has_changed(
    shared: Warm, tmp_path: Path
) -> None:
    """Each call has what lay there when it was made; the ledger has what was sent, and for how long."""
    (tmp_path / "set").write_text("first")
    data = Data(aged(tmp_path / "set"))
    calls = [shared.submit(read, {"deep": [data]}) for _ in range(3)]
    first = [call.result(WAIT_S) for call in calls]
    assert {text for _, text in first} == {"first"}
    assert len({path for path, _ in first}) == 1
    assert [call.times.data_bytes for call in calls] == [5, 0, 0]
    assert calls[0].times.data_s > calls[1].times.data_s > 0
    (tmp_path / "set").write_text("other")
    changed = shared.submit(read, {"deep": [data]})
    path, text = changed.result(WAIT_S)
    assert (text, changed.times.data_bytes) == ("other", 5)
    assert path != first[0][0]
    assert Path(first[0][0]).read_text() == "first"
    shared.call(abs, 1)  # What came before it is written down by then.
    told = ledger.totals(shared.folder)
    assert told is not None
    assert told["data_bytes"] >= 10
    assert told["data_s"] > 0


def test_what_is_sent_is_counted_while_it_is(
    shared: Warm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the run's own step; what is there already needs no time."""
    seen: list[tuple[str, str]] = []
    count = Tally.count

    def counted(tally: Tally, done: int) -> None:
        count(tally, done)
        seen.append((tally.name, tally.text.partition(",")[0]))

    monkeypatch.setattr(Tally, "count", counted)
    (tmp_path / "set").write_bytes(os.urandom(3 * 10**6))
    data = Data(aged(tmp_path / "set"))
    for _ in range(2):
        assert shared.call(os.path.getsize, data) == 3 * 10**6
    assert seen[-1] == ("data", "3.0 MB of 3.0 MB")
    assert seen.count(seen[-1]) == 1


def test_a_file_that_is_new_is_looked_into_again(tmp_path: Path) -> None:
    """It could change once more without its time and size telling so."""
    (tmp_path / "x").write_text("one")
    now = (tmp_path / "x").stat().st_mtime_ns
    assert LocalTree(tmp_path / "x").likeness(now + 10**9) is None
    seen = LocalTree(tmp_path / "x").likeness(now + 10**10)
    assert seen == LocalTree(tmp_path / "x").likeness(now + 10**11)
    aged(tmp_path / "x")
    assert LocalTree(tmp_path / "x").likeness(now + 10**10) != seen


def test_a_folder_is_a_path_in_a_map_and_what_stays_here_is_said_once(
    shared: Warm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret in it stays; every item has the same folder."""
    (folder := tmp_path / "set").mkdir()
    (folder / "a").write_text("a")
    (folder / ".env").write_text("TOKEN=x")
    warnings: list[str] = []
    calls = shared.calls(abs)
    monkeypatch.setattr(calls._data._display, "warning", warnings.append)

    def names(path: Path) -> list[str]:
        return sorted(entry.name for entry in path.iterdir())

    assert shared.map(names, [Data(folder)] * 5) == [["a"]] * 5
    assert len(warnings) == 1
    assert ".env" in warnings[0]


def test_a_function_may_hold_data_itself(shared: Warm, tmp_path: Path) -> None:
    """A global or a closed-over variable; one that has changed is another function."""
    (tmp_path / "x").write_text("one")
    held = Data(aged(tmp_path / "x"))

    def function(other: Path) -> tuple[str, str]:
        return Path(held).read_text(), other.read_text()

    (tmp_path / "y").write_text("y")
    assert shared.call(function, Data(tmp_path / "y")) == ("one", "y")
    (tmp_path / "x").write_text("two")
    assert shared.call(function, Data(tmp_path / "y")) == ("two", "y")


def test_what_is_gone_is_refused_before_it_is_sent(shared: Warm, tmp_path: Path) -> None:
    """The other calls go on."""
    (tmp_path / "x").write_text("x")
    data = Data(tmp_path / "x")
    (tmp_path / "x").unlink()
    with pytest.raises(SpecError, match="cannot be read"):
        shared.submit(read, {"deep": [data]})
    assert shared.call(abs, -1) == 1


class Site(BaseHTTPRequestHandler):
    """Counts who asks for its one file."""

    asked: ClassVar[list[str]] = []
    content = b"c" * 100_000

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def site() -> Iterator[str]:
    """Its address."""
    Site.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as web:
        serving = threading.Thread(target=web.serve_forever, args=(0.01,))
        serving.start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()
        serving.join()


def test_what_is_behind_a_url_is_fetched_once_a_session(shared: Warm, site: str) -> None:
    """By one of the calls that need it, while the others wait; the next ones find it."""
    data = Data(f"{site}/x", sha256=hashlib.sha256(Site.content).hexdigest())

    def function(path: Path, number: int) -> tuple[int, int, str]:
        return len(path.read_bytes()), number, str(path)

    calls = shared.calls(function).submit_all([((data, number), {}) for number in range(4)])
    found = [call.result(WAIT_S) for call in calls]
    found.append(shared.submit(function, data, 4).result(WAIT_S))
    assert [(size, number) for size, number, _ in found] == [(100_000, n) for n in range(5)]
    assert len({path for _, _, path in found}) == 1
    assert Site.asked == ["/x"]
    assert sum(call.times.load_s > 0 for call in calls) == 4


def test_what_cannot_be_fetched_says_why(shared: Warm, site: str) -> None:
    """Another content than announced, and a library that the machine has not."""
    with pytest.raises(OSError, match="could not be fetched"):
        shared.call(read, {"deep": [Data(f"{site}/x", sha256="0" * 64)]})
    with pytest.raises(OSError, match=r"not installed on the machine .*add it to environment="):
        shared.call(read, {"deep": [Data("az://container/x")]})
