"""The link: what a machine that lies can make of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from dayfly.errors import ConnectFailed, Forged
from dayfly.infra.machine import Machine
from dayfly.runtime import agent
from dayfly.runtime.ssh import bootstrap, transport
from dayfly.runtime.ssh.connection import Connection, Disconnected
from dayfly.runtime.ssh.link import AgentRefused, Link
from tests.faults.faulty_proxy import Harm, faulty_proxy
from tests.sshd import Server, sshd

pytestmark = pytest.mark.sshd

# A machine of which we say in Python what it sends after it has read the opening.
LIAR = """
import os,sys,hmac,hashlib
sys.path.insert(0,{folder!r})
from agent import files,frames
o=b""
while len(o)<64:o+=os.read(0,64-len(o))
run=o[48:].hex();key=frames.channel_keys(o[16:48],o[:16])[1];other=frames.channel_keys(o[16:48],o[:16])[0]
def frame(seq,head,key=key,run=run):return frames.seal(key,run,seq,frames.encode(head))
{body}
while os.read(0,65536):pass
"""


@pytest.fixture
def lying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Server, str], Link]:
    def make(server: Server, body: str) -> Link:
        (place := tmp_path / "liar").mkdir(exist_ok=True)
        if not (place / "agent").exists():
            (place / "agent").symlink_to(Path(agent.__file__).parent)
        code = LIAR.format(folder=str(place), body=body)
        command = f"exec /usr/bin/env python3 -c \"exec(bytes.fromhex('{code.encode().hex()}'))\""
        monkeypatch.setattr(bootstrap, "command", lambda run_id, cache_dir: command)
        keys = server.keys
        return Link(server.machine, keys.user_key, keys.run_id, keys.hmac_key)

    return make


@pytest.fixture
def server(tmp_path: Path) -> object:
    with sshd(tmp_path / "machine", path="/usr/local/bin:" + os.defpath) as running:
        yield running


WELCOME = "os.write(1,b'motd\\n\\0dayfly:R'+frame(0,{'id':0}));"


@pytest.mark.parametrize(
    "lie",
    [
        "files.write_all(1,b'x'*500)",
        "files.write_all(1,frame(0,{'id':1}))",
        "files.write_all(1,frame(2,{'id':1}))",
        "files.write_all(1,frame(1,{'id':1},key=other))",
        "files.write_all(1,frame(1,{'id':1},run='f'*32))",
        "files.write_all(1,frames.header_of(key,run,1,1<<40,bytes(32)))",
        "f=bytearray(frame(1,{'id':1}));f[-1]^=1;files.write_all(1,bytes(f))",
    ],
    ids=["rubbish", "replayed", "skipped", "reflected", "other run", "oversize", "altered"],
)
def test_a_frame_that_is_not_authentic_ends_the_link(
    server: Server, lying: Callable[[Server, str], Link], lie: str
) -> None:
    """Whoever waits gets Forged, and so does every later request."""
    link = lying(server, WELCOME + lie)
    link.open(10)
    try:
        for _ in range(2):
            with pytest.raises(Forged):
                link.ask({"op": "ping"})
        assert link.broken
    finally:
        link.close()


def test_a_first_frame_that_is_not_authentic_opens_nothing(
    server: Server, lying: Callable[[Server, str], Link]
) -> None:
    """The machine must hold the key of the run before anything is asked of it."""
    link = lying(server, "os.write(1,b'\\0dayfly:R'+frame(0,{'id':0},key=other))")
    with pytest.raises(Forged):
        link.open(10)


def test_the_end_of_the_agent_is_told_to_whoever_waits(
    server: Server, lying: Callable[[Server, str], Link]
) -> None:
    """As a broken connection, which may be tried again."""
    link = lying(server, WELCOME + "sys.exit()")
    link.open(10)
    with pytest.raises(Disconnected):
        link.ask({"op": "ping"})
    link.close()


def test_a_login_that_writes_without_end_is_given_up(
    server: Server, lying: Callable[[Server, str], Link]
) -> None:
    """A start file may say something; it may not say everything."""
    link = lying(server, "files.write_all(1,b'x'*100000)")
    with pytest.raises(ConnectFailed, match="login shell"):
        link.open(10)


def test_an_agent_that_cannot_start_says_why(server: Server) -> None:
    """Here its folder may be written by others, who could put another agent there."""
    folder = Path(server.machine.cache_dir) / "agents"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    link = Link(server.machine, server.keys.user_key, server.keys.run_id, server.keys.hmac_key)
    with pytest.raises(ConnectFailed, match="can be written by somebody else"):
        link.open(10)


def test_an_agent_of_other_content_is_replaced(server: Server) -> None:
    """What is under the hash must have the hash."""
    folder = Path(server.machine.cache_dir) / "agents" / bootstrap.agent_digest()
    folder.mkdir(parents=True)
    folder.parent.chmod(0o700)
    (folder / "__init__.py").write_text("raise SystemExit")
    link = Link(server.machine, server.keys.user_key, server.keys.run_id, server.keys.hmac_key)
    link.open(10)
    try:
        assert link.ask({"op": "ping"})["done"]
        assert bootstrap.text_of(folder) == bootstrap.agent_text()
        with pytest.raises(AgentRefused, match="no answer to 'dance'"):
            link.ask({"op": "dance"})
    finally:
        link.close()


def test_receiving_with_a_bound_does_not_bound_sending(server: Server) -> None:
    """The channel's own time-out is for both."""
    command = bootstrap.command(server.keys.run_id, server.machine.cache_dir)
    connection = Connection(server.machine, server.keys.user_key)
    connection.open(command, 10)
    try:
        assert connection.receive(100, 0.01) == b""
        channel = connection._channel
        assert channel is not None
        assert (channel.gettimeout() or 0.0) > 600
    finally:
        connection.close()
    with pytest.raises(Disconnected):
        connection.receive(100, 10)


