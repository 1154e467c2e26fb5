"""Homecoming: a folder of a machine comes to this computer, through dropped connections, and as little trusted as the machine."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
from collections import Counter, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dayfly.errors import Forged
from dayfly.infra.units import human_bytes
from dayfly.runtime.arriving import Arriving
from dayfly.runtime.manifest import Manifest, size_of
from dayfly.runtime.tree import Entry, printable

if TYPE_CHECKING:
    from dayfly.runtime.session import Session
    from dayfly.runtime.ssh.link import Link

_ENTRIES_MOST = 1_000_000
_BATCH = 1000
# For the journal and the logs of whatever else runs here.
_SPARE_BYTES = 256 << 20
# What this file system cannot hold under that name; anything else that goes wrong here is trouble.
_UNFIT = {errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.ENOTDIR, errno.EISDIR}
_NAMED = 20
_VARIABLES = {"outputs": "DAYFLY_OUTPUT_DIR", "checkpoints": "DAYFLY_CHECKPOINT_DIR"}


class Homecoming:
    """Brings the outputs of one run into `folder`, where each file appears when it is whole.

    It goes on where it was, or another process has been: what is here is in the manifest, by its size and its time.

    Args:
        folder: where to.
        of: which folder of the job, "outputs" or "checkpoints"; with ".taken" behind, as the machine has it stand still.
        manifest: takes one line of JSON for each file: path, size, sha256, modified_ns.
        progress: told how many bytes of how many are here.
        aborted: asked now and then; raises to end it.

    Attributes:
        entries: what is there and may be made here, as it was listed.
        left_out: why something is not brought, by path.
        complete: True when all is here but what is left out.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Path,
        *,
        of: str = "outputs",
        progress: Callable[[int, int], None] = lambda _have, _all: None,
        aborted: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self._manifest = folder, Manifest(manifest)
        self._progress, self._aborted, self._of = progress, aborted, of
        self._what = of.partition(".")[0]
        self.left_out: dict[str, str] = {}
        self.entries: list[Entry] = []
        self._pending: deque[Entry] = deque()
        self._again: set[str] = set()
        self._spellings: dict[str, str] = {}
        self._total = self._here = 0
        self.complete = False

    @property
    def empty(self) -> bool:
        """True where the function has left nothing at all, as far as is known."""
        return not self.entries and not self.left_out

    def run(self, session: Session) -> None:
        """Brings all of it, through every dropped connection.

        Raises:
            OSError: this computer has no room for it, or cannot write it.
            Forged: the machine sends what it was not asked for.
            InstanceLost: the machine is out of reach for good.
        """
        session.transfer(self._list)
        self._look_at_disk()
        session.transfer(self._fetch)
        if self.entries:
            self._finish()
        self.complete = True

    # -- the list

    def _list(self, link: Link, heard: Callable[[], None]) -> None:
        self._sort(self._listed(link, heard))

    def moved(self, session: Session) -> set[str] | None:
        """Which files there are others than when they were listed; None where there are other names."""
        now: list[Entry] = []

        def look(link: Link, heard: Callable[[], None]) -> None:
            now[:] = self._listed(link, heard)

        session.transfer(look)
        found = [entry for entry in now if not entry.refusal]
        if [_name_of(entry) for entry in found] != [_name_of(entry) for entry in self.entries]:
            return None
        pairs = zip(self.entries, found, strict=True)
        return {entry.path for entry, later in pairs if entry.kind == "file" and entry != later}

    def _listed(self, link: Link, heard: Callable[[], None]) -> list[Entry]:
        entries: list[Entry] = []
        for _, data in link.stream({"op": "outputs", "of": self._of}):
            heard()
            entries += [Entry.of(told) for told in _lines(data)]
            if len(entries) > _ENTRIES_MOST:
                raise OSError(
                    errno.EFBIG,
                    f"the function has left more than {_ENTRIES_MOST:,} files and folders in its folder for {self._what}: pack"
                    " them into an archive there",
                )
        return entries

    def _sort(self, entries: list[Entry]) -> None:
        """What may be made here, and which files are still to come."""
        self.left_out = {entry.path: entry.refusal for entry in entries if entry.refusal}
        self.entries = [entry for entry in entries if not entry.refusal]
        self._make_way()
        wanted = [e for e in self.entries if e.kind == "file"]
        self._manifest.recall(self.folder, wanted)
        here = self._manifest.lines
        self._pending = deque(entry for entry in wanted if entry.path not in here)
        self._total = sum(entry.size for entry in wanted)
        self._here = self._manifest.size
        self._spellings = {entry.spelling: entry.path for entry in wanted if entry.path in here}

    def _make_way(self) -> None:
        """Removes what was brought before, and has become something else there: a file, a folder, or a link.

        A file must not be written through a link that was a link only until now, and a link not be taken for a folder.
        """
        spellings = Counter(entry.spelling for entry in self.entries)
        for entry in self.entries:
            place = self.folder / entry.path
            kind = _kind_of(place)
            # Of two names that are one on this computer the other one may stand there.
            if kind in ("", entry.kind) or spellings[entry.spelling] > 1:
                continue
            if kind == "folder":
                shutil.rmtree(place)
            else:
                place.unlink()

    def _look_at_disk(self) -> None:
        """Refuses what has no room here, before any of it comes."""
        if not self.entries:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = sum(entry.size - (size_of(self._part(entry)) or 0) for entry in self._pending)
        free = shutil.disk_usage(self.folder).free - _SPARE_BYTES
        if missing > max(free, 0) and missing:
            variable = _VARIABLES[self._what]
            raise OSError(
                errno.ENOSPC,
                f"what the function has left in {variable} is {human_bytes(self._total)}, of which"
                f" {human_bytes(missing)} are to come, and {human_bytes(max(free, 0))} can be had at {self.folder}:"
                " free some space there",
            )

    # -- the files

    def _part(self, entry: Entry) -> Path:
        mark = f"{entry.path}\0{entry.size}\0{entry.modified_ns}".encode(errors="surrogateescape")
        name = f".{self.folder.name}-{hashlib.sha256(mark).hexdigest()[:16]}.part"
        return self.folder.parent / name

    def _fetch(self, link: Link, heard: Callable[[], None]) -> None:
        while self._pending:
            batch = [self._pending[n] for n in range(min(_BATCH, len(self._pending)))]
            self._fetch_batch(link, batch, heard)

    def _fetch_batch(self, link: Link, batch: list[Entry], heard: Callable[[], None]) -> None:
        asked = [[e.path, min(size_of(self._part(e)) or 0, e.size), e.size] for e in batch]
        arriving: Arriving | None = None
        awaited = deque(batch)
        try:
            for answer, data in link.stream(
                {"op": "files", "of": self._of}, json.dumps(asked).encode()
            ):
                heard()
                self._aborted()
                if "file" not in answer:
                    continue
                if not awaited or answer["file"] != len(batch) - len(awaited):
                    raise Forged(f"file {answer['file']!r:.20} comes, which was not asked for")
                if arriving is None:
                    arriving = Arriving(awaited[0], self._part(awaited[0]))
                    arriving.open()
                if self._take(arriving, answer, data):
                    awaited.popleft()
                    arriving = None
        finally:
            if arriving is not None:
                arriving.close()
        if awaited:
            raise Forged(f"{len(awaited)} files that were asked for did not come")

    def _take(self, arriving: Arriving, answer: Mapping[str, Any], data: bytes) -> bool:
        """Takes one message about a file; tells whether it was the last about it."""
        if "why" in answer:
            arriving.close()
            self._unreadable(arriving.entry, str(answer["why"]))
            return True
        arriving.take(int(answer["offset"]), data)
        self._progress(self._here + arriving.size, self._total)
        if "digest" not in answer:
            return False
        arriving.close()
        self._arrived(arriving, str(answer["digest"]))
        return True

    def _unreadable(self, entry: Entry, why: str) -> None:
        self._pending.popleft()
        part = self._part(entry)
        if size_of(part) and entry.path not in self._again:
            # It is not what it was when its beginning came.
            self._again.add(entry.path)
            self._pending.append(entry)
        else:
            self.left_out[entry.path] = f"it could not be read there: {printable(why)}"
        part.unlink(missing_ok=True)

    def _arrived(self, arriving: Arriving, digest: str) -> None:
        entry, own = arriving.entry, arriving.digest.hexdigest()
        if own != digest:
            return self._unreadable(entry, "its content changed on the way")
        self._pending.popleft()
        other = self._spellings.get(entry.spelling, entry.path)
        target = self.folder / entry.path
        if other != entry.path and os.path.lexists(target):
            self.left_out[entry.path] = f"this computer takes its name for {printable(other)}"
            return arriving.part.unlink()
        try:
            self._place(arriving.part, entry, target)
        except OSError as error:
            if error.errno not in _UNFIT:
                raise
            self.left_out[entry.path] = f"it cannot be made on this computer: {error.strerror}"
            return arriving.part.unlink(missing_ok=True)
        self._spellings[entry.spelling] = entry.path
        self._here += arriving.size
        return self._manifest.note(entry, arriving.size, own)

    @staticmethod
    def _place(part: Path, entry: Entry, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if entry.mode & 0o100:
            mode = part.stat().st_mode & 0o777
            part.chmod(mode | (mode & 0o444) >> 2)
        with contextlib.suppress(OverflowError):
            os.utime(part, ns=(entry.modified_ns, entry.modified_ns))
        part.replace(target)

    # -- the rest

    def _finish(self) -> None:
        """Folders that hold no file, and links, which come last: nothing is ever written through one."""
        for entry in self.entries:
            place = self.folder / entry.path
            try:
                if entry.kind == "folder":
                    place.mkdir(parents=True, exist_ok=True)
                elif entry.kind == "link":
                    self._link(place, entry.target)
            except OSError as error:
                if error.errno not in {*_UNFIT, errno.EEXIST, errno.EPERM}:
                    raise
                self.left_out[entry.path] = f"it cannot be made on this computer: {error.strerror}"
        for part in self.folder.parent.glob(f".{self.folder.name}-*.part"):
            part.unlink(missing_ok=True)
        # The machine forgets them now: they must be on the disk, and one by one would take long.
        os.sync()

    @staticmethod
    def _link(place: Path, target: str) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_symlink():
            place.unlink()
        place.symlink_to(target)

    def summary(self) -> dict[str, Any]:
        """What the journal keeps: plain JSON values; at most so many files are named."""
        left = [f"{printable(path)}: {why}" for path, why in sorted(self.left_out.items())]
        return {
            "complete": self.complete,
            "folder": str(self.folder),
            **self._manifest.summary(),
            "expected": len(self._manifest.lines) + len(self._pending),
            "left_out": left[:_NAMED],
            "left_out_count": len(left),
        }


def _name_of(entry: Entry) -> tuple[str, str, str]:
    return entry.path, entry.kind, entry.target


def _kind_of(place: Path) -> str:
    """What stands there, in a machine's words; "" where nothing does, or nothing can."""
    try:
        mode = place.lstat().st_mode
    except OSError:
        return ""
    return "link" if stat.S_ISLNK(mode) else "folder" if stat.S_ISDIR(mode) else "file"


def _lines(data: bytes) -> list[Any]:
    if not data:
        return []
    try:
        told = json.loads(data)
    except ValueError:
        told = None
    if not isinstance(told, list):
        raise Forged("the machine's list of outputs is no list")
    return told
