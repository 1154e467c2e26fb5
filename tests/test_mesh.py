"""Ports that lead from every machine to the one that they belong to, through real SSH servers whose loopbacks are apart."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dayfly.errors import ConnectFailed, RunFailed
from dayfly.runtime import ranks
from dayfly.runtime.agent import loopback
from dayfly.runtime.gate import Gate
from dayfly.runtime.mesh import Mesh
from dayfly.runtime.session import Session
from dayfly.runtime.ssh import link
from dayfly.runtime.ssh.connection import Disconnected
from dayfly.runtime.ssh.passage import Passage
from tests import listening, namespaces
from tests.machines import machines, machines_apart
from tests.proxy import Proxy
from tests.sshd import Server
from tests.test_tunnel import everything

pytestmark = pytest.mark.sshd


@contextlib.contextmanager
def sessions(servers: list[Server]) -> Iterator[list[Session]]:
    """With each of them."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Session(each.machine, each.keys)) for each in servers]


@pytest.fixture
def apart(tmp_path: Path, own_networks: None) -> Iterator[tuple[list[Server], list[Proxy]]]:
    """Two machines, each with a loopback of its own, and the ways to them."""
    with machines_apart(tmp_path, 2) as made:
        yield made


@contextlib.contextmanager
def service(server: Server, port: int) -> Iterator[queue.SimpleQueue[bytes]]:
    """On a machine's loopback: gives everything back in reverse once the other half has ended; what comes first is told."""
    listener = namespaces.within(server.pid, lambda: socket.create_server(("127.0.0.1", port)))
    firsts: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            first = connection.recv(1 << 16)
            firsts.put(first)
            connection.sendall((first + everything(connection))[::-1])

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield firsts
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join(10)


def ask(server: Server, port: int, words: bytes) -> bytes:
    """Send from a machine's loopback, end this half, and take the answer."""
    with namespaces.connected_within(server.pid, port) as connection:
        connection.settimeout(60)
        connection.sendall(words)
        connection.shutdown(socket.SHUT_WR)
        return everything(connection)


def test_a_port_leads_to_its_machine_from_every_other(
    apart: tuple[list[Server], list[Proxy]],
) -> None:
    """Both ways, whole, and each half ends by itself; and nobody listens but on loopback."""
    servers, _ = apart
    words = os.urandom(2_000_000)
    with sessions(servers) as made:
        mesh = Mesh(made)
        assert mesh.apart
        (first,), (second, third) = mesh.open([1, 2])
        assert len({first, second, third}) == 3
        with service(servers[0], first), service(servers[1], second):
            assert ask(servers[1], first, words) == words[::-1]
            assert ask(servers[0], second, words[:1000]) == words[:1000][::-1]
        for server, each in zip(servers, made, strict=True):
            assert each.ports([first, second, third])[1] == []
            assert {address for address, _ in listening.of_network(server.pid)} == {"127.0.0.1"}
        # Nobody is there any more: whoever connects hears of it at once.
        assert ask(servers[0], third, b"") == b""


@pytest.mark.parametrize("how", [Proxy.cut, Proxy.lose])
def test_a_connection_that_is_made_anew_has_its_ports(
    apart: tuple[list[Server], list[Proxy]],
    monkeypatch: pytest.MonkeyPatch,
    how: object,
) -> None:
    """Also where the SSH server has not heard that the one before it is gone, which it then ends; what was open is closed."""
    monkeypatch.setattr(link, "PING_EVERY_S", 0.2)
    servers, ways = apart
    assert callable(how)
    with sessions(servers) as made:
        (first,), (second,) = Mesh(made).open([1, 1])
        with service(servers[0], first) as firsts, service(servers[1], second):
            for broken in (1, 0):
                with namespaces.connected_within(servers[1].pid, first) as waiting:
                    waiting.settimeout(60)
                    waiting.sendall(b"half")
                    # Until then nothing is open through the second link: the next one would have it.
                    while firsts.get(timeout=60) != b"half":
                        pass
                    before = ways[broken].connections
                    how(ways[broken])
                    while ways[broken].connections == before:
                        made[broken].own_status()
                    made[broken].own_status()
                    with contextlib.suppress(ConnectionResetError):
                        assert waiting.recv(100) == b""
                assert ask(servers[1], first, b"hello") == b"olleh"
                assert ask(servers[0], second, b"hello") == b"olleh"


