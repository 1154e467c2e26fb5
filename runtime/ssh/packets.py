"""Packets: those of a channel sent together, those that arrive read together; only with the paramiko that this was written for."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import paramiko
from paramiko.message import Message
from paramiko.packet import NeedRekeyException, Packetizer

from dayfly.runtime.agent.room import room

# It works on attributes that are nobody's promise, so another paramiko gets its own packetizer.
_WRITTEN_FOR = ("5.1.0",)
_CHANNEL_DATA = 94
_IGNORE = 2
_BLOCK = 16
_TAG = 16
# Random, as it should be, once: behind the stream of a counter nobody sees whether it is the same again.
_PADDING = os.urandom(2 * _BLOCK)
# Packet length, padding length, message, channel, length of the data.
_HEAD = struct.Struct(">IBBII")
_LENGTH = 4
_DATA = struct.Struct(">II")
# Room for the largest packet that the other side may send, and for what has come behind it.
_AHEAD_BYTES = (256 << 10) + (16 << 10)
_PACKET_MOST = 256 << 10 | 4096
# Of so much at most a copy is cheap.
_SMALL_BYTES = 4 << 10
_SEQUENCE = 0xFFFFFFFF
_COUNTER = 0xFFFFFFFFFFFFFFFF


def packetizer_class() -> type[Packetizer]:
    """Ours, or paramiko's own where this paramiko is another than the one it was written for."""
    return _Packetizer if paramiko.__version__ in _WRITTEN_FOR else Packetizer


