"""What a connection that breaks or drips says of the request that went over it: real servers on loopback, TLS and plain."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dayfly.infra import lambda_http
from dayfly.infra.lambda_errors import ApiError, Unanswered
from dayfly.infra.lambda_key import LambdaKey

pytestmark = pytest.mark.process

_BODY = {"instance_type_name": "gpu_8x_b200"}
# A server waits for a client that hangs up for no longer than this.
_PATIENCE_S = 20.0


class Server:
    """Serves one connection in a way that a test says; what it had received by then is in `received`."""

    def __init__(self, serve: Callable[[Server, socket.socket], None]) -> None:
        self.received = b""
        self._serve = serve
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listening.close()

    def _run(self) -> None:
        self._listening.settimeout(_PATIENCE_S)
        connection, _ = self._listening.accept()
        connection.settimeout(_PATIENCE_S)
        with connection:
            self._serve(self, connection)

    def read_request(self, connection: socket.socket) -> None:
        """All of it: its body is the last that comes."""
        while b"gpu_8x_b200" not in self.received and (more := connection.recv(65536)):
            self.received += more


def drip(connection: socket.socket, text: bytes) -> None:
    """A byte now and then, until the other side has had enough."""
    try:
        for position in range(len(text)):
            connection.sendall(text[position : position + 1])
            time.sleep(0.05)
    except OSError:
        pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with key and certificate of 127.0.0.1, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return file


@pytest.fixture
def tls(certificate: Path) -> Iterator[ssl.SSLContext]:
    """Of a server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    yield context


def launch(server: Server, scheme: str) -> ApiError:
    """Sends a launch, and returns what comes of it."""
    url = f"{scheme}://127.0.0.1:{server.port}/instance-operations/launch"
    with pytest.raises(ApiError) as error:
        lambda_http.send(LambdaKey("k", "a test"), "POST", url, "launching", _BODY)
    return error.value


def test_tls_that_breaks_after_the_request_leaves_open_what_was_done(
    tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has all of the launch by then, and its machine may be billed."""

    def serve(server: Server, connection: socket.socket) -> None:
        with tls.wrap_socket(connection, server_side=True) as secure:
            server.read_request(secure)
            os.write(secure.fileno(), b"\x17\x03\x03\x00\x30" + bytes(48))

    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with Server(serve) as server:
        error = launch(server, "https")
    assert b"gpu_8x_b200" in server.received
    assert isinstance(error, Unanswered)
    assert "SSL" in str(error)


def test_tls_that_is_refused_before_the_request_has_made_nothing(tls: ssl.SSLContext) -> None:
    """A certificate that nobody trusts, in the same exception: not one byte of the launch has left."""

    def serve(server: Server, connection: socket.socket) -> None:
        try:
            with tls.wrap_socket(connection, server_side=True) as secure:
                server.received = secure.recv(65536)
        except OSError:
            pass

    with Server(serve) as server:
        error = launch(server, "https")
    assert server.received == b""
    assert not isinstance(error, Unanswered)
    assert error.code == "dayfly/unreachable"
    assert "CERTIFICATE_VERIFY_FAILED" in str(error)


def test_a_handshake_that_never_ends_is_cut_and_has_made_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However patient each single read is."""
    monkeypatch.setattr(lambda_http, "_TOTAL_S", 0.3)

    def serve(server: Server, connection: socket.socket) -> None:
        server.received = connection.recv(65536)
        drip(connection, b"\x16\x03\x03\x40\x00" + b"\x02" * 200)

    with Server(serve) as server:
        error = launch(server, "https")
    assert b"gpu_8x_b200" not in server.received
    assert not isinstance(error, Unanswered)
    assert "longer than 0.3 s" in str(error)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n" + b"X-Slow: 1\r\n" * 30,
        b'HTTP/1.1 200 OK\r\n\r\n{"data": {"instance_ids": ["i-1"]}}' + b" " * 300,
    ],
    ids=["headers", "body"],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_answer_that_drips_is_cut_wherever_it_is(
    tls: ssl.SSLContext,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
    answer: bytes,
) -> None:
    """Headers too, and a body without a length, which looks whole wherever it ends."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    monkeypatch.setattr(lambda_http, "_TOTAL_S", 2.0)
    cut_after_s = list[float]()

    def serve(server: Server, connection: socket.socket) -> None:
        spoken = connection
        if scheme == "https":
            spoken = tls.wrap_socket(connection, server_side=True)
        with spoken:
            server.read_request(spoken)
            begun = time.monotonic()
            drip(spoken, answer)
            cut_after_s.append(time.monotonic() - begun)

    with Server(serve) as server:
        error = launch(server, scheme)
    assert isinstance(error, Unanswered)
    assert "longer than 2 s" in str(error)
    # All of it would have taken fifteen.
    assert cut_after_s[0] < 12
