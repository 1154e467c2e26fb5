"""What a pickler has written is sent from where it lies: the same bytes, without a copy of what is large."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from dayfly.runtime import parts
from dayfly.runtime.agent import frames
from dayfly.runtime.content import Content
from dayfly.runtime.digest import Digest
from dayfly.runtime.parts import Parts

KEY, RUN = bytes(32), "0" * 32


class Buffer:
    """Pickled as an array is: its bytes go out of the pickler's hands as they are."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return bytes, (pickle.PickleBuffer(self.data),)


def pickled(value: Any) -> Parts:
    made = Parts()
    cloudpickle.Pickler(made, protocol=5).dump(value)
    return made


def test_it_is_the_pickle_byte_for_byte() -> None:
    """Whatever mixture of small and large, and of shapes, there is in it."""
    square = memoryview(bytearray(os.urandom(90_000))).cast("B", (300, 300))
    value = [1, b"x" * 70_000, Buffer(square), "y" * 70_000, bytearray(80_000), {}, Buffer(b"")]
    made = pickled(value)
    assert bytes(made) == cloudpickle.dumps(value, protocol=5)
    assert pickle.loads(bytes(made))[2] == square.tobytes()
    assert made.sha256() == hashlib.sha256(bytes(made)).digest()
    assert bytes(Parts()) == b""


def test_large_buffers_are_not_copied() -> None:
    """What is read of them is the user's own memory."""
    data = bytearray(1 << 20)
    made = pickled(Buffer(data))
    place = bytes(made).index(bytes(1000))
    seen = made.read(place + 500, 1000)
    data[: 1 << 20] = b"\1" * (1 << 20)
    assert bytes(seen) == b"\1" * 1000


def test_another_pickle_takes_them_without_a_copy() -> None:
    """All of them, in their order."""
    data = bytearray(os.urandom(1 << 20))
    made = pickled(["before", Buffer(data), "after"])
    again = pickled(made.buffers())
    assert b"".join(pickle.loads(bytes(again))) == bytes(made)
    data[:] = bytes(1 << 20)
    assert bytes(1 << 20) in bytes(again)


def test_a_piece_may_lie_in_several_parts() -> None:
    """As an upload asks for them."""
    made = Parts([b"abc", b"", b"de", b"f"])
    assert [
        bytes(made.read(at, size)) for at, size in ((0, 3), (1, 4), (2, 1), (5, 1), (6, 0))
    ] == [
        b"abc",
        b"bcde",
        b"c",
        b"f",
        b"",
    ]
    with Content(made) as content:
        assert content.size == 6
        assert content.digest() == hashlib.sha256(b"abcdef").hexdigest()


def test_it_is_sealed_as_the_agent_seals() -> None:
    """Header in front, nothing copied."""
    made = Parts([b"abc", b"def"]).behind(b"head\n")
    assert bytes(made.sealed(KEY, RUN, 3)) == frames.seal(KEY, RUN, 3, b"head\nabcdef")


@pytest.mark.parametrize("most", [1 << 30, 1000])
def test_a_snapshot_stays_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """In memory or in a file without a name; bytes, which nobody can change, are not copied."""
    monkeypatch.setattr(parts, "_ASIDE_BYTES", most)
    data, fixed = bytearray(b"a" * 100_000), b"f" * 100_000
    made = pickled([Buffer(data), fixed]).behind(b"head\n")
    before = bytes(made)
    kept = made.settled(tmp_path / "cache").settled(tmp_path / "cache")
    data[:] = b"b" * 100_000
    assert bytes(kept) == before
    assert bytes(made) != before
    assert len(kept) == len(made)
    assert not list(tmp_path.rglob("tmp*"))
    assert any(getattr(part, "obj", None) is fixed for part in kept._parts)


def test_a_digest_takes_what_a_pickler_hands_over() -> None:
    """A function with a large global has one, too."""
    square = memoryview(bytearray(90_000)).cast("B", (300, 300))
    large = Digest()
    cloudpickle.Pickler(large, protocol=5).dump(
        [Buffer(square)] * 20 + [Buffer(bytearray(2 << 20))]
    )
    assert large.size > 2 << 20
    assert len(large.hexdigest()) == 64