def test_what_is_handed_on_makes_room_for_more(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several times what may be on its way at once; the end comes behind all of it."""
    monkeypatch.setattr(transport, "_WINDOW_BYTES", 1 << 20)
    connection, came = Connection(server.machine, server.keys.user_key), list[bytes]()
    connection.open("head -c 5000000 /dev/zero", 10)
    try:
        connection.hand_to(came.append)
        with pytest.raises(Disconnected, match="closed"):
            while True:
                assert connection.receive(100, 10) == b""
    finally:
        connection.close()
    assert sum(map(len, came)) == 5_000_000


def test_a_request_that_was_sent_in_part_breaks_the_link(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it was the user who broke it off."""
    link = Link(server.machine, server.keys.user_key, server.keys.run_id, server.keys.hmac_key)
    link.open(10)

    def send(self: Connection, data: bytes) -> None:
        raise KeyboardInterrupt

    try:
        with monkeypatch.context() as broken_off:
            broken_off.setattr(Connection, "send", send)
            with pytest.raises(KeyboardInterrupt):
                link.ask({"op": "ping"})
        assert link.broken
        with pytest.raises(Disconnected, match="in part"):
            link.ask({"op": "ping"})
    finally:
        link.close()


def test_a_machine_that_is_not_there_is_disconnected(tmp_path: Path) -> None:
    """Another try may find it."""
    nowhere = Machine("m", "127.0.0.1", 1, "nobody", "ssh-ed25519 AAAA", "local", "here", "test")
    with pytest.raises(Disconnected):
        Link(nowhere, tmp_path / "key", "0" * 32, bytes(32)).open(1)


def test_a_changed_byte_at_any_place_of_the_opening_is_a_dropped_connection(
    server: Server,
) -> None:
    """Whatever paramiko's cipher or parser makes of it: the next try goes over another connection."""
    plan = [Harm("flipped byte", True, offset, bit=offset % 8) for offset in range(40, 2600, 64)]
    ended: list[str] = []
    with faulty_proxy(server.machine.port, plan) as between:
        machine = server.through(between.port)
        for _ in plan:
            connection = Connection(machine, server.keys.user_key)
            try:
                with connection.closed_after(1.0):
                    connection.open("true", 1.0)
                connection.receive(1, 1.0)
            except Disconnected as dropped:
                ended.append(str(dropped))
            finally:
                connection.close()
    assert len(between.done) > len(plan) // 2
    assert len(ended) >= len(between.done)


def test_a_connection_that_falls_silent_at_any_place_of_the_opening_is_given_up_in_time(
    server: Server,
) -> None:
    """Also while the agent is sent to a server that has not said yet how much of it it takes."""
    keys = server.keys
    plan = [Harm("blackhole", True, offset) for offset in range(1960, 2440, 24)]

    def opened() -> bool:
        link = Link(server.through(between.port), keys.user_key, keys.run_id, keys.hmac_key)
        try:
            link.open(1.0)
        except Disconnected:
            return False
        finally:
            link.close()
        return True

    with (
        faulty_proxy(server.machine.port, plan) as between,
        ThreadPoolExecutor(8) as together,
    ):
        tries = [together.submit(opened) for _ in plan]
        ended, waiting = wait(tries, timeout=20)
        # What waits for ever would keep this block from its end.
        between.close()
    assert not waiting
    assert len(between.done) > len(plan) // 2
    assert sum(not each.result() for each in ended) >= len(between.done)