class _Packetizer(Packetizer):
    """paramiko's packetizer with a short way for AES-GCM; its class name makes the private names the same.

    paramiko copies each packet six times, takes every lock for each 32 KB, and asks the kernel four times for each small
    packet that arrives; that is a third of the work of large content, and of a small call.
    """

    if TYPE_CHECKING:
        __socket: Any
        __closed: bool
        __aead_in: bool
        __block_engine_in: Any
        __compress_engine_in: Any
        __iv_in: bytes
        __sequence_number_in: int
        __received_bytes: int
        __received_packets: int
        __handshake_complete: bool
        __write_lock: Any
        __block_engine_out: Any
        __aead_out: bool
        __compress_engine_out: Any
        __dump_packets: bool
        __iv_out: bytes
        __sequence_number_out: int
        __sent_bytes: int
        __sent_packets: int
        __need_rekey: bool

    __plain = bytearray()
    __sealed = bytearray()
    # Takes what has come for a channel, by the channel's number here; False where that is to go the usual way.
    deliver: Callable[[int, bytes], bool] = staticmethod(lambda number, data: False)
    # What has arrived and is not taken yet: a part of this buffer.
    __ahead = memoryview(b"")
    __start = __end = 0

    # -- what arrives

    def read_message(self) -> tuple[int, Message]:
        """As paramiko's own, which does it where another cipher is used, or new keys are due; but what is delivered is
        read past.

        Raises:
            SSHException: the packet is not one.
            InvalidTag: it was changed on its way.
            EOFError: the connection ended.
        """
        while self.__aead_in and not (
            self.__need_rekey or self.__compress_engine_in or self.__dump_packets
        ):
            plain, end = self._read_packet()
            number = self.__sequence_number_in
            self.__sequence_number_in = (number + 1) & _SEQUENCE
            if plain[1] != _CHANNEL_DATA or not self._delivered(plain, end):
                message = Message(plain[2:end])
                message.seqno = number
                return plain[1], message
            if self.need_rekey():
                return _IGNORE, Message()  # Whoever reads has to begin with that.
        read: tuple[int, Message] = super().read_message()
        return read

    def _delivered(self, plain: bytes, end: int) -> bool:
        """Whether a packet's message, a channel's number and a string, was taken."""
        if end < 2 + _DATA.size:
            return False
        number, size = _DATA.unpack_from(plain, 2)
        begin = 2 + _DATA.size
        return size == end - begin and self.deliver(number, plain[begin:end])

    def _read_packet(self) -> tuple[bytes, int]:
        """Read the next one, and give it decrypted, with where its message ends; its kind stands at 1."""
        size = int.from_bytes(self._arrived(_LENGTH, check_rekey=True)[:_LENGTH], "big")
        if not _BLOCK <= size <= _PACKET_MOST:
            raise paramiko.SSHException(f"a packet of {size} bytes")
        whole = _LENGTH + size + _TAG
        sealed = self._arrived(whole)
        plain = self.__block_engine_in.decrypt(
            self.__iv_in, sealed[_LENGTH:whole], sealed[:_LENGTH]
        )
        self.__start += whole
        counter = int.from_bytes(self.__iv_in[4:], "big") + 1
        self.__iv_in = self.__iv_in[:4] + (counter & _COUNTER).to_bytes(8, "big")
        # Behind the length of the padding and the kind of the message.
        message_end = size - plain[0]
        if message_end < 2:
            raise paramiko.SSHException("a packet without a message")
        self.__received_bytes += whole
        self.__received_packets += 1
        if (
            self.__received_packets >= self.REKEY_PACKETS
            or self.__received_bytes >= self.REKEY_BYTES
        ):
            self._ask_for_new_keys()
        return plain, message_end

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:
        """As paramiko's own, behind what was read ahead."""
        held = min(n, self.__end - self.__start)
        if not held:
            read: bytes = super().read_all(n, check_rekey)
            return read
        begun = bytes(self.__ahead[self.__start : self.__start + held])
        self.__start += held
        return begun if held == n else begun + super().read_all(n - held)

    def _arrived(self, size: int, *, check_rekey: bool = False) -> memoryview:
        """Give what comes next, so many bytes at least, without taking it; valid until it is called again."""
        while self.__end - self.__start < size:
            self._read_more(check_rekey and self.__end == self.__start)
        return self.__ahead[self.__start : self.__end]

    def _read_more(self, check_rekey: bool) -> None:
        """Read whatever there is; a packet is small, and others have often come behind it."""
        if self.handshake_timed_out():
            raise EOFError
        if not self.__ahead:
            # An idle connection has no more memory than what has come at once.
            self.__ahead = room(_AHEAD_BYTES)
        if self.__start:
            left = self.__end - self.__start
            # To the front, past itself; mostly there is nothing left.
            self.__ahead[:left] = bytes(self.__ahead[self.__start : self.__end])
            self.__start, self.__end = 0, left
        try:
            count = self.__socket.recv_into(self.__ahead[self.__end :])
        except TimeoutError:
            if self.__closed:
                raise EOFError from None
            if check_rekey and self.__need_rekey:
                raise NeedRekeyException from None
            self._check_keepalive()  # type: ignore[attr-defined]
            return
        except OSError:
            if self.__closed:
                raise EOFError from None
            raise
        if not count:
            raise EOFError
        self.__end += count

    def complete_handshake(self) -> None:
        """As paramiko's own, which is called for every packet and takes a lock each time."""
        if not self.__handshake_complete:
            super().complete_handshake()

    def _ask_for_new_keys(self) -> None:
        if self.__need_rekey:
            return
        self.__received_bytes_overflow = 0
        self.__received_packets_overflow = 0
        self._trigger_rekey()  # type: ignore[attr-defined]

    # -- what is sent

    def send_data(self, channel: int, data: memoryview, packet_bytes: int) -> bool:
        """Send `data` to a channel in packets of `packet_bytes`, if the cipher in use is one that this can do.

        The caller has the window for it, and sees to it that no key exchange is under way.

        Returns:
            False where nothing was sent: the usual way has to be taken.
        """
        with self.__write_lock:
            if not self.__aead_out or self.__compress_engine_out or self.__dump_packets:
                return False
            sealed: bytes | memoryview
            if len(data) <= min(_SMALL_BYTES, packet_bytes):
                sealed, count = self._sealed_one(channel, data), 1
            else:
                starts = range(0, len(data), packet_bytes)
                size, count = self._seal(channel, data, starts, packet_bytes), len(starts)
                sealed = memoryview(self.__sealed)[:size]
            self.write_all(sealed)
            self.__sent_bytes += len(sealed)
            self.__sent_packets += count
            too_much = (
                self.__sent_packets >= self.REKEY_PACKETS or self.__sent_bytes >= self.REKEY_BYTES
            )
            if too_much:
                self._ask_for_new_keys()
            return True

    def _sealed_one(self, channel: int, data: memoryview) -> bytes:
        """Encrypt what is small, in one packet; of that a copy costs less than keeping to places does."""
        size = len(data)
        end = _HEAD.size + size
        padding = _padding(end)
        head = _HEAD.pack(end + padding - _LENGTH, padding, _CHANNEL_DATA, channel, size)
        length, nonce = head[:_LENGTH], self.__iv_out
        message = b"".join((head[_LENGTH:], data, _PADDING[:padding]))
        self._count(1)
        return length + bytes(self.__block_engine_out.encrypt(nonce, message, length))

    def _count(self, packets: int) -> None:
        """So many numbers are taken, before anything is sent: whatever breaks this off, none is ever used twice on the line."""
        counter = int.from_bytes(self.__iv_out[4:], "big") + packets
        self.__iv_out = self.__iv_out[:4] + (counter & _COUNTER).to_bytes(8, "big")
        self.__sequence_number_out = (self.__sequence_number_out + packets) & _SEQUENCE

    def _seal(self, channel: int, data: memoryview, starts: range, packet_bytes: int) -> int:
        """Encrypt all packets into the buffer; gives how many bytes of it they fill."""
        most = _HEAD.size + min(packet_bytes, len(data)) + 2 * _BLOCK
        if len(self.__plain) < most:
            self.__plain = bytearray(most)
        if len(self.__sealed) < len(starts) * (most + _TAG):
            self.__sealed = bytearray(len(starts) * (most + _TAG))
        plain, sealed = memoryview(self.__plain), memoryview(self.__sealed)
        fixed, counter = self.__iv_out[:4], int.from_bytes(self.__iv_out[4:], "big")
        encrypt, place, laid = _encrypting(self.__block_engine_out), 0, -1
        for start in starts:
            part = data[start : start + packet_bytes]
            if len(part) != laid:
                # The same around every packet of that size.
                laid, end = len(part), _HEAD.size + len(part)
                padding = _padding(end)
                _HEAD.pack_into(
                    plain, 0, end + padding - _LENGTH, padding, _CHANNEL_DATA, channel, laid
                )
                content = plain[_HEAD.size : end]
                plain[end : end + padding] = _PADDING[:padding]
                size = end + padding + _TAG
                length, message = plain[:_LENGTH], plain[_LENGTH : end + padding]
            content[:] = part
            sealed[place : place + _LENGTH] = length
            nonce = fixed + (counter & _COUNTER).to_bytes(8, "big")
            encrypt(nonce, message, length, sealed[place + _LENGTH : place + size])
            counter += 1
            place += size
        self._count(len(starts))
        return place


def _padding(end: int) -> int:
    """How much is to follow so many bytes of a packet: what is encrypted fills whole blocks, with four bytes of padding at least."""
    return _BLOCK + 3 - (end - 1) % _BLOCK


def _encrypting(engine: Any) -> Callable[[bytes, memoryview, memoryview, memoryview], object]:
    """What encrypts with a nonce a message behind its length into a place."""
    if hasattr(engine, "encrypt_into"):
        into: Callable[[bytes, memoryview, memoryview, memoryview], object] = engine.encrypt_into
        return into

    def encrypt(nonce: bytes, plain: memoryview, length: memoryview, into: memoryview) -> None:
        into[:] = engine.encrypt(nonce, plain, length)

    return encrypt