def test_who_connects_while_the_way_is_broken_has_the_next_one(
    apart: tuple[list[Server], list[Proxy]],
) -> None:
    """Nothing was open through the one before it, and what is sent meanwhile arrives."""
    servers, ways = apart
    with sessions(servers) as made:
        (first,), _ = Mesh(made).open([1, 1])
        with service(servers[0], first):
            ways[0].cut()
            assert ask(servers[1], first, b"hello") == b"olleh"


def test_a_port_that_somebody_has_taken_meanwhile_is_told(
    apart: tuple[list[Server], list[Proxy]],
) -> None:
    """It cannot be another one any more."""
    servers, ways = apart
    told: list[Exception] = []
    heard = threading.Event()
    with sessions(servers) as made:
        mesh = Mesh(made)
        (first,), _ = mesh.open([1, 1])

        def tell(error: Exception) -> None:
            told.append(error)
            heard.set()

        mesh.on_failure(tell)
        way, target = ways[1], ways[1].target
        way.target = 1
        way.cut()
        while True:
            # As soon as the server has let go of it.
            with contextlib.suppress(OSError):
                taker = namespaces.within(
                    servers[1].pid, lambda: socket.create_server(("127.0.0.1", first))
                )
                break
        with taker:
            way.target = target
            made[1].own_status()
            assert heard.wait(60)
        (error,) = told
        assert isinstance(error, ConnectFailed)
        assert f"port {first}" in str(error)
        late: list[Exception] = []
        mesh.on_failure(late.append)
        assert late == told


def test_where_no_thread_can_be_had_only_that_connection_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The thread that takes it in reads the whole SSH connection, and goes on."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    closed: list[str] = []
    ended: list[Passage] = []
    near: Any = SimpleNamespace(close=lambda: closed.append("near"))
    passage = Passage(near, lambda: pytest.fail("nobody is reached"), ended.append)
    monkeypatch.setattr(threading.Thread, "start", start)
    passage.start()
    assert closed == ["near"]
    assert ended == [passage]


class Line:
    """As much of a link as a gate asks of one, whose server has no port 5; and what it was asked for."""

    def __init__(self, *, breaks: bool = False) -> None:
        self._breaks = breaks
        self.asked: list[int] = []

    def ask(self, _: dict[str, Any]) -> dict[str, Any]:
        """Which connection it is."""
        return {"connection": [7, 1], "taken": []}

    def listen(self, ports: Sequence[int], *_: object) -> list[int]:
        """As the link."""
        if self._breaks:
            raise Disconnected("cut")
        self.asked += ports
        return [port for port in ports if port == 5]


def test_a_port_that_is_refused_while_it_is_asked_for_is_nobody_s_loss() -> None:
    """Also where the link is made anew meanwhile: another one is chosen for it, and it is asked for no more."""
    session = SimpleNamespace(machine=SimpleNamespace(id="m"), renewed=None)
    later = Line()

    def transfer(act: Callable[[Line, Callable[[], None]], None]) -> None:
        with pytest.raises(Disconnected):
            act(Line(breaks=True), lambda: None)
        again = Line()
        session.renewed(again)
        act(again, lambda: None)

    session.transfer = transfer
    lost: list[Exception] = []
    gate = Gate(session, lambda *_: None, lost.append)  # type: ignore[arg-type]
    assert gate.open([4, 5]) == [5]
    session.renewed(later)
    assert later.asked == [4]
    assert lost == []


