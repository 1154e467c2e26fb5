"""A large buffer of a pickle is used where it lies in the file, by whoever loads it alone; where it cannot be, it is read."""

from __future__ import annotations

import ctypes
import io
import os
import pickle
import sys
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from dayfly.runtime.agent import in_place as place
from dayfly.runtime.agent import layout
from dayfly.runtime.agent.in_place import in_place
from tests.test_layout import SIZE, Array, laid_out

linux = pytest.mark.skipif(sys.platform != "linux", reason="nothing is mapped on this system")


def loaded(file: BinaryIO) -> Any:
    stream, buffers = in_place(file)
    return pickle.load(stream, buffers=buffers)


def written(path: Path, value: Any, front: bytes = b"") -> Path:
    path.write_bytes(laid_out(value, front))
    return path


def is_mapped(view: Any) -> bool:
    """Whether its memory is that of a file."""
    address = ctypes.addressof(ctypes.c_ubyte.from_buffer(view))
    for line in Path("/proc/self/maps").read_text().splitlines():
        ends = [int(end, 16) for end in line.split(" ", 1)[0].split("-")]
        if ends[0] <= address < ends[1]:
            return "/" in line
    return False


@linux
def test_a_buffer_is_memory_of_the_file_and_changes_stay_with_who_loaded_it(tmp_path: Path) -> None:
    """It outlives the file, and its beginning is aligned; what must not be changed cannot be."""
    first, second = bytearray(os.urandom(SIZE)), os.urandom(3 * SIZE)
    path = written(tmp_path / "x", {"a": Array(first), "b": [Array(second), "c"]}, b"front line\n")
    before = path.read_bytes()
    with path.open("rb") as file:
        file.readline()
        value = loaded(file)
    assert is_mapped(value["a"].data)
    assert ctypes.addressof(ctypes.c_ubyte.from_buffer(value["a"].data)) % layout.ALIGNED_BYTES == 0
    assert value["a"].data == first
    assert value["b"][0].data == second
    assert value["b"][0].data.readonly
    value["a"].data[:4] = b"mine"
    assert path.read_bytes() == before
    path.unlink()
    assert bytes(value["a"].data[:5]) == b"mine" + first[4:5]


@linux
def test_a_thousand_of_them_take_no_descriptor_and_are_given_back(tmp_path: Path) -> None:
    """A process has some thousand descriptors, and a map as many results."""
    path, values = written(tmp_path / "x", Array(bytearray(SIZE))), []
    descriptors, maps = (
        len(list(Path("/proc/self/fd").iterdir())),
        Path("/proc/self/maps").read_text(),
    )
    for _ in range(1000):
        with path.open("rb") as file:
            values.append(loaded(file))
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    assert Path("/proc/self/maps").read_text().count(str(path)) >= 1
    values.clear()
    assert str(path) not in Path("/proc/self/maps").read_text()
    assert str(path) not in maps


@pytest.mark.parametrize(
    "case",
    [
        "elsewhere",
        "no mountinfo",
        "no room",
        "moved by a byte",
        "mostly other",
        "in memory",
        "table",
    ],
)
def test_where_it_cannot_be_had_so_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """From another computer's file system, which may take it away; where the table says what is not so; and so on."""
    value = [Array(bytearray(os.urandom(SIZE))), b"r" * (17 << 20 if case == "mostly other" else 9)]
    path = written(tmp_path / "x", value)
    if case == "elsewhere":
        monkeypatch.setattr(place, "_OWN", frozenset(["nfs4"]))
    elif case == "no mountinfo":
        monkeypatch.setattr(place, "_is_own", lambda _: False)
    elif case == "no room":
        monkeypatch.setattr(place, "_mapped", lambda *_: None)
    elif case == "moved by a byte":
        path.write_bytes(b"\n" + path.read_bytes())
    elif case == "table":
        path.write_bytes(path.read_bytes().replace(pickle.BYTEARRAY8, pickle.BINBYTES8, 1))
    with path.open("rb") as opened:
        file: BinaryIO = io.BytesIO(opened.read()) if case == "in memory" else opened
        file.seek(1 if case == "moved by a byte" else 0)
        if case == "table":
            assert bytes(loaded(file)[0].data) == value[0].data
            return
        assert in_place(file) == (file, [])
        assert [getattr(each, "data", each) for each in loaded(file)] == [value[0].data, value[1]]


@pytest.mark.parametrize("spoil", ["count", "start", "size"])
def test_a_table_that_does_not_fit_is_not_followed(tmp_path: Path, spoil: str) -> None:
    """Whoever made it: the pickle by itself says all."""
    data = bytearray(os.urandom(SIZE))
    file = bytearray(laid_out(Array(data)))
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
        assert loaded(opened).data == data
