"""What is large in a pickle begins where arrays begin in memory, and whoever knows nothing of that loads it as ever."""

from __future__ import annotations

import io
import os
import pickle
from typing import Any

import cloudpickle
import numpy as np
import pytest

from dayfly.runtime.agent import layout
from dayfly.runtime.agent.layout import Layout

SIZE = layout.LEAST_BYTES


class Own:
    """A class that has its buffer pickled in one piece, and takes what it is given for what it has sent."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Own, (pickle.PickleBuffer(self.data),)


def array(size: int, *, changeable: bool = True) -> Any:
    """One of NumPy with anything in it."""
    made = np.frombuffer(bytearray(os.urandom(size)), np.uint8)
    made.flags.writeable = changeable
    return made


def laid_out(value: Any, front: bytes = b"") -> bytes:
    """A file with its pickle behind `front`."""
    file = io.BytesIO()
    file.write(front)
    made = Layout(file, len(front))
    cloudpickle.Pickler(made, protocol=5).dump(value)
    made.end()
    return file.getvalue()


@pytest.mark.parametrize("front", range(0, 70, 3))
def test_a_large_array_is_aligned_whatever_is_in_front_of_it(front: int) -> None:
    """Each of them, whether it may be changed or not; and the table finds them."""
    first, second = array(SIZE, changeable=False), array(SIZE + 7)
    file = laid_out(["x" * front, first, "y", second], bytes(front))
    starts, end = layout.starts_in(memoryview(file))
    heads = [layout.head_of(file[start : start + 9]) for start in starts]
    places = [start + len(head) for start, head in zip(starts, heads, strict=True)]
    assert [place % layout.ALIGNED_BYTES for place in places] == [0, 0]
    assert [layout.size_in(head) for head in heads] == [SIZE, SIZE + 7]
    assert file[places[0] :].startswith(first.tobytes())
    assert file[places[1] :].startswith(second.tobytes())
    assert file[:end].endswith(pickle.STOP)


def test_any_unpickler_loads_it() -> None:
    """Also where more follows, and in Python's own unpickler, which is written apart from the one in C."""
    square = np.asfortranarray(array(SIZE * 4).reshape(SIZE, 4))
    value = [array(SIZE, changeable=False), b"x" * SIZE, array(SIZE), array(5), "z" * SIZE, square]
    file = laid_out(value, b"front\n")
    assert layout.ends_laid_out(file)
    for load in (pickle.load, pickle._load):  # type: ignore[attr-defined]
        source = io.BytesIO(file)
        source.readline()
        loaded = load(source)
        assert [type(each) for each in loaded] == [type(each) for each in value]
        assert all(np.array_equal(one, other) for one, other in zip(loaded, value, strict=True))
        assert [each.flags.writeable for each in loaded if isinstance(each, np.ndarray)] == [
            False,
            True,
            True,
            True,
        ]


def test_without_large_arrays_it_is_the_pickle_byte_for_byte() -> None:
    """Bytes, small arrays, and buffers of a class of the user's, which is given what it is given by any other pickle."""
    value = [array(SIZE - 1), b"x" * SIZE, bytearray(SIZE), list(range(1000)), "y" * 90_000]
    value += [Own(bytearray(SIZE)), Own(bytes(2 * SIZE)), pickle.PickleBuffer(bytearray(SIZE))]
    assert laid_out(value) == cloudpickle.dumps(value, protocol=5)
    assert not layout.ends_laid_out(laid_out(value))


def test_one_array_twice_is_there_once() -> None:
    """The pickle refers to it, as it always does."""
    one = array(SIZE)
    loaded = pickle.loads(laid_out([one, one]))
    assert loaded[0] is loaded[1]
    assert len(laid_out([one, one])) < 1.1 * SIZE
