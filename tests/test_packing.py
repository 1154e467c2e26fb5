"""Parts of a content are packed on their way where that is measured to pay: decisions with a clock of their own, and both directions."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dayfly.errors import Forged
from dayfly.runtime import packing
from dayfly.runtime.agent import frames, sealed_writer
from dayfly.runtime.agent import packing as agent_packing
from dayfly.runtime.agent.digests import digest_of
from dayfly.runtime.homecoming import Homecoming
from dayfly.runtime.packing import Line, Packing, best
from dayfly.runtime.session import Session
from dayfly.runtime.ssh import lanes
from tests.proxy import Proxy, proxy
from tests.sshd import Server, sshd
from tests.test_session import Runs, pickler, runs, server

__all__ = ["pickler", "runs", "server"]
TEXT = b"".join(b"%d: a line of some log, much like the last one\n" % n for n in range(200_000))


# -- what both ends have


@settings(deadline=None)
@given(st.binary(max_size=5000), st.sampled_from(agent_packing.codecs()))
def test_what_was_packed_is_unpacked(data: bytes, codec: str) -> None:
    """And nothing else: of another size, torn, longer or altered it is refused."""
    made = agent_packing.pack(codec, data)
    assert agent_packing.unpack(codec, made, len(data)) == data
    for wrong, size in (
        (made, len(data) + 1),
        (made[:-1], len(data)),
        (made + b"x", len(data)),
        (b"x" * 20, len(data)),
    ):
        with pytest.raises(ValueError, match="what arrived"):
            agent_packing.unpack(codec, wrong, size)


def test_what_would_grow_without_end_is_given_up() -> None:
    """No more is ever made of it than was announced."""
    bomb = agent_packing.pack("zlib", bytes(50 << 20))
    with pytest.raises(ValueError, match="no part of 1000 bytes"):
        agent_packing.unpack("zlib", bomb, 1000)
    with pytest.raises(ValueError, match="nothing is packed by 'lzma'"):
        agent_packing.unpack("lzma", b"", 0)


def test_the_best_that_both_have_is_taken() -> None:
    """A machine of any Python has one; what is no list of names is none."""
    own = agent_packing.codecs()
    assert own[-1] == "zlib"
    assert ("zstd" in own) <= (sys.version_info >= (3, 14))
    assert best(["zlib"]) == "zlib"
    assert best(["unknown", *own]) == own[0]
    assert (best(None), best("zlib"), best([])) == ("", "", "")


# -- whether it pays


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def measured(clock: Clock, bytes_per_s: float) -> tuple[Packing, Line]:
    """On a line that has carried so much."""
    line = Line()
    made = Packing("zlib", line, clock)
    made.arrived(0)
    clock.now += (2 << 20) / bytes_per_s
    made.arrived(2 << 20)
    return made, line


def test_nothing_is_packed_before_the_line_is_known(clock: Clock) -> None:
    """Nor where both ends have nothing in common, nor on a line that is fast, nor what is short."""
    assert Packing("zlib", Line(), clock).packed(TEXT[:100_000]) is None
    made, line = measured(clock, 5e6)
    assert line.bytes_per_s == pytest.approx(5e6)
    assert made.packed(TEXT[:1000]) is None
    assert made.packed(TEXT[:100_000]) is not None
    fast, line = measured(clock, 400e6)
    assert line.bytes_per_s == pytest.approx(400e6)
    assert fast.packed(TEXT[:100_000]) is None
    assert Packing("", measured(clock, 5e6)[1], clock).packed(TEXT[:100_000]) is None


def test_what_cannot_be_packed_goes_as_it_is_and_is_tried_ever_more_seldom(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One part of many; what can be packed behind it is found."""
    tried: list[int] = []

    def pack(codec: str, data: bytes, _clock: Any) -> tuple[bytes, float]:
        tried.append(len(tried))
        return agent_packing.pack(codec, data), 0.0

    monkeypatch.setattr(agent_packing, "timed_pack", pack)
    made, _ = measured(clock, 5e6)
    random = os.urandom(8192)
    assert {made.packed(random) for _ in range(1000)} == {None}
    assert len(tried) == 7
    assert any(made.packed(TEXT[:8192]) for _ in range(300))
    tried.clear()
    assert all(made.packed(TEXT[:8192]) for _ in range(10))
    assert len(tried) == 10


