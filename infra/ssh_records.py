"""What this home has put on machines of its user's own: one small file a run, on the disk before its key goes in.

A machine of one's own has no listing that could be asked for all of them, so that this says where to look.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dayfly.errors import DayflyError
from dayfly.infra import fence, home, whole_file
from dayfly.infra.run import is_id

_FOLDER = "ssh-hosts"
# A key whose request was being sent is there within this, or never: the machine refuses it when it comes later than
# `PUT_WITHIN_S` after it has shown that it is there, which is before anything is sent; the rest is for writing it.
LATE_CREATE_S = 10.0
PUT_WITHIN_S = 6.0
# For so long somebody may still ask what has become of one that is gone.
_KEEP_GONE_S = 7 * 86400.0


@dataclass(frozen=True)
class Record:
    """One run's key on one host.

    Attributes:
        run: its id.
        host: as the user wrote it.
        owner: whose it is.
        directory: the run's own folder on this computer, with its key.
        deadline: unix time.
        at: unix time just before the key was sent.
        host_key: the one that is pinned, "" while nobody has logged in.
        gone: unix time at which the host itself has shown that nothing is left, 0 while it has not.
    """

    run: str
    host: str
    owner: str
    directory: str
    deadline: float
    at: float
    host_key: str = ""
    gone: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether nothing more can come to be there: what the host does not show by now, it never will."""
        directory, now = Path(self.directory), time.time()
        if now < self.at + LATE_CREATE_S:
            return False
        if now > self.deadline or not directory.is_dir():
            return True
        return fence.is_shut(directory) and fence.is_passed(directory, 0.0)


def write(record: Record) -> None:
    """Puts it on the disk, and returns when it is there."""
    folder = _folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / f"{record.run}.json"
    whole_file.write(file, json.dumps(asdict(record)))
    for path in (file, folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def of(run: str) -> Record | None:
    """The record of a run, None where there is none.

    Raises:
        DayflyError: it is there and cannot be read: nothing may be concluded from that.
    """
    file = _folder() / f"{run}.json"
    try:
        return Record(**json.loads(file.read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise DayflyError(
            f"{file} cannot be read ({error}): it says on which host run {run} has a key; take that out of its"
            " ~/.ssh/authorized_keys, and then remove the file"
        ) from error


def open_ones() -> list[Record]:
    """Those of runs that may have something on a host.

    Raises:
        DayflyError: one cannot be read.
    """
    names = sorted(file.stem for file in _folder().glob("*.json") if is_id(file.stem))
    return [record for record in map(of, names) if record is not None and not record.gone]


def gone(record: Record) -> None:
    """The host itself has shown that nothing is left of the run; what is older is forgotten."""
    write(replace(record, gone=time.time()))
    for file in _folder().glob("*.json"):
        with contextlib.suppress(DayflyError, OSError):
            old = of(file.stem)
            if old is not None and 0 < old.gone < time.time() - _KEEP_GONE_S:
                file.unlink()


def _folder() -> Path:
    return home.home_path() / _FOLDER
