"""Large content on its way: over several channels, over what a server grants, over links that break in the midst."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from paramiko.packet import Packetizer

from dayfly.errors import DataFailed, Forged, RunFailed
from dayfly.runtime.agent import blobs as agent_blobs
from dayfly.runtime.agent import frames, sealed_writer
from dayfly.runtime.content import Content
from dayfly.runtime.session import Session
from dayfly.runtime.ssh import lanes, packets, transport
from dayfly.runtime.ssh.connection import Connection, Disconnected
from dayfly.runtime.ssh.lanes import Lane, count_for
from dayfly.runtime.ssh.link import Link
from tests.proxy import Proxy, proxy
from tests.sshd import Server, sshd

pytestmark = pytest.mark.sshd

CONTENT = os.urandom(6 << 20)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with sshd(tmp_path_factory.mktemp("transfer") / "machine") as running:
        yield running


@pytest.fixture
def between(server: Server) -> Iterator[Proxy]:
    with proxy(server.machine.port) as running:
        yield running


@pytest.fixture(autouse=True)
def four_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there would be on a line of some length."""
    monkeypatch.setattr(lanes, "count_for", lambda round_trip_s, window_bytes: 4)


def blobs(server: Server) -> dict[str, bytes]:
    """What the machine keeps, and what it has not kept of what it got."""
    folder = server.home.parent / "cache" / "blobs"
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def clear(server: Server) -> None:
    for path in (server.home.parent / "cache" / "blobs").glob("*"):
        path.unlink()


def leave_result(server: Server, value: bytes) -> Path:
    """What a job would leave."""
    keys = server.keys
    job = server.home / f"job-{keys.run_id}"
    job.mkdir(mode=0o700, exist_ok=True)
    path = job / "result.sealed"
    writer = sealed_writer.SealedWriter(str(path), keys.hmac_key, keys.run_id, frames.RESULT_SEQ)
    writer.write(value)
    writer.commit()
    return path


def round_trip(session: Session, server: Server, folder: Path) -> None:
    """Content goes there, a result of the same size comes here, both whole."""
    digest = session.put(CONTENT)
    assert blobs(server) == {digest: CONTENT}
    sealed = leave_result(server, CONTENT)
    session.fetch_result(folder / "result")
    assert (folder / "result").read_bytes() == sealed.read_bytes()


@pytest.mark.parametrize(
    ("settings", "forwarded", "count"),
    [
        ("", True, 4),
        ("MaxSessions 1", True, 4),
        ("AllowTcpForwarding no", False, 4),
        ("AllowStreamLocalForwarding no\nMaxSessions 3", False, 2),
        ("DisableForwarding yes\nMaxSessions 10", False, 4),
        ("DisableForwarding yes\nMaxSessions 1", False, 0),
    ],
    ids=["default", "one session", "no forwarding", "three sessions", "disabled", "nothing"],
)
def test_content_takes_whatever_way_the_server_grants(
    tmp_path: Path, settings: str, forwarded: bool, count: int
) -> None:
    """Through its forwarding, else through commands, as many as it lets run, else through the link itself."""
    with (
        sshd(tmp_path / "machine", settings=settings, is_new=False) as server,
        Session(server.machine, server.keys) as session,
    ):
        round_trip(session, server, tmp_path)
        assert session._link is not None
        used = session._link.lanes
        assert (used._forwarded, len(used._lanes)) == (forwarded, count)


