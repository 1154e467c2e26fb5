"""The pickler that came with the job, unpacked once."""

from __future__ import annotations

import os

from .files import remove_tree


def unpack_pickler(archive: str, cache: str) -> str:
    """Unpack the zip of cloudpickle once for each content: from a folder it is compiled only once."""
    folder = os.path.join(cache, "pickler", os.path.basename(archive))
    if not os.path.isdir(folder):
        from zipfile import ZipFile

        aside = f"{folder}.{os.getpid()}.tmp"
        with ZipFile(archive) as content:
            content.extractall(aside)
        try:
            os.rename(aside, folder)
        except OSError:
            remove_tree(aside)  # Another session was first.
    return folder
