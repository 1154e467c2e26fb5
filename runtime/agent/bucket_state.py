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
