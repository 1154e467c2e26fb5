"""A tunnel through a real SSH server: bytes, ends and breaks of many connections arrive as they were sent."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from dayfly.errors import ConfigurationError, SpecError
from dayfly.runtime.session import Session
from dayfly.runtime.ssh.connection import Disconnected
from dayfly.runtime.ssh.tunnel import Tunnel
from tests.proxy import proxy
from tests.sshd import Server
from tests.test_session import server

__all__ = ["server"]
pytestmark = pytest.mark.sshd


@contextlib.contextmanager
def service(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server on loopback, as a function could start it, which answers each connection in a thread of its own."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    threads: list[threading.Thread] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                thread = threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True)
                thread.start()
                threads.append(thread)

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in (accepting, *threads):
            thread.join(10)


def everything(connection: socket.socket) -> bytes:
    """All bytes until the other end has said that there are no more."""
    return b"".join(iter(lambda: connection.recv(1 << 20), b""))


def echo_after_the_end(connection: socket.socket) -> None:
    """Gives everything back once the other side has ended its half, so that nothing comes unless halves end apart."""
    with connection:
        connection.sendall(everything(connection)[::-1])


def ask(port: int, words: bytes) -> bytes:
    """Send, end this half, and take the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(words)
        # One that was reset by now says so where it is read.
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        return everything(connection)


def connected(server: Server, port: int = 0) -> Session:
    return Session(replace(server.machine, port=port or server.machine.port), server.keys)


def test_many_connections_at_once_come_back_whole_and_each_half_ends_by_itself(
    server: Server,
) -> None:
    """More than a server allows of sessions, one of them larger than every window on its way."""
    with service(echo_after_the_end) as port, connected(server) as session:
        with session.forward(port) as tunnel, ThreadPoolExecutor(24) as pool:
            assert tunnel.address == f"127.0.0.1:{tunnel.port}"
            sent = [os.urandom(5_000_000), *(os.urandom(1000 + n) for n in range(23))]
            assert list(pool.map(lambda words: ask(tunnel.port, words), sent)) == [
                words[::-1] for words in sent
            ]
            assert session.status().state == "absent", "the agent's own channel goes on beside it"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", tunnel.port))


def test_a_connection_that_breaks_is_reset_and_the_next_one_goes_through_again(
    server: Server,
) -> None:
    """A part is never taken for the whole."""

    def half(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"half of it")
            connection.recv(1)

    with (
        service(half) as port,
        proxy(server.machine.port) as between,
        connected(server, port=between.port) as session,
        session.forward(port) as tunnel,
    ):
        for _ in range(2):
            with socket.create_connection(tunnel.address.split(":"), timeout=60) as connection:  # type: ignore[arg-type]
                assert connection.recv(100) == b"half of it"
                between.cut()
                with pytest.raises(ConnectionResetError):
                    connection.recv(100)
        assert between.connections == 2


def test_whoever_connects_does_not_wait_in_line_for_ever_while_the_way_is_made_anew(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would make a try of its own otherwise, and whoever follows the job would wait behind all of them."""
    monkeypatch.setattr("dayfly.runtime.session._RECONNECT_S", 0.1)
    with (
        connected(server) as session,
        session._linking,
        pytest.raises(Disconnected, match="being made anew"),
    ):
        session.channel_to(1)


def test_where_nobody_listens_the_connection_is_reset_and_the_reason_told_once(
    server: Server,
) -> None:
    """As a notebook that has not started yet: the next try may find it."""
    notes: list[str] = []
    with service(echo_after_the_end) as port:
        pass
    with connected(server) as session, session.forward(port, note=notes.append) as tunnel:
        for _ in range(2):
            with pytest.raises(ConnectionResetError):
                ask(tunnel.port, b"hello")
    assert len(notes) == 1
    assert f"nobody listens on port {port}" in notes[0]


def test_closing_ends_what_is_open_also_where_nobody_reads(server: Server) -> None:
    """A reader that has gone to sleep does not hold it up, and closing twice is fine."""

    def flood(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while True:
                connection.sendall(bytes(1 << 20))

    with service(flood) as port, connected(server) as session:
        tunnel = session.forward(port)
        with tunnel:
            sleeper = socket.create_connection(("127.0.0.1", tunnel.port))
            assert sleeper.recv(1) == b"\0"
        tunnel.close()
        with sleeper, pytest.raises(ConnectionResetError):
            everything(sleeper)
    assert not [each for each in threading.enumerate() if each.name == "dayfly tunnel"]


def test_a_port_that_is_taken_or_cannot_be_is_refused(server: Server) -> None:
    """In words that name it."""
    session = connected(server)
    with service(echo_after_the_end) as port:
        with pytest.raises(ConfigurationError, match=f"port {port} of this computer"):
            Tunnel(lambda: pytest.fail("nobody connects"), port).__enter__()
        for remote, local in ((0, 0), (65536, 0), (80, -1)):
            with pytest.raises(SpecError, match="ports are from"):
                session.forward(remote, local)