def test_what_takes_longer_to_pack_than_the_line_saves_goes_as_it_is(clock: Clock) -> None:
    """Of a part that comes to a third on a line of 10 MB/s there are 47 ms to be saved, if a fifth is to be gained."""
    made, _ = measured(clock, 10e6)
    assert made.came_of(1_000_000, 333_000, 0.040)
    assert not made.came_of(1_000_000, 333_000, 0.055)
    assert not made.came_of(1_000_000, 900_000, 0.0)


def test_what_arrives_packed_says_nothing_of_the_line(clock: Clock) -> None:
    """It would seem to be faster than it is; what comes plain again is counted again."""
    made, line = measured(clock, 5e6)
    assert made.came_of(100, 10, 0.0)
    for have in (4 << 20, 8 << 20, 16 << 20):
        clock.now += 0.01
        made.arrived(have)
    assert line.bytes_per_s == pytest.approx(5e6)
    assert not made.came_of(100, 100, 0.0)
    made.arrived(16 << 20)
    clock.now += 1.0
    made.arrived(18 << 20)
    assert line.bytes_per_s == pytest.approx(2 << 20)


def test_one_part_at_a_time_is_a_trial(clock: Clock) -> None:
    """Those that are wanted before it is known what came of it come as they are."""
    made, _ = measured(clock, 5e6)
    assert [made.wanted() for _ in range(3)] == ["zlib", "", ""]
    made.came_of(1000, 100, 0.0)
    assert [made.wanted() for _ in range(3)] == ["zlib"] * 3


@pytest.mark.parametrize(
    "told",
    [
        {"took_us": 5, "codec": "zlib", "plain": 7},
        {"took_us": 5, "codec": "zlib", "plain": -1},
        {"took_us": 5, "codec": "zlib", "plain": 1 << 40},
        {"took_us": 5, "codec": "zlib", "plain": "6"},
        {"took_us": 5, "codec": "zlib"},
        {"took_us": 5, "codec": "lzma", "plain": 6},
    ],
)
def test_a_machine_that_lies_of_a_part_is_not_believed(clock: Clock, told: dict[str, Any]) -> None:
    """Nothing of it is taken."""
    made, _ = measured(clock, 5e6)
    with pytest.raises(Forged):
        made.opened(told, agent_packing.pack("zlib", b"plain."))
    right = {"took_us": 5, "codec": "zlib", "plain": 6}
    assert made.opened(right, agent_packing.pack("zlib", b"plain.")) == b"plain."
    assert made.opened({"took_us": 5}, b"as it is") == b"as it is"
    assert made.opened({}, b"as it is") == b"as it is"


# -- on a line


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with sshd(tmp_path_factory.mktemp("packing") / "machine") as running:
        yield running


@pytest.fixture
def between(machine: Server) -> Iterator[Proxy]:
    with proxy(machine.machine.port) as running:
        yield running


@pytest.fixture(params=[1, 4], ids=["one lane", "four lanes"])
def channels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many; while one of several tries whether it pays, the others carry what they have as it is."""
    monkeypatch.setattr(lanes, "count_for", lambda round_trip_s, window_bytes: request.param)
    return int(request.param)


def slow(session: Session) -> None:
    """As if it had been measured."""
    assert session._link is not None
    session._link.upward.bytes_per_s = session._link.downward.bytes_per_s = 2e6


@pytest.fixture(autouse=True)
def as_it_was_said(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Where a test says how fast the line is, nothing measures it."""
    if "machine" in request.fixturenames or "runs" in request.fixturenames:
        monkeypatch.setattr(packing, "_MEASURED_BYTES", 1 << 60)


def blob(server: Server, digest: str) -> bytes:
    return (server.home.parent / "cache" / "blobs" / digest).read_bytes()


@pytest.mark.sshd
@pytest.mark.parametrize("times", [0, 3], ids=["frames", "lanes"])
def test_what_can_be_packed_takes_less_of_a_slow_line(
    machine: Server, between: Proxy, channels: int, times: int
) -> None:
    """What is there has the digest of the plain content."""
    content = (TEXT * times or TEXT[: 1 << 20]) + os.urandom(16)
    with Session(machine.through(between.port), machine.keys) as session:
        slow(session)
        before = between.carried_up
        assert blob(machine, session.put(content)) == content
    alone = channels == 1 or not times
    assert between.carried_up - before < len(content) * (0.2 if alone else 0.9)


