"""What peers are given to carry, and which of them are installed here: a row says so where it could not ask one."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

# An array as bytes, which is what they carry; its block is longer than the compressor of a line looks back.
BLOCK_BYTES, BLOCKS = 1_000_000, 100
BYTES = BLOCKS * BLOCK_BYTES


def missing(names: Iterable[str]) -> list[str]:
    """Those of the modules that are not installed."""
    return [name for name in names if find_spec(name) is None]


def advice(name: str) -> str:
    """Why a row that wants this peer is not kept, and what to do about it."""
    return (
        f"not measured against {name}, which is not installed: `make bench` installs it where it has a wheel for this"
        " Python and platform"
    )
