"""Parts that are written to a file behind each other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from dayfly.runtime.agent import files

PARTS: list[bytes | memoryview] = [b"abc", memoryview(b"de"), b"", b"fghi"]


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """An open one, with something in it."""
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.pwrite(descriptor, b"--", 0)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("taken", [None, 0, 1, 3, 4, 9])
def test_all_of_them_are_written_however_much_is_taken_at_once(
    file: int, monkeypatch: pytest.MonkeyPatch, taken: int | None
) -> None:
    """By a system that takes only some of it, and by one that cannot take several."""
    real = os.pwritev

    def some(descriptor: int, parts: Sequence[bytes], offset: int) -> int:
        assert taken is not None
        return real(descriptor, [b"".join(parts)[:taken]], offset)

    if taken is None:
        monkeypatch.delattr(os, "pwritev")
    else:
        monkeypatch.setattr(os, "pwritev", some)
    files.write_parts_at(file, 2, PARTS)
    assert os.pread(file, 99, 0) == b"--abcdefghi"
