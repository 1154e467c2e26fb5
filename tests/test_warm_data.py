"""Data in the calls of a session: brought once for each content, fetched once for all, a path in every call."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dayfly import Data, cluster
from dayfly.errors import PayloadError, SpecError
from dayfly.runtime import call, ledger
from dayfly.runtime.call import Call
from dayfly.runtime.context import Context
from dayfly.runtime.local_tree import LocalTree
from dayfly.runtime.tally import Tally
from dayfly.runtime.warm_map import Ahead
from dayfly.runtime.warm_run import WarmRun, _length
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


# -- what a map needs before there is a machine


@dataclasses.dataclass
class Prepared(Exception):
    """Stands for the machine that would be made."""

    call: Call


@pytest.fixture
def unmade(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever would make a machine raises Prepared, without an engine."""

    def start(_: WarmRun[Any, Any], call: Call) -> None:
        raise Prepared(call)

    monkeypatch.setattr(WarmRun, "_start", start)
    monkeypatch.setattr(Context, "engine", lambda *_: None)
    monkeypatch.setattr(call, "equip", lambda *_: None)


@cluster(provider="local", environment=[])
def takes(*given: Any) -> int:
    """Anything."""
    return len(given)


def once(*items: Any) -> Iterator[Any]:
    """Items that are given only once."""
    yield from items


async def listed(values: Any) -> list[Any]:
    """All of them."""
    return [value async for value in values]


S3, HUB = Data("s3://bucket/x"), Data("hf://datasets/a/b")
MAPS: list[Callable[[], Any]] = [
    lambda: takes.map([{"deep": [S3]}], once(HUB)),
    lambda: takes.starmap(once(once([S3], HUB))),
    lambda: next(takes.map_unordered([S3, 1], [HUB])),
    lambda: asyncio.run(takes.map.aio(once(S3), [HUB])),
    lambda: asyncio.run(takes.starmap.aio([(S3, {1: HUB})])),
    lambda: asyncio.run(listed(takes.map_unordered.aio(once(S3), [HUB]))),
]


@pytest.mark.usefixtures("unmade")
@pytest.mark.parametrize("act", MAPS)
def test_a_machine_of_a_map_has_what_fetches_its_data(act: Callable[[], Any]) -> None:
    """As that of a single call: from the first item on."""
    with pytest.raises(Prepared) as prepared:
        act()
    recipe = prepared.value.call.recipe
    assert recipe.requirements == "fsspec\nhuggingface_hub\ns3fs\n"
    assert "for its data" in recipe.source


@pytest.mark.usefixtures("unmade")
def test_what_the_first_item_is_refused_for_costs_no_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An argument that cannot travel, or that nothing takes, a file that may not be read, an error while it is made."""
    (tmp_path / "x").touch()
    with pytest.raises(PayloadError, match="argument 1"):
        takes.map([threading.Lock()])
    with pytest.raises(PayloadError, match=r"\(x\)"):
        cluster(provider="local", environment=[])(lambda x: x).starmap([(1, 2)])
    with pytest.raises(ZeroDivisionError):
        takes.map(1 // number for number in [0])
    with pytest.raises(Prepared):
        takes.map([])
    access = os.access
    monkeypatch.setattr(os, "access", lambda at, mode: at != tmp_path / "x" and access(at, mode))
    with pytest.raises(SpecError, match="may not be read"):
        takes.map([Data(tmp_path / "x")])
    # There it is the value of that item, and the others may have theirs.
    with pytest.raises(Prepared):
        takes.map([Data(tmp_path / "x"), 1], return_exceptions=True)


def test_each_item_that_was_looked_at_is_taken_once() -> None:
    """Also of what gives its items once; how many there are stays known."""
    taken: list[int] = []

    def items() -> Iterable[int]:
        for number in range(3):
            taken.append(number)
            yield number

    ahead = Ahead(items())
    assert (ahead.first(), ahead.first(), taken) == ([0], [0], [0])
    assert (list(ahead), taken) == ([0, 1, 2], [0, 1, 2])
    assert _length(Ahead([1, 2]), [Ahead("abc")]) == 2
    assert _length(ahead, []) is None
    assert Ahead([]).first() == []
    parts = Ahead([once(1, 2), [3]])
    assert parts.first(tuple) == [(1, 2)]
    assert list(parts) == [(1, 2), [3]]
    assert list(Ahead(items())) == [0, 1, 2]
