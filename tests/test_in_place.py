"""A large array of a pickle is used where it lies in the file, by whoever loads it alone; where it cannot be, it is read."""

from __future__ import annotations

import errno
import gc
import io
import os
import pickle
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from dayfly.runtime.agent import in_place as place
from dayfly.runtime.agent import layout
from dayfly.runtime.agent.in_place import in_place
from tests.test_layout import SIZE, array, laid_out

linux = pytest.mark.skipif(sys.platform != "linux", reason="nothing is mapped on this system")


@pytest.fixture(autouse=True)
def own_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own folder is on one, whatever it is."""
    monkeypatch.setattr(place, "_is_own", lambda _: True)
    monkeypatch.setattr(place, "_has_room", lambda *_: True)


def loaded(file: BinaryIO) -> Any:
    stream, buffers = in_place(file)
    return pickle.load(stream, buffers=buffers)


def written(path: Path, value: Any, front: bytes = b"") -> Path:
    path.write_bytes(laid_out(value, front))
    return path


def no_memory(*_: Any) -> None:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def maps() -> str:
    return Path("/proc/self/maps").read_text()


def is_mapped(made: Any) -> bool:
    """Whether its memory is that of a file."""
    address = made.ctypes.data
    for line in maps().splitlines():
        first, last = (int(end, 16) for end in line.split(" ", 1)[0].split("-"))
        if first <= address < last:
            return "/" in line
    return False


@linux
def test_an_array_is_memory_of_the_file_and_changes_stay_with_who_loaded_it(tmp_path: Path) -> None:
    """It outlives the file, and its beginning is aligned; what must not be changed cannot be."""
    first, second = array(SIZE), array(3 * SIZE, changeable=False)
    path = written(tmp_path / "x", {"a": first, "b": [second, "c"]}, b"front line\n")
    before = path.read_bytes()
    with path.open("rb") as file:
        file.readline()
        value = loaded(file)
    assert is_mapped(value["a"])
    assert is_mapped(value["b"][0])
    assert value["a"].ctypes.data % layout.ALIGNED_BYTES == 0
    assert np.array_equal(value["a"], first)
    assert np.array_equal(value["b"][0], second)
    assert [value["a"].flags.writeable, value["b"][0].flags.writeable] == [True, False]
    value["a"][:4] = 7
    assert path.read_bytes() == before
    path.unlink()
    assert bytes(value["a"][:5]) == b"\7\7\7\7" + first[4:5].tobytes()


@linux
def test_what_owns_a_buffer_has_its_bytes_and_no_others(tmp_path: Path) -> None:
    """The documentation of `pickle` has classes ask a view for its owner."""
    first, second = array(SIZE), array(2 * SIZE)
    with written(tmp_path / "x", [first, second]).open("rb") as file:
        _, buffers = in_place(file)
    for buffer, sent in zip(buffers, (first, second), strict=True):
        assert (buffer.format, buffer.nbytes) == ("B", len(sent))
        assert bytes(memoryview(buffer.obj)) == sent.tobytes()


@linux
def test_a_finalizer_that_looks_at_it_finds_it(tmp_path: Path) -> None:
    """The memory goes after whatever refers to it, also where that is a circle of garbage."""
    seen = []

    class Keeps:
        def __init__(self, data: Any) -> None:
            self.data, self.me = data, self

        def __del__(self) -> None:
            seen.append(bytes(self.data))

    sent = array(SIZE)
    with written(tmp_path / "x", sent).open("rb") as file:
        _, buffers = in_place(file)
    Keeps(buffers.pop())
    gc.collect()
    assert seen == [sent.tobytes()]
    assert str(tmp_path) not in maps()


@linux
def test_a_thousand_of_them_take_no_descriptor_and_are_given_back(tmp_path: Path) -> None:
    """A process has some thousand descriptors, and a map as many results."""
    path, values = written(tmp_path / "x", array(SIZE)), []
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(1000):
        with path.open("rb") as file:
            values.append(loaded(file))
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    assert str(path) in maps()
    values.clear()
    assert str(path) not in maps()


@pytest.mark.parametrize(
    "case",
    ["elsewhere", "full", "no ctypes", "no memory", "moved by a byte", "mostly other", "in memory"],
)
def test_where_it_cannot_be_had_so_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """From another computer's file system, which may take it away; from a disk that is nearly full; and so on."""
    value = [array(SIZE), b"r" * (17 << 20 if case == "mostly other" else 9)]
    path = written(tmp_path / "x", value)
    if case == "elsewhere":
        monkeypatch.setattr(place, "_is_own", lambda _: False)
    elif case == "full":
        monkeypatch.setattr(place, "_has_room", lambda *_: False)
    elif case == "no ctypes":
        monkeypatch.setitem(sys.modules, "ctypes", None)
    elif case == "no memory":
        monkeypatch.setattr("mmap.mmap", no_memory)
    elif case == "moved by a byte":
        path.write_bytes(b"\n" + path.read_bytes())
    with path.open("rb") as opened:
        file: BinaryIO = io.BytesIO(opened.read()) if case == "in memory" else opened
        file.seek(1 if case == "moved by a byte" else 0)
        assert in_place(file) == (file, [])
        read = loaded(file)
    assert np.array_equal(read[0], value[0])
    assert read[1] == value[1]


@pytest.mark.parametrize("spoil", ["count", "start", "size"])
def test_a_table_that_does_not_fit_is_not_followed(tmp_path: Path, spoil: str) -> None:
    """Whoever made it: the pickle by itself says all."""
    sent = array(SIZE)
    file = bytearray(laid_out(sent))
    count, start = len(file) - layout.END_BYTES, len(file) - layout.END_BYTES - 8
    at = layout.starts_in(memoryview(file))[0][0]
    if spoil == "count":
        file[count : count + 4] = b"\xff\xff\xff\xff"
    elif spoil == "start":
        file[start:count] = (len(file) - at - 1).to_bytes(8, "big")
    else:
        file[start:count] = (len(file) + 5).to_bytes(8, "big")
    (path := tmp_path / "x").write_bytes(file)
    with path.open("rb") as opened:
        assert in_place(opened) == (opened, [])
        assert np.array_equal(loaded(opened), sent)


@linux
def test_a_disk_of_this_computer_is_known_by_its_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/proc is on none; and a disk that would be full has no room."""
    monkeypatch.undo()
    with Path("/proc/self/maps").open("rb") as file:
        assert not place._is_own(file.fileno())
    with (tmp_path / "x").open("wb") as file:
        free = os.fstatvfs(file.fileno())
        room = free.f_bavail * free.f_frsize
        assert place._has_room(file.fileno(), room // 9)
        assert not place._has_room(file.fileno(), room // 7)
        kind = place._OWN
        monkeypatch.setattr(place, "_OWN", frozenset())
        assert not place._is_own(file.fileno())
        mounts = Path("/proc/self/mountinfo").read_text()
        monkeypatch.setattr(
            place,
            "_OWN",
            frozenset(line.partition(" - ")[2].split()[0] for line in mounts.splitlines()),
        )
        assert place._is_own(file.fileno())
        assert "ext4" in kind