def test_eight_commands_at_most_are_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten sessions are what a server grants by default: one is the link, and one is left."""
    monkeypatch.setattr(lanes, "count_for", lambda round_trip_s, window_bytes: 16)
    with (
        sshd(tmp_path / "machine", settings="DisableForwarding yes") as server,
        Session(server.machine, server.keys) as session,
    ):
        round_trip(session, server, tmp_path)
        assert session._link is not None
        assert len(session._link.lanes._lanes) == 8
        assert session._link._connection.commands("true", 1, 10)


def test_lanes_are_opened_once_and_their_socket_is_gone(server: Server, tmp_path: Path) -> None:
    """The next transfer finds them; nobody finds the socket once as many as expected have come."""
    with Session(server.machine, server.keys) as session:
        clear(server)
        round_trip(session, server, tmp_path)
        assert session._link is not None
        first = list(session._link.lanes._lanes)
        clear(server)
        round_trip(session, server, tmp_path)
        assert session._link.lanes._lanes == first


def test_a_long_line_gets_more_channels_than_a_short_one() -> None:
    """As many as keep it full, and no more than a server bears."""
    counts = [count_for(round_trip_s, 2 << 20) for round_trip_s in (0.0, 0.001, 0.02, 0.06, 9.0)]
    assert counts == [1, 1, 5, 15, 16]
    assert count_for(0.06, 16 << 20) == 2


def test_a_cut_in_the_midst_of_an_upload_costs_what_was_on_its_way(
    server: Server, between: Proxy
) -> None:
    """Each connection carries less than the content, so that only going on ends it."""
    clear(server)
    with Session(server.through(between.port), server.keys) as session:
        between.cut_after_sent = 4_500_000
        digest = session.put(CONTENT)
    assert between.cuts >= 1
    assert blobs(server) == {digest: CONTENT}


def test_a_cut_in_the_midst_of_a_download_costs_what_was_on_its_way(
    server: Server, between: Proxy, tmp_path: Path
) -> None:
    """The other way round."""
    sealed = leave_result(server, CONTENT)
    with Session(server.through(between.port), server.keys) as session:
        between.cut_after = 4_500_000
        session.fetch_result(tmp_path / "result")
    assert between.cuts >= 1
    assert (tmp_path / "result").read_bytes() == sealed.read_bytes()


def test_contents_that_are_much_alike_are_not_mixed(server: Server) -> None:
    """Both on their way at once, of one size, and the same wherever a look at a few places of them falls."""
    clear(server)
    other = bytearray(CONTENT)
    other[1 << 20] ^= 1
    both = [CONTENT, bytes(other)]
    with Session(server.machine, server.keys) as session, ThreadPoolExecutor(2) as pool:
        digests = list(pool.map(session.put, both))
    assert blobs(server) == dict(zip(digests, both, strict=True))


def flip(monkeypatch: pytest.MonkeyPatch, method: str, times: int) -> None:
    """Change one byte of what a lane carries."""
    carry, left = getattr(Lane, method), iter(range(times))

    def flipped(data: bytes | memoryview) -> bytes:
        changed = bytearray(data)
        if next(left, None) is not None:
            changed[len(changed) // 2] ^= 1
        return bytes(changed)

    def put(self: Lane, of: int, offset: int, data: bytes | memoryview) -> None:
        carry(self, of, offset, flipped(data))

    def receive(self: Lane, size: int) -> list[memoryview]:
        return [memoryview(flipped(b"".join(carry(self, size))))]

    monkeypatch.setattr(Lane, method, {"put": put, "receive": receive}[method])


def test_a_byte_that_was_changed_on_the_way_up_is_never_kept(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left under the content's name, nor of the content."""
    clear(server)
    flip(monkeypatch, "put", 1)
    with Session(server.machine, server.keys) as session:
        with pytest.raises(RunFailed, match="what arrived is not what was sent"):
            session.put(CONTENT)
        assert blobs(server) == {}
        digest = session.put(CONTENT)
    assert blobs(server) == {digest: CONTENT}


