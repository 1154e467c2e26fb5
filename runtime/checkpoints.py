"""Checkpoints: what a function keeps in DAYFLY_CHECKPOINT_DIR, brought here while it runs, and back for its next attempt."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dayfly.errors import DayflyError
from dayfly.runtime.cargo import send
from dayfly.runtime.homecoming import Homecoming
from dayfly.runtime.local_tree import LocalTree

if TYPE_CHECKING:
    from dayfly.runtime.session import Session

# The most that is lost of a function's work when its machine goes, besides what it had not written yet.
EVERY_S = 15.0


class Checkpoints:
    """Those of one job through all of its attempts, in the directory of the first.

    What is here is always one state of the folder there: as it was between two looks, in which nothing had changed.

    Args:
        directory: of the first attempt.
    """

    def __init__(self, directory: Path) -> None:
        self.folder = directory / "checkpoints"
        self._coming = directory / "checkpoints.coming"
        self._manifest = directory / "checkpoints.jsonl"

    def restore(self, session: Session) -> str:
        """Brings what is here to the machine.

        Returns:
            The digest of its list, "" where there is none yet.
        """
        # A swap that was cut short has left the former state beside it.
        former = self._beside("former")
        if not self.folder.exists() and former.exists():
            former.rename(self.folder)
        if not self.folder.exists():
            return ""
        tree = LocalTree(self.folder, whole=True)
        send(session, tree.blobs())
        return session.put(tree.listing())

    def sync(self, session: Session) -> bool:
        """Brings the folder here as it is now, only what has changed.

        Returns:
            Whether this is what is here now; False where the function was writing meanwhile, or has written nothing.

        Raises:
            DayflyError: the machine cannot be reached.
            OSError: there is no room here.
        """
        arriving = Homecoming(self._coming, self._manifest, of="checkpoints")
        arriving.run(session)
        if not arriving.entries or arriving.changed(session):
            return False
        self._take(arriving)
        return True

    def _take(self, arriving: Homecoming) -> None:
        """Puts this state in the place of the former; at each moment one of them is here."""
        fresh, former = self._beside("fresh"), self._beside("former")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        entries = [entry for entry in arriving.entries if entry.path not in arriving.left_out]
        for entry in entries:
            place = fresh / entry.path
            place.parent.mkdir(parents=True, exist_ok=True)
            if entry.kind == "folder":
                place.mkdir(exist_ok=True)
            elif entry.kind == "link":
                place.symlink_to(entry.target)
            else:
                _lay(self._coming / entry.path, place)
        for entry in entries:
            # Now that nothing is put into it any more: that of a file came with it.
            if entry.kind == "folder":
                with contextlib.suppress(OverflowError):
                    os.utime(fresh / entry.path, ns=(entry.modified_ns, entry.modified_ns))
        shutil.rmtree(former, ignore_errors=True)
        if self.folder.exists():
            self.folder.rename(former)
        fresh.rename(self.folder)
        shutil.rmtree(former, ignore_errors=True)
        self._forget({entry.path for entry in arriving.entries})

    def _forget(self, listed: set[str]) -> None:
        """What the function has deleted there takes no room here."""
        for place, _, names in os.walk(self._coming):
            for name in names:
                path = Path(place, name)
                if path.relative_to(self._coming).as_posix() not in listed:
                    path.unlink()

    def _beside(self, name: str) -> Path:
        return self.folder.with_name(f"checkpoints.{name}")

    def discard(self) -> None:
        """The job has its value: nothing will be restored."""
        for folder in (self.folder, self._coming, self._beside("fresh"), self._beside("former")):
            shutil.rmtree(folder, ignore_errors=True)
        self._manifest.unlink(missing_ok=True)

    @contextlib.contextmanager
    def kept(
        self,
        session: Session,
        report: Callable[[str], None],
        wanted: Callable[[], bool] = lambda: True,
    ) -> Iterator[None]:
        """While it lasts they come home by themselves, and once more at its end.

        Args:
            session: with the machine.
            report: told once why they do not come.
            wanted: whether there may be another attempt, asked at the end.
        """
        over, told = threading.Event(), list[str]()

        def attempt() -> None:
            try:
                self.sync(session)
            except (DayflyError, OSError) as trouble:
                if not told:
                    told.append(str(trouble))
                    report(f"the function's checkpoints do not come home: {trouble}")

        def keep() -> None:
            while not over.wait(EVERY_S):
                attempt()

        keeping = threading.Thread(target=keep, name="dayfly-checkpoints", daemon=True)
        keeping.start()
        try:
            yield
        finally:
            over.set()
            keeping.join()
        if wanted():
            attempt()


def _lay(source: Path, place: Path) -> None:
    """Gives a file a second name, which costs no room; some file systems have none, and get a copy."""
    try:
        place.hardlink_to(source)
    except OSError:
        shutil.copy2(source, place)
