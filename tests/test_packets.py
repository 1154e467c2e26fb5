"""Packets that are built and read many at a time: as paramiko's own reader and writer at the other end expect it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import paramiko
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from paramiko.message import Message
from paramiko.packet import Packetizer

from dayfly.runtime.ssh import packets

PACKET_BYTES = 500
# What a cipher that authenticates by itself has no use for.
NONE: Any = None
KEY, IV = bytes(range(16)), b"\x01\x02\x03\x04\x00" + b"\xff" * 6 + b"\xf0"


class Pair:
    """Our packetizer at one end of a socket, paramiko's own at the other."""

    def __init__(self) -> None:
        here, self.there = socket.socketpair()
        self.ours: Any = packets.packetizer_class()(here)
        self.theirs: Any = Packetizer(self.there)
        gcm: Any = AESGCM(KEY)
        self.ours.set_outbound_cipher(gcm, 16, NONE, 16, NONE, aead=True, iv_out=IV)
        self.theirs.set_inbound_cipher(gcm, 16, NONE, 16, NONE, aead=True, iv_in=IV)
        self.theirs.set_outbound_cipher(gcm, 16, NONE, 16, NONE, aead=True, iv_out=IV)
        self.ours.set_inbound_cipher(gcm, 16, NONE, 16, NONE, aead=True, iv_in=IV)

    def read(self, count: int) -> list[tuple[int, int, bytes]]:
        """The kind, channel and data of the next packets."""
        got = []
        for _ in range(count):
            kind, message = self.theirs.read_message()
            got.append((kind, message.get_int(), message.get_binary()))
        return got

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def pieces(data: bytes) -> list[bytes]:
    return [data[start : start + PACKET_BYTES] for start in range(0, len(data), PACKET_BYTES)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 8 * PACKET_BYTES), min_size=1, max_size=5))
def test_paramiko_reads_what_was_sent_at_once(sizes: list[int]) -> None:
    """Of every size, one after the other and in turn with paramiko's own packets; the counter carries over on the way."""
    pair = Pair()
    try:
        for number, size in enumerate(sizes):
            data = os.urandom(size)
            assert pair.ours.send_data(number, memoryview(data), PACKET_BYTES)
            assert pair.read(len(pieces(data))) == [(94, number, part) for part in pieces(data)]
            pair.ours.send_message(Message(b"\x5e\0\0\0\x07\0\0\0\x02hi"))
            assert pair.read(1) == [(94, 7, b"hi")]
    finally:
        pair.close()