def test_a_byte_that_was_changed_on_the_way_down_is_forged(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing takes the place of the result."""
    leave_result(server, CONTENT)
    flip(monkeypatch, "receive", 1)
    with Session(server.machine, server.keys) as session:
        with pytest.raises(Forged, match="SHA-256"):
            session.fetch_result(tmp_path / "result")
        assert not list(tmp_path.glob("result*"))


@pytest.mark.parametrize("lie", ["rubbish", "another lane's", "replayed", "altered", "too large"])
def test_an_order_that_is_not_authentic_ends_its_lane(server: Server, lie: str) -> None:
    """It is not carried out: the result that it asks for does not come."""
    leave_result(server, CONTENT)
    keys = server.keys
    order = {"what": "result", "offset": 0, "bytes": 100}
    link = Link(server.machine, keys.user_key, keys.run_id, keys.hmac_key)
    link.open(20)
    try:
        place = link.ask({"op": "lanes", "most": 2})
        (stream,) = link._connection.streams(place["path"], 1, 10)
        key = link.lanes._key(1 if lie == "another lane's" else 5)
        stream.send((5).to_bytes(4, "big"))
        sealed = bytearray(frames.seal(key, keys.run_id, 0, frames.encode(order)))
        if lie == "rubbish":
            sealed = bytearray(os.urandom(len(sealed)))
        elif lie == "altered":
            sealed[-1] ^= 1
        elif lie == "too large":
            sealed = bytearray(frames.header_of(key, keys.run_id, 0, 1 << 30, bytes(32)))
        elif lie == "replayed":
            stream.send(bytes(sealed))
            assert len(stream.receive(100)) == 100
        stream.send(bytes(sealed))
        with pytest.raises(Disconnected):
            stream.receive(100)
        assert link.ask({"op": "ping"})["done"]
    finally:
        link.close()


def test_whoever_breaks_off_a_transfer_can_start_another(server: Server) -> None:
    """The channels that were out of step are replaced, on the same connection."""
    clear(server)
    told: list[None] = []

    class Impatient(Session):
        def _progress(self) -> None:
            super()._progress()
            told.append(None)
            if len(told) == 3:
                raise KeyboardInterrupt

    with Impatient(server.machine, server.keys) as session:
        with pytest.raises(KeyboardInterrupt):
            session.put(CONTENT)
        digest = session.put(CONTENT)
        assert blobs(server)[digest] == CONTENT


def test_a_machine_that_cannot_write_says_so(server: Server) -> None:
    """It is no broken link, so it is not tried again."""
    clear(server)
    with Content(CONTENT) as content:
        name = content.likeness()
    part = server.home.parent / "cache" / "blobs" / f"{name}.{server.keys.run_id}.part"
    part.mkdir(parents=True)
    try:
        with (
            Session(server.machine, server.keys) as session,
            pytest.raises(RunFailed, match="IsADirectoryError"),
        ):
            session.put(CONTENT)
    finally:
        part.rmdir()


def test_a_file_that_becomes_shorter_is_named(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is sent: the user's to mend, and no broken link either."""
    clear(server)
    path = tmp_path / "data.bin"
    path.write_bytes(CONTENT)
    put = Lane.put

    def shortened(self: Lane, of: int, offset: int, data: bytes | memoryview) -> None:
        os.truncate(path, 100)
        put(self, of, offset, data)

    monkeypatch.setattr(Lane, "put", shortened)
    with (
        Session(server.machine, server.keys) as session,
        pytest.raises(RunFailed, match=r"data\.bin has become shorter"),
    ):
        session.put(path)


# -- new keys


@pytest.mark.parametrize("own", [True, False], ids=["ours", "paramiko's own"])
def test_new_keys_in_the_midst_of_everything_break_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    """Channels begin and end all the while, which stops a stock paramiko for good within a few key exchanges."""
    monkeypatch.setattr(transport, "_REKEY_BYTES", 600_000)
    if not own:
        monkeypatch.setattr(packets, "packetizer_class", lambda: Packetizer)
    exchanges: list[None] = []
    parse = transport.Transport._parse_newkeys

    def counted(self: Any, message: Any) -> None:
        exchanges.append(None)
        parse(self, message)

    monkeypatch.setattr(transport.Transport, "_parse_newkeys", counted)
    connection = Connection(server.machine, server.keys.user_key)
    connection.open("cat > /dev/null", 20)
    assert connection._transport is not None
    connection._transport.packetizer.REKEY_PACKETS = 1 << 40
    failures: list[BaseException] = []

    def come_and_go(number: int) -> None:
        try:
            for size in (300_000, 3_000, 900_000, 100_000):
                exchange(connection, os.urandom(size))
        except BaseException as error:  # noqa: BLE001 - looked at below
            failures.append(error)

    threads = [threading.Thread(target=come_and_go, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    connection.close()
    assert not failures
    assert len(exchanges) > 5


def exchange(connection: Connection, data: bytes) -> None:
    """A command takes in the data, says what it was, and more than a packet beside it."""
    while not (streams := connection.commands("sha256sum; head -c 300000 /dev/zero", 1, 20)):
        pass  # The former ones have not quite ended.
    streams[0].send(data)
    streams[0]._channel.shutdown_write()
    got = b""
    with pytest.raises(Disconnected, match="a stream was closed"):
        while True:
            got += streams[0].receive(1 << 20)
    assert got[:64].decode() == hashlib.sha256(data).hexdigest()
    assert len(got) > 300_000


def test_striped_content_survives_new_keys(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways, on four channels, with new keys for each half a megabyte."""
    clear(server)
    monkeypatch.setattr(transport, "_REKEY_BYTES", 500_000)
    with Session(server.machine, server.keys) as session:
        round_trip(session, server, tmp_path)


# -- many small files


def write_tree(folder: Path) -> dict[str, Path]:
    """Three hundred small files and two large ones, by their digests."""
    made = {}
    for number in range(302):
        size = 700_000 if number > 299 else number * 20
        path = folder / str(number)
        path.write_bytes(os.urandom(size))
        made[hashlib.sha256(path.read_bytes()).hexdigest()] = path
    return made


def test_many_files_travel_together_and_only_those_that_are_not_there(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a few frames the first time; in as few as it takes for what has changed the second."""
    clear(server)
    sent: list[dict[str, Any]] = []
    post = Link.post

    def watched(self: Link, head: dict[str, Any], body: bytes = b"") -> None:
        sent.append(head)
        post(self, head, body)

    monkeypatch.setattr(Link, "post", watched)
    files = write_tree(tmp_path)
    with Session(server.machine, server.keys) as session:
        session.put_many(files)
        assert blobs(server) == {digest: path.read_bytes() for digest, path in files.items()}
        assert len([head for head in sent if head["op"] == "data_pack"]) <= 4
        sent.clear()
        changed = tmp_path / "7"
        del files[hashlib.sha256(changed.read_bytes()).hexdigest()]
        changed.write_bytes(b"another")
        files[hashlib.sha256(b"another").hexdigest()] = changed
        session.put_many(files)
        assert [len(head["blobs"]) for head in sent if head["op"] == "data_pack"] == [1]
        session.put_many({})


@pytest.mark.parametrize("size", [30, 300_000, len(CONTENT)], ids=["small", "frames", "lanes"])
@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
def test_whatever_way_content_came_what_was_changed_in_place_is_not_taken_for_it(
    server: Server, tmp_path: Path, size: int, many: bool
) -> None:
    """One store with one notion of what is whole, for each way into it."""
    clear(server)
    path = tmp_path / "data.bin"
    path.write_bytes(CONTENT[:size])
    digest = hashlib.sha256(CONTENT[:size]).hexdigest()
    blob = server.home.parent / "cache" / "blobs" / digest
    with Session(server.machine, server.keys) as session:
        for _ in range(2):
            if many:
                session.put_many({digest: path})
            else:
                assert session.put(path) == digest
            assert blobs(server) == {digest: CONTENT[:size]}
            found = blob.stat()
            assert (found.st_mode & 0o777, int(found.st_mtime)) == (
                agent_blobs.BLOB_MODE,
                agent_blobs.BLOB_TIME,
            )
            blob.chmod(0o600)
            blob.write_bytes(b"x" * size)


def test_what_is_there_of_a_content_is_known_by_its_note(server: Server) -> None:
    """Not by the size of a file that is written at several places; of an empty content nothing is not all."""
    clear(server)
    wanted, empty = "ab" * 32, hashlib.sha256(b"").hexdigest()
    part = server.home.parent / "cache" / "blobs" / f"{wanted}.{server.keys.run_id}.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(bytes(5000))
    note = struct.pack(">5Q", 2, 0, 1000, 4000, 5000)
    part.with_name(part.name + ".have").write_bytes(note)
    asked = [[wanted, 9000], [wanted, 1500], ["cd" * 32, 10], [empty, 0]]
    with Session(server.machine, server.keys) as session:

        def have() -> Any:
            assert session._link is not None
            return session._link.ask({"op": "data_have"}, json.dumps(asked).encode())["have"]

        assert have() == [2000, 1499, 0, -1]
        session.put(b"")
        assert have() == [2000, 1499, 0, 0]


@pytest.mark.parametrize("large", [False, True])
def test_a_file_that_has_changed_meanwhile_is_not_kept_under_its_former_digest(
    server: Server, tmp_path: Path, large: bool
) -> None:
    """The machine looks for itself."""
    path = tmp_path / "data.bin"
    path.write_bytes(os.urandom(300_000 if large else 30))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(os.urandom(path.stat().st_size))
    with Session(server.machine, server.keys) as session:
        with pytest.raises(DataFailed, match=r"data\.bin was changed while it was sent"):
            session.put_many({digest: path})
        path.unlink()
        with pytest.raises(DataFailed, match=r"data\.bin cannot be read any more"):
            session.put_many({digest: path})
    assert digest not in blobs(server)