def test_machines_that_share_a_loopback_need_no_way(tmp_path: Path) -> None:
    """Their ports are their own all the same, and nobody listens on any of them yet."""
    with machines(tmp_path, 2) as servers, sessions(servers) as made:
        mesh = Mesh(made)
        assert not mesh.apart
        dashboard = mesh.free(1)
        ports = [*dashboard, *(port for own in mesh.open([3, 2]) for port in own)]
        assert len(set(ports)) == 6
        assert set(ports) <= set(ranks.PORTS)
        assert made[0].ports(ports) == ([], [])
        assert loopback.name() == made[0].facts.loopback
        for each in made:
            # Where the system has no word for it.
            vars(each)["facts"] = dataclasses.replace(each.facts, loopback="")
        assert not Mesh(made).apart


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("AllowTcpForwarding no", "forbids forwarding: set AllowTcpForwarding yes"),
        ("AllowTcpForwarding remote", "forbids forwarding: set AllowTcpForwarding yes"),
        ("AllowTcpForwarding local", "set AllowTcpForwarding yes in its sshd_config"),
        ("PermitListen none", "without PermitListen"),
        pytest.param(
            "GatewayPorts yes",
            "GatewayPorts no",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="told by Linux alone"),
        ),
    ],
)
def test_a_server_that_forbids_it_or_lets_others_in_is_refused_before_anything_begins(
    tmp_path: Path, setting: str, words: str
) -> None:
    """With its name, and what to set there."""
    with machines(tmp_path, 2, settings=setting) as servers, sessions(servers) as made:
        for node, each in enumerate(made):
            # What is asked of a server is the same where its machine has a loopback of its own.
            vars(each)["facts"] = dataclasses.replace(each.facts, loopback=str(node))
        with pytest.raises(ConnectFailed, match=words) as caught:
            Mesh(made).open([1, 1])
        assert any(f":{server.machine.port}" in str(caught.value) for server in servers)


def test_too_many_ports_are_refused(tmp_path: Path) -> None:
    """With what needs fewer."""
    with (
        machines(tmp_path, 1) as servers,
        sessions(servers) as made,
        pytest.raises(RunFailed, match="fewer slots="),
    ):
        Mesh(made).free(len(ranks.PORTS) + 1)


def test_the_agent_knows_who_listens_and_for_whom() -> None:
    """A port is taken by whoever listens on it, and open where that is not on loopback."""
    with (
        socket.create_server(("127.0.0.1", 0)) as own,
        socket.create_server(("0.0.0.0", 0)) as everybody,
    ):
        ports = [each.getsockname()[1] for each in (own, everybody)]
        assert loopback.taken(ports) == ports
        if sys.platform == "linux":
            assert loopback.open_to_others(ports) == ports[1:]
    assert loopback.taken(ports) == []
    assert loopback.await_free(ports) == []


@pytest.mark.parametrize(
    ("address", "own"),
    [
        (b"\x7f\0\0\1", True),
        (b"\x7f\x4d\0\5", True),
        (b"\0\0\0\0", False),
        (b"\x0a\0\0\1", False),
        (bytes(15) + b"\1", True),
        (bytes(16), False),
        (bytes(10) + b"\xff\xff\x7f\0\0\1", True),
        (bytes(10) + b"\xff\xff\x0a\0\0\1", False),
    ],
)
def test_the_kernel_s_spelling_of_an_address_is_read(address: bytes, own: bool) -> None:
    """Four bytes at a time, each a number of this machine's own."""
    words = (address[place : place + 4] for place in range(0, len(address), 4))
    spelled = "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)
    assert loopback._is_loopback(spelled) is own


def test_a_connection_that_is_no_ssh_server_s_is_left_alone() -> None:
    """A process id is used again."""
    loopback.end_former([os.getpid(), 1])
    loopback.end_former([])
