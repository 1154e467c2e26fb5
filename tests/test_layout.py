"""What is large in a pickle begins where arrays begin in memory, and whoever knows nothing of that loads it as ever."""

from __future__ import annotations

import io
import os
import pickle
from typing import Any

import cloudpickle
import pytest

from dayfly.runtime.agent import layout
from dayfly.runtime.agent.layout import Layout

SIZE = layout.LEAST_BYTES


class Array:
    """Pickled as NumPy's arrays are: its buffer in one piece."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Array, (pickle.PickleBuffer(self.data),)


def laid_out(value: Any, front: bytes = b"") -> bytes:
    """A file with its pickle behind `front`."""
    file = io.BytesIO()
    file.write(front)
    made = Layout(file, len(front))
    cloudpickle.Pickler(made, protocol=5).dump(value)
    made.end()
    return file.getvalue()


@pytest.mark.parametrize("front", range(0, 70, 3))
def test_a_large_buffer_is_aligned_whatever_is_in_front_of_it(front: int) -> None:
    """Each of them, whether it may be changed or not; and the table finds them."""
    first, second = os.urandom(SIZE), bytearray(os.urandom(SIZE + 7))
    file = laid_out(["x" * front, Array(first), "y", Array(second)], bytes(front))
    starts, end = layout.starts_in(memoryview(file))
    heads = [layout.head_of(file[start : start + 9]) for start in starts]
    places = [start + len(head) for start, head in zip(starts, heads, strict=True)]
    assert [place % layout.ALIGNED_BYTES for place in places] == [0, 0]
    assert [layout.size_in(head) for head in heads] == [SIZE, SIZE + 7]
    assert file[places[0] :].startswith(first)
    assert file[places[1] :].startswith(bytes(second))
    assert file[:end].endswith(pickle.STOP)


def test_any_unpickler_loads_it() -> None:
    """Also where more follows, and in Python's own unpickler, which is written apart from the one in C."""
    value = [
        Array(os.urandom(SIZE)),
        b"x" * SIZE,
        Array(bytearray(SIZE)),
        Array(b"small"),
        "z" * SIZE,
    ]
    file = laid_out(value, b"front\n")
    assert layout.ends_laid_out(file)
    for load in (pickle.load, pickle._load):  # type: ignore[attr-defined]
        source = io.BytesIO(file)
        source.readline()
        loaded = load(source)
        assert [type(each) for each in loaded] == [type(each) for each in value]
        assert [getattr(each, "data", each) for each in loaded] == [
            getattr(each, "data", each) for each in value
        ]


def test_without_large_buffers_it_is_the_pickle_byte_for_byte() -> None:
    """Bytes, which are no buffer of somebody's, and small buffers stay as they were."""
    value = [Array(bytes(SIZE - 1)), b"x" * SIZE, bytearray(SIZE), list(range(1000)), "y" * 90_000]
    assert laid_out(value) == cloudpickle.dumps(value, protocol=5)
    assert not layout.ends_laid_out(laid_out(value))


def test_one_buffer_twice_is_there_once() -> None:
    """The pickle refers to it, as it always does."""
    array = Array(bytearray(os.urandom(SIZE)))
    loaded = pickle.loads(laid_out([array, array]))
    assert loaded[0] is loaded[1]
    assert len(laid_out([array, array])) < 1.1 * SIZE
