"""The list of what a bucket keeps of a folder: the one state that is there."""

from __future__ import annotations

import os
import time

from .checkpoint_folder import stays

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_FORMAT = 1


def state_of(
    run_id: str, entries: list[Any], digests: Mapping[str, str], objects: Mapping[str, str]
) -> dict[str, Any]:
    """Give the list of a folder, as JSON has it.

    Args:
        run_id: the run that writes it.
        entries: what is in the folder.
        digests: that of each file, by its path.
        objects: under which name each content is there, by its digest.
    """
    files = [entry for entry in entries if entry[1] == "file"]
    return {
        "format": _FORMAT,
        "id": os.urandom(8).hex(),
        "run": run_id,
        "time": time.time(),
        "files": [
            [path, objects[digests[path]], digests[path], size, bool(mode & 0o100), modified_ns]
            for path, _, size, mode, modified_ns, _ in files
        ],
        "folders": [[entry[0], entry[4]] for entry in entries if entry[1] == "folder"],
        "links": [[entry[0], entry[5]] for entry in entries if entry[1] == "link"],
    }


def take_over(state: dict[str, Any], former: Mapping[str, Any], held: set[str]) -> None:
    """Add to a list what the former one has of these things at the top of the folder."""
    for kind in ("files", "folders", "links"):
        state[kind] += [entry for entry in former.get(kind, ()) if top_of(entry[0]) in held]


def held_in(entries: list[Any], moving: set[str], rested_ns: int) -> set[str]:
    """Give what at the top of the folder is in change, or leads to what is; nothing where nothing is.

    Args:
        entries: all that is in the folder.
        moving: files that were written to while they were brought.
        rested_ns: where some were, what was changed after this is in change, too.
    """
    tops = {top_of(path) for path in moving}
    if not tops:
        return tops
    tops |= {top_of(e[0]) for e in entries if e[1] == "file" and e[4] > rested_ns}
    for path, kind, _, _, _, target in entries:
        if kind == "link":
            leads_to = os.path.normpath(os.path.join(os.path.dirname(path), target))
            if top_of(leads_to) in tops:
                tops.add(top_of(path))
    return tops


def name_of(entry: list[Any]) -> tuple[str, str, str]:
    """Give what stays the same of an entry while its content changes: path, kind, and where a link leads."""
    return entry[0], entry[1], entry[5]


def top_of(path: str) -> str:
    """Give the thing at the top of the folder to which a path belongs."""
    return path.split("/", 1)[0]


def check_state(told: Any) -> dict[str, Any]:
    """Give a list that somebody else may have written.

    Raises:
        KeyError, TypeError, ValueError: it is not of our making, or would lead out of its folder.
    """
    if told["format"] != _FORMAT:
        raise ValueError(f"its format is {told['format']!r}")
    paths = [path for path, _, _, _, _, _ in told["files"]]
    paths += [path for path, _ in (*told["links"], *told["folders"])]
    for path in paths:
        if {"", ".", ".."} & set(path.split("/")) or "\0" in path:
            raise ValueError(f"{path!r} leads out of its folder")
    times = [entry[5] for entry in told["files"]] + [entry[1] for entry in told["folders"]]
    if any(type(modified_ns) is not int for modified_ns in times):
        raise TypeError("a time in it is none")
    for path, name, digest, size, _, _ in told["files"]:
        if not name or "/" in name or len(digest) != 64 or size < 0:
            raise ValueError(f"{path!r} has no content")
    for path, target in told["links"]:
        if not stays(path, target):
            raise ValueError(f"{path!r} is a link out of its folder")
    return dict(told)