@pytest.mark.sshd
@pytest.mark.usefixtures("channels")
def test_an_upload_that_is_packed_goes_on_where_its_link_broke(
    machine: Server, between: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each piece is packed by itself; one that was torn is sent again."""
    monkeypatch.setattr(Line, "__init__", lambda self: setattr(self, "bytes_per_s", 2e6))
    content = TEXT + os.urandom(16)
    with Session(machine.through(between.port), machine.keys) as session:
        session.status()
        # Less than all of it is when it is packed.
        between.cut_after_sent = 400_000
        digest = session.put(content)
    assert between.cuts >= 1
    assert blob(machine, digest) == content


@pytest.mark.sshd
def test_many_small_files_are_packed_together(
    machine: Server, between: Proxy, tmp_path: Path
) -> None:
    """A frame of them at a time."""
    files = {}
    for number in range(200):
        (tmp_path / str(number)).write_bytes(TEXT[number * 20_000 :][:20_000])
        files[agent_digest(tmp_path / str(number))] = tmp_path / str(number)
    with Session(machine.through(between.port), machine.keys) as session:
        slow(session)
        before = between.carried_up
        session.put_many(files)
        assert between.carried_up - before < 2_000_000
    assert all(blob(machine, digest) == path.read_bytes() for digest, path in files.items())


def agent_digest(path: Path) -> str:
    return digest_of(path.read_bytes())


@pytest.mark.sshd
@pytest.mark.parametrize("kind", ["text", "random", "both"])
def test_a_result_comes_packed_over_a_slow_line(
    machine: Server, between: Proxy, tmp_path: Path, channels: int, kind: str
) -> None:
    """As far as it can be; what is here is what was sealed there, byte for byte."""
    random = os.urandom(12 << 20)
    content = {"text": TEXT + TEXT, "random": random, "both": TEXT + random + TEXT}[kind]
    keys = machine.keys
    job = machine.home / f"job-{keys.run_id}"
    job.mkdir(mode=0o700, exist_ok=True)
    path = job / "result.sealed"
    writer = sealed_writer.SealedWriter(str(path), keys.hmac_key, keys.run_id, frames.RESULT_SEQ)
    writer.write(content)
    writer.commit()
    with Session(machine.through(between.port), keys) as session:
        session.status()
        slow(session)
        before = between.carried_down
        session.fetch_result(tmp_path / "result")
    assert (tmp_path / "result").read_bytes() == path.read_bytes()
    carried = between.carried_down - before
    assert carried < len(content) * (0.2 if kind == "text" and channels == 1 else 1.05)


@pytest.mark.sshd
def test_outputs_come_packed_over_a_slow_line(runs: Runs, tmp_path: Path) -> None:
    """A long file, of which the machine is told in its midst that packing pays."""

    def function(text: bytes) -> None:
        (Path(os.environ["DAYFLY_OUTPUT_DIR"]) / "log").write_bytes(text * 4)

    with (
        proxy(runs.server.machine.port) as between,
        Session(runs.server.through(between.port), runs.server.keys) as session,
    ):
        session.start(runs.task(function, TEXT))
        session.follow(lambda *_: None)
        slow(session)
        before = between.carried_down
        arriving = Homecoming(tmp_path / "outputs", tmp_path / "outputs.jsonl")
        arriving.run(session)
        assert between.carried_down - before < len(TEXT) * 3
    assert (tmp_path / "outputs" / "log").read_bytes() == TEXT * 4


@pytest.mark.sshd
def test_a_line_is_measured_by_what_arrives(
    machine: Server, between: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has said how fast it is: the first megabytes tell, and what follows is packed."""
    monkeypatch.setattr(packing, "_MEASURED_BYTES", 1 << 20)
    monkeypatch.setattr(lanes, "count_for", lambda round_trip_s, window_bytes: 1)
    # So slow that even a computer under load packs faster.
    between.bytes_per_s = 4_000_000
    content = TEXT + TEXT[::-1] + os.urandom(16)
    with Session(machine.through(between.port), machine.keys) as session:
        session.status()
        before = between.carried_up
        digest = session.put(content)
        assert session._link is not None
        assert 0 < session._link.upward.bytes_per_s < 20e6
    assert blob(machine, digest) == content
    assert between.carried_up - before < len(content) * 0.8
