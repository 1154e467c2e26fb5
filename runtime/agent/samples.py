"""Samples of what the machine uses: their lines, and how old ones are thinned."""

from __future__ import annotations

from .json_text import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

SAMPLES = "samples.jsonl"
SAMPLE_EVERY_S = 5.0
# Above the first the file is thinned to the second; the newest, an hour's, are never thinned.
SAMPLES_BYTES_MOST, SAMPLES_BYTES_LEFT, SAMPLES_WHOLE = 768 << 10, 512 << 10, 720
# What the function's caller has asked for: percent, 0 for nothing, and seconds.
IDLE_ORDERS = ("gpu_floor_percent", "gpu_window_s")


def read_samples(data: bytes) -> list[dict[str, Any]]:
    """Give the samples of a file, each number once; a line that a full disk has torn is passed over.

    Each is of the `s` seconds before the time `t`. It has the number `n` and stands for `k` samples, the last of which
    had that number: `k` is a power of two and a file's blocks lie as in a binary tree, so that of two blocks with a
    number in common one holds the other.
    """
    found: list[dict[str, Any]] = []
    for line in data.splitlines():
        try:
            sample = loads(line)
            first = sample["n"] - sample["k"] + 1
        except (ValueError, KeyError, TypeError):
            continue
        while found and found[-1]["n"] >= first:
            found.pop()
        found.append(sample)
    return found


def sample_line(sample: Mapping[str, Any]) -> bytes:
    """Give a sample as its line in a file."""
    from json import dumps

    return dumps(sample, separators=(",", ":")).encode() + b"\n"


def thin_samples(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge the finest of the older neighbours until all fit, so that a long past has one resolution."""
    old, new = samples[:-SAMPLES_WHOLE], samples[-SAMPLES_WHOLE:]
    while sum(len(sample_line(sample)) for sample in old + new) > SAMPLES_BYTES_LEFT:
        pairs = [k for k in map(_block_of_both, old, old[1:]) if k]
        if not pairs:
            break
        old = _merge_blocks(old, min(pairs))
    return old + new


def _block_of_both(one: Mapping[str, Any], other: Mapping[str, Any]) -> int:
    """Give the size of the two blocks where they are the halves of a larger one, else 0."""
    size = int(one["k"])
    halves = (
        other["k"] == size and other["n"] == one["n"] + size and (other["n"] + 1) % (2 * size) == 0
    )
    return size if halves else 0


def _merge_blocks(samples: list[dict[str, Any]], size: int) -> list[dict[str, Any]]:
    merged: list[dict[str, Any]] = []
    for sample in samples:
        if merged and _block_of_both(merged[-1], sample) == size:
            merged[-1] = merge_samples(merged[-1], sample)
        else:
            merged.append(sample)
    return merged


def merge_samples(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Give one sample for two: means of what is a rate, the most of what is a size, the least of what is free."""
    seconds = one["s"] + other["s"]

    def mean(a: float, b: float) -> float:
        return round((a * one["s"] + b * other["s"]) / seconds, 3) if seconds else b

    def mean_known(a: float | None, b: float | None) -> float | None:
        return mean(a, b) if a is not None and b is not None else b if a is None else a

    gpus = one["gpus"] or other["gpus"]
    if len(one["gpus"]) == len(other["gpus"]):
        gpus = [
            [mean_known(a[0], b[0]), max(a[1], b[1]), b[2]]
            for a, b in zip(one["gpus"], other["gpus"])  # noqa: B905 - not in Python 3.8
        ]
    return {
        **other,
        "k": one["k"] + other["k"],
        "s": round(seconds, 3),
        "cpu": mean(one["cpu"], other["cpu"]),
        "busy": mean(one["busy"], other["busy"]),
        **{name: max(one[name], other[name]) for name in ("rss", "processes", "used", "memory")},
        "disk": min(one["disk"], other["disk"]),
        "gpus": gpus,
    }
