"""The lanes of one client: further channels for large content."""

from __future__ import annotations

import os
import struct
import sys
import time

from .digests import code_of, new_sha256
from .files import write_all
from .frames import (
    CHUNK_BYTES,
    FRAME_BYTES_MAX,
    HEADER_BYTES,
    FrameError,
    check_payload,
    decode,
    open_header,
)
from .packing import timed_pack
from .refusal import Refusal
from .room import room

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .channel import Channel
    from .job_folder import JobFolder
    from .transfer import Transfer


# In front of each piece that was wanted packed.
PACKED_HEAD = struct.Struct(">II")


class Lanes:
    """Further ways for large content, each through a connection to a Unix socket of ours; what it carries is ordered by frames.

    The bytes themselves travel as they are: they are of the run as soon as all of them have the digest, or the
    authentication code, that was told in a frame.
    """

    ACCEPT_S = 10.0
    ROOM_BYTES = 1 << 20

    def __init__(
        self,
        channel: Channel,
        job: JobFolder,
        transfers: dict[int, Transfer],
        lend: Callable[[Any, int], None],
    ) -> None:
        """`lend` hands a connection on to the zygote, for a client's generation."""
        self._channel, self._job, self._transfers = channel, job, transfers
        self._lend = lend
        self._listening: dict[str, Any] = {}

    def listen(self, most: int) -> str:
        """Take so many connections, those that come soon; gives the socket's path, which only this user can reach."""
        import socket
        import threading

        folder = os.environ.get("TMPDIR", "/tmp")  # noqa: S108 - a folder of ours in it, of a random name
        # The path of a Unix socket has room for a hundred bytes.
        folder = folder if len(folder) < 60 else "/tmp"  # noqa: S108
        folder = os.path.join(folder, "dayfly-" + os.urandom(8).hex())
        os.mkdir(folder, 0o700)
        path = os.path.join(folder, "lanes")
        listener = self._listening[path] = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(most)
        listener.settimeout(self.ACCEPT_S)
        threading.Thread(target=self._accept, args=(path, listener, most), daemon=True).start()
        return path

    def _accept(self, path: str, listener: Any, most: int) -> None:
        import threading

        try:
            for _ in range(most):
                connection = listener.accept()[0]
                connection.settimeout(None)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
        except OSError:
            pass  # No further one came.
        finally:
            self._end(path)

    def _end(self, path: str) -> None:
        listener = self._listening.pop(path, None)
        if listener is not None:
            listener.close()
            try:
                os.unlink(path)
                os.rmdir(os.path.dirname(path))
            except OSError:
                pass  # Somebody tidied up there.

    def close(self) -> None:
        for path in list(self._listening):
            self._end(path)

    def _serve(self, connection: Any) -> None:
        """Carry out the orders of one lane until it closes, or until there is one that is not authentic."""
        try:
            number = int.from_bytes(_receive(connection, 4), "big")
            key = lane_key(self._channel.key, self._channel.nonce, number)
            seq, place = 0, room(self.ROOM_BYTES)
            while True:
                header = _receive(connection, HEADER_BYTES)
                length, digest = open_header(key, self._channel.run_id, seq, header)
                if length > CHUNK_BYTES:
                    raise FrameError(f"an order of {length} bytes")
                payload = _receive(connection, length)
                check_payload(len(payload), new_sha256(payload).digest(), length, digest)
                self._carry_out(connection, decode(payload)[0], place)
                seq += 1
        except (EOFError, OSError):
            pass
        except (FrameError, Refusal) as error:
            os.write(2, f"dayfly: {error}\n".encode())
        finally:
            connection.close()

    def _carry_out(self, connection: Any, order: dict[str, Any], place: memoryview) -> None:
        if "shortcut" in order:
            self._lend(connection, order["shortcut"])
            raise EOFError  # Whatever else comes is not for this process.
        codec = order.get("codec", "")
        if "of" in order and codec:
            self._take_packed(connection, order)
        elif "of" in order:
            self._take(connection, order["of"], order["offset"], order["bytes"], place)
        elif codec:
            self._give_packed(connection, codec, order["what"], order["offset"], order["bytes"])
        else:
            self._give(connection, order["what"], order["offset"], order["bytes"])

    def _take_packed(self, connection: Any, order: dict[str, Any]) -> None:
        """Take a piece that makes sense only as a whole."""
        if order["bytes"] > FRAME_BYTES_MAX:
            raise FrameError(f"a piece of {order['bytes']} bytes")
        data = _receive(connection, order["bytes"])
        transfer = self._transfers.get(order["of"])
        if transfer is not None:
            transfer.write_packed(order["offset"], order["codec"], data, order["plain"])

    def _give_packed(self, connection: Any, codec: str, what: str, offset: int, size: int) -> None:
        """Give a piece behind its packed size, 0 where it comes as it is, and the microseconds that packing has taken."""
        descriptor = os.open(self._job.source(what), os.O_RDONLY)
        try:
            data = os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)
        if len(data) != size:
            raise EOFError
        made, took_s = timed_pack(codec, data, time.perf_counter)
        smaller = len(made) < size
        head = PACKED_HEAD.pack(len(made) if smaller else 0, min(round(took_s * 1e6), 2**32 - 1))
        connection.sendall(head + (made if smaller else data))

    def _take(self, connection: Any, of: int, start: int, size: int, place: memoryview) -> None:
        from socket import MSG_WAITALL

        # What is received no longer, because it is here already, must be taken from the line all the same.
        transfer = self._transfers.get(of)
        offset = start
        while offset < start + size:
            # All at once: the server hands on 32 KB at a time, and each write here costs several calls.
            part = place[: start + size - offset]
            count = connection.recv_into(part, len(part), MSG_WAITALL)
            if not count:
                raise EOFError
            if transfer is not None:
                transfer.write(start, offset, part[:count], start + size, digest=True)
            offset += count

    def _give(self, connection: Any, what: str, offset: int, size: int) -> None:
        descriptor = os.open(self._job.source(what), os.O_RDONLY)
        try:
            end = offset + size
            while offset < end:
                if sys.platform == "linux":
                    count = os.sendfile(connection.fileno(), descriptor, offset, end - offset)
                else:
                    data = os.pread(descriptor, min(CHUNK_BYTES, end - offset), offset)
                    connection.sendall(data)
                    count = len(data)
                if not count:
                    raise EOFError
                offset += count
        finally:
            os.close(descriptor)


def lane_key(key: bytes, nonce: bytes, number: int) -> bytes:
    """The key of the orders on one lane: one of another lane, channel or run does not fit."""
    return code_of(key, b"lane %d of " % number + nonce)


def _receive(connection: Any, size: int) -> bytes:
    """Receive exactly so many bytes.

    Raises:
        EOFError: there are no more.
    """
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def relay(path: str) -> None:
    """Lead stdin and stdout of a channel to the agent's socket, where the server itself does not."""
    import socket
    import threading

    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)

    def upward() -> None:
        for data in iter(lambda: os.read(0, CHUNK_BYTES), b""):
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)

    threading.Thread(target=upward, daemon=True).start()
    try:
        for data in iter(lambda: connection.recv(CHUNK_BYTES), b""):
            write_all(1, data)
    except OSError:
        pass  # Either end went; there is nothing to say to the other.
    finally:
        os._exit(0)
