"""Packets: many packets of one channel built and sent at once; only with the paramiko that this was written for."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Any

import paramiko
from paramiko.packet import Packetizer

# It works on attributes that are nobody's promise, so another paramiko gets its own packetizer.
_WRITTEN_FOR = ("5.1.0",)
_CHANNEL_DATA = 94
_BLOCK = 16
_TAG = 16
# Packet length, padding length, message, channel, length of the data.
_HEAD = struct.Struct(">IBBII")
_LENGTH = 4


def packetizer_class() -> type[Packetizer]:
    """Ours, or paramiko's own where this paramiko is another than the one it was written for."""
    return _Packetizer if paramiko.__version__ in _WRITTEN_FOR else Packetizer


class _Packetizer(Packetizer):
    """paramiko's packetizer with a short way for large data; its class name makes the private names the same.

    paramiko copies each packet six times and takes every lock for each 32 KB; that alone is a third of the work.
    """

    if TYPE_CHECKING:
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

    def send_data(self, channel: int, data: memoryview, packet_bytes: int) -> bool:
        """Send `data` to a channel in packets of `packet_bytes`, if the cipher in use is one that this can do.

        The caller has the window for it, and sees to it that no key exchange is under way.

        Returns:
            False where nothing was sent: the usual way has to be taken.
        """
        with self.__write_lock:
            if not self.__aead_out or self.__compress_engine_out or self.__dump_packets:
                return False
            starts = range(0, len(data), packet_bytes)
            size = self._seal(channel, data, starts, packet_bytes)
            self.write_all(memoryview(self.__sealed)[:size])
            self.__sent_bytes += size
            self.__sent_packets += len(starts)
            too_much = (
                self.__sent_packets >= self.REKEY_PACKETS or self.__sent_bytes >= self.REKEY_BYTES
            )
            if too_much and not self.__need_rekey:
                self.__received_bytes_overflow = 0
                self.__received_packets_overflow = 0
                self._trigger_rekey()  # type: ignore[attr-defined]
            return True

    def _seal(self, channel: int, data: memoryview, starts: range, packet_bytes: int) -> int:
        """Encrypt all packets into the buffer; gives how many bytes of it they fill."""
        most = _HEAD.size + packet_bytes + 2 * _BLOCK
        if len(self.__sealed) < len(starts) * (most + _TAG):
            self.__plain, self.__sealed = bytearray(most), bytearray(len(starts) * (most + _TAG))
        plain, sealed = memoryview(self.__plain), memoryview(self.__sealed)
        padding_bytes = os.urandom(2 * _BLOCK)
        fixed, counter = self.__iv_out[:4], int.from_bytes(self.__iv_out[4:], "big")
        engine, place = self.__block_engine_out, 0
        for start in starts:
            part = data[start : start + packet_bytes]
            end = _HEAD.size + len(part)
            # What is encrypted fills whole blocks, with four bytes of padding at least.
            padding = _BLOCK + 3 - (end - 1) % _BLOCK
            end += padding
            _HEAD.pack_into(plain, 0, end - _LENGTH, padding, _CHANNEL_DATA, channel, len(part))
            plain[_HEAD.size : end - padding] = part
            plain[end - padding : end] = padding_bytes[:padding]
            sealed[place : place + _LENGTH] = plain[:_LENGTH]
            into = sealed[place + _LENGTH : place + end + _TAG]
            nonce = fixed + (counter & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "big")
            _encrypt_into(engine, nonce, plain[_LENGTH:end], plain[:_LENGTH], into)
            counter += 1
            place += end + _TAG
        # Before anything is sent: whatever breaks this off, no number is ever used twice on the line.
        self.__iv_out = fixed + (counter & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "big")
        self.__sequence_number_out = (self.__sequence_number_out + len(starts)) & 0xFFFFFFFF
        return place


def _encrypt_into(
    engine: Any, nonce: bytes, plain: memoryview, length: memoryview, into: memoryview
) -> None:
    if hasattr(engine, "encrypt_into"):
        engine.encrypt_into(nonce, plain, length, into)
    else:
        into[:] = engine.encrypt(nonce, plain, length)