def test_no_counter_is_used_twice_when_the_line_breaks(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever breaks off a sending leaves the next one numbers of its own, or the cipher would be broken."""
    seen: list[bytes] = []

    class Watched:
        def encrypt(self, nonce: bytes, data: memoryview, length: memoryview) -> bytes:
            seen.append(nonce)
            return AESGCM(KEY).encrypt(nonce, data, length)

    def write(data: object) -> None:
        raise KeyboardInterrupt

    pair.ours.set_outbound_cipher(Watched(), 16, NONE, 16, NONE, aead=True, iv_out=IV)
    monkeypatch.setattr(pair.ours, "write_all", write)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            pair.ours.send_data(1, memoryview(bytes(3 * PACKET_BYTES)), PACKET_BYTES)
    assert len(seen) == len(set(seen)) == 6


def test_another_cipher_takes_the_usual_way(pair: Pair) -> None:
    """Nothing is sent, and the caller is told."""
    pair.ours.set_outbound_cipher(NONE, 8, NONE, 0, NONE)
    assert not pair.ours.send_data(1, memoryview(bytes(3 * PACKET_BYTES)), PACKET_BYTES)


def test_the_limit_for_new_keys_counts_these_packets(pair: Pair) -> None:
    """By their number and by their bytes."""
    pair.ours.REKEY_PACKETS = 3
    pair.ours.send_data(1, memoryview(bytes(2 * PACKET_BYTES)), PACKET_BYTES)
    assert not pair.ours.need_rekey()
    pair.ours.send_data(1, memoryview(bytes(PACKET_BYTES)), PACKET_BYTES)
    assert pair.ours.need_rekey()
    fresh = Pair()
    fresh.ours.REKEY_BYTES = PACKET_BYTES
    fresh.ours.send_data(1, memoryview(bytes(PACKET_BYTES)), PACKET_BYTES)
    assert fresh.ours.need_rekey()
    fresh.close()


def test_threads_do_not_mix_their_packets(pair: Pair) -> None:
    """Each packet is whole, and each channel's are in order."""
    data = {channel: os.urandom(40 * PACKET_BYTES) for channel in range(4)}

    def send(channel: int) -> None:
        whole = memoryview(data[channel])
        for start in range(0, len(whole), 5 * PACKET_BYTES):
            pair.ours.send_data(channel, whole[start : start + 5 * PACKET_BYTES], PACKET_BYTES)

    threads = [threading.Thread(target=send, args=(channel,)) for channel in data]
    for thread in threads:
        thread.start()
    got = {channel: b"" for channel in data}
    for _, channel, part in pair.read(4 * 40):
        got[channel] += part
    for thread in threads:
        thread.join()
    assert got == data


def test_another_paramiko_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this one works on is nobody's promise."""
    assert packets.packetizer_class() is not Packetizer
    monkeypatch.setattr(paramiko, "__version__", "5.2.0")
    assert packets.packetizer_class() is Packetizer


def sent(text: bytes) -> Message:
    """A message that has a kind and a string."""
    return Message(b"\x5e" + len(text).to_bytes(4, "big") + text)


def text_of(read: tuple[int, Message]) -> bytes:
    kind, message = read
    assert kind == 0x5E
    text: bytes = message.get_binary()
    assert not message.get_remainder()
    return text


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 3000), min_size=1, max_size=12),
    st.lists(st.integers(1, 4000), min_size=1, max_size=6),
)
def test_what_paramiko_sends_is_read_however_it_arrives(sizes: list[int], cuts: list[int]) -> None:
    """Several packets at once, and one in several parts."""
    pair, line = Pair(), bytearray()
    try:
        texts = [os.urandom(size) for size in sizes]
        pair.theirs.write_all = line.extend
        for text in texts:
            pair.theirs.send_message(sent(text))
        read: list[tuple[int, Message]] = []
        reader = threading.Thread(
            target=lambda: read.extend(pair.ours.read_message() for _ in texts), daemon=True
        )
        reader.start()
        place, number = 0, 0
        while place < len(line):
            size = cuts[number % len(cuts)]
            pair.there.sendall(line[place : place + size])
            place, number = place + size, number + 1
        reader.join(20)
        assert [text_of(each) for each in read] == texts
        assert [message.seqno for _, message in read] == list(range(len(texts)))
    finally:
        pair.close()


def test_the_largest_packet_is_read(pair: Pair) -> None:
    """More than that is none, and nothing is waited for that a changed length announces."""
    text = os.urandom(256 << 10)
    writer = threading.Thread(target=lambda: pair.theirs.send_message(sent(text)), daemon=True)
    writer.start()
    assert text_of(pair.ours.read_message()) == text
    writer.join(20)
    pair.there.sendall((1 << 24).to_bytes(4, "big"))
    with pytest.raises(paramiko.SSHException, match="a packet of 16777216 bytes"):
        pair.ours.read_message()


@pytest.mark.parametrize("place", [3, 4, 5, 30, -1])
def test_a_changed_byte_is_no_message(pair: Pair, place: int) -> None:
    """Of the length, the content, or the tag."""
    line = bytearray()
    pair.theirs.write_all = line.extend
    pair.theirs.send_message(sent(bytes(40)))
    line[place] ^= 0x10
    pair.there.sendall(line)
    pair.there.shutdown(socket.SHUT_WR)
    with pytest.raises((InvalidTag, EOFError)):
        pair.ours.read_message()


def test_what_was_read_ahead_is_not_lost_on_another_cipher(pair: Pair) -> None:
    """New keys, or none here, come into force behind the packet that says so; what follows may be here already."""
    line = bytearray()
    pair.theirs.write_all = line.extend
    pair.theirs.send_message(sent(b"last"))
    pair.theirs.set_outbound_cipher(NONE, 8, NONE, 0, NONE)
    pair.theirs.send_message(sent(b"first"))
    pair.theirs.send_message(sent(b"second"))
    pair.there.sendall(line)
    assert text_of(pair.ours.read_message()) == b"last"
    pair.ours.set_inbound_cipher(NONE, 8, NONE, 0, NONE)
    assert text_of(pair.ours.read_message()) == b"first"
    assert text_of(pair.ours.read_message()) == b"second"


def test_the_limit_for_new_keys_counts_what_is_read(pair: Pair) -> None:
    """And packets that come before the new keys do are read all the same."""
    pair.ours.REKEY_PACKETS = 2
    for text in (b"one", b"two", b"three"):
        pair.theirs.send_message(sent(text))
    assert text_of(pair.ours.read_message()) == b"one"
    assert not pair.ours.need_rekey()
    assert text_of(pair.ours.read_message()) == b"two"
    assert pair.ours.need_rekey()
    assert text_of(pair.ours.read_message()) == b"three"


def test_channels_of_different_packets_share_a_connection(pair: Pair) -> None:
    """Many small packets first, then a larger one than there was room for; no more room than what is sent needs."""
    data = os.urandom(8 * PACKET_BYTES)
    assert pair.ours.send_data(1, memoryview(data), PACKET_BYTES)
    assert b"".join(part for _, _, part in pair.read(8)) == data
    assert pair.ours.send_data(2, memoryview(data), 5 * PACKET_BYTES)
    assert b"".join(part for _, _, part in pair.read(2)) == data
    assert pair.ours.send_data(3, memoryview(b"small"), 1 << 30)
    assert pair.read(1) == [(94, 3, b"small")]


def channel_data(number: int, data: bytes) -> Message:
    return Message(b"\x5e" + number.to_bytes(4, "big") + len(data).to_bytes(4, "big") + data)


def test_what_comes_for_a_channel_is_delivered_and_read_past(pair: Pair) -> None:
    """In its order, with all else; what nobody takes, or is no such message, goes the usual way."""
    came: list[tuple[int, bytes]] = []

    def deliver(number: int, data: bytes) -> bool:
        came.append((number, data))
        return number != 9

    pair.ours.deliver = deliver
    for message in (
        channel_data(1, b"one"),
        channel_data(2, b"two"),
        channel_data(9, b"nine"),
        Message(b"\x5e\0\0"),
        Message(b"\x5e\0\0\0\1\0\0\0\7short"),
        channel_data(3, b"three"),
        Message(b"\x5d\0\0\0\1"),
    ):
        pair.theirs.send_message(message)
    read = [pair.ours.read_message() for _ in range(4)]
    assert [kind for kind, _ in read] == [94, 94, 94, 93]
    assert [message.seqno for _, message in read] == [2, 3, 4, 6]
    assert came == [(1, b"one"), (2, b"two"), (9, b"nine"), (3, b"three")]


def test_new_keys_that_are_due_are_not_waited_for_behind_what_is_delivered(pair: Pair) -> None:
    """Whoever reads has to ask for them, and may not be kept until something else comes."""
    pair.ours.deliver = lambda number, data: True
    pair.ours.REKEY_PACKETS = 2
    for _ in range(2):
        pair.theirs.send_message(channel_data(1, b"data"))
    kind, _ = pair.ours.read_message()
    assert kind == 2
    assert pair.ours.need_rekey()
