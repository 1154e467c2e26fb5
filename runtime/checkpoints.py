"""Checkpoints: what a function keeps in DAYFLY_CHECKPOINT_DIR, brought here while it runs, and back for its next attempt."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dayfly.errors import DayflyError
from dayfly.runtime.cargo import send
from dayfly.runtime.homecoming import Homecoming
from dayfly.runtime.local_tree import LocalTree
from dayfly.runtime.tree import Entry, printable

if TYPE_CHECKING:
    from dayfly.runtime.session import Session
    from dayfly.runtime.ssh.link import Link

# The most that is lost of a function's work when its machine goes, besides what it had not written yet.
EVERY_S = 15.0
# Looks of one round, while what is written meanwhile is small enough to come again at once.
_LOOKS, _SMALL_BYTES = 3, 64 << 20
# After so many rounds in which it was written to, what is at rest in the folder comes without the rest.
PATIENCE = 4
# What was changed so shortly before is not at rest: whoever writes a folder of files pauses between them.
_REST_NS = 2 * 10**9
_NAMED = 3


class Checkpoints:
    """Those of one job through all of its attempts, in the directory of the first.

    What is here is one state of the folder there, as the machine keeps it still: its names are those of one moment, and no
    file of it was written while it came. Where some file is written in every round, that is so of each thing that stands at
    the top of the folder: one that is being written, a file or all that is in a folder, stays here as it was.

    Args:
        directory: of the first attempt.
    """

    def __init__(self, directory: Path) -> None:
        self.folder = directory / "checkpoints"
        self._coming = directory / "checkpoints.coming"
        self._manifest = directory / "checkpoints.jsonl"
        self._restless_rounds = 0

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
            Whether all of this is what is here now; False where the function was writing meanwhile, or has written nothing.

        Raises:
            DayflyError: the machine cannot be reached.
            OSError: there is no room here.
        """
        return self._sync(session) == ""

    def _sync(self, session: Session) -> str | None:
        """Gives why not all of it is here, as soon as that should be said; "" where it is, None where it may be next time."""
        for _ in range(_LOOKS):
            arriving, moving, now_ns = self._bring(session)
            if not arriving.entries:
                return None
            if moving is not None and not moving:
                self._restless_rounds = 0
                self._take(arriving, set())
                return ""
            sizes = [e.size for e in arriving.entries if moving is not None and e.path in moving]
            if sum(sizes) > _SMALL_BYTES:
                break
        self._restless_rounds += 1
        if self._restless_rounds < PATIENCE:
            return None
        if moving is None:
            return "files in their folder are made, renamed or deleted whenever it is looked at"
        held = _held(arriving.entries, moving, now_ns - _REST_NS)
        self._take(arriving, held)
        names = ", ".join(printable(name) for name in sorted(held)[:_NAMED])
        more = f" and {len(held) - _NAMED} more" if len(held) > _NAMED else ""
        return (
            f"{names}{more}, written to whenever it is looked at, stays as it was here; write a file aside and rename it, and"
            " keep what always grows in DAYFLY_OUTPUT_DIR"
        )

    def _bring(self, session: Session) -> tuple[Homecoming, set[str] | None, int]:
        """Brings what has changed, and tells which files there have been written to meanwhile, and the time there before."""
        told: dict[str, Any] = {}

        def stand_still(link: Link, heard: Callable[[], None]) -> None:
            told.update(link.ask({"op": "snapshot", "of": "checkpoints", "drop": False}))
            heard()

        def go_on(link: Link, heard: Callable[[], None]) -> None:
            link.ask({"op": "snapshot", "of": "checkpoints", "drop": True})
            heard()

        session.transfer(stand_still)
        of = "checkpoints.taken" if told["taken"] else "checkpoints"
        arriving = Homecoming(self._coming, self._manifest, of=of)
        arriving.run(session)
        moving = arriving.moved(session)
        # Where this is not reached, the next round takes up what stands there.
        session.transfer(go_on)
        return arriving, moving, int(told["now_ns"])

    def _take(self, arriving: Homecoming, held: set[str]) -> None:
        """Puts this state in the place of the former; at each moment one of them is here.

        Args:
            arriving: what has come.
            held: what at the top of the folder is taken over from the former state.
        """
        fresh, former = self._beside("fresh"), self._beside("former")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        entries = [
            entry
            for entry in arriving.entries
            if entry.path not in arriving.left_out and _top(entry.path) not in held
        ]
        for name in held:
            _lay_all(self.folder / name, fresh / name)
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
            report: told once why they do not come, and once why not all of them.
            wanted: whether there may be another attempt, asked at the end.
        """
        over, told = threading.Event(), set[str]()

        def tell_once(kind: str, words: str) -> None:
            if kind not in told:
                told.add(kind)
                report(words)

        def attempt() -> None:
            try:
                why = self._sync(session)
            except (DayflyError, OSError) as trouble:
                tell_once("trouble", f"the function's checkpoints do not come home: {trouble}")
            else:
                if why:
                    tell_once("restless", f"the function's checkpoints do not all come home: {why}")

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


def _top(path: str) -> str:
    return path.partition("/")[0]


def _held(entries: Sequence[Entry], moving: set[str], rested_ns: int) -> set[str]:
    """What at the top of the folder is in change, or leads to what is.

    Args:
        entries: all that is in the folder.
        moving: files that were written to while they came.
        rested_ns: what was changed after this is in change, too.
    """
    tops = {_top(path) for path in moving}
    tops |= {_top(e.path) for e in entries if e.kind == "file" and e.modified_ns > rested_ns}
    for entry in entries:
        if entry.kind == "link":
            leads_to = os.path.normpath(Path(entry.path).parent / entry.target)
            if _top(leads_to) in tops:
                tops.add(_top(entry.path))
    return tops


def _lay_all(source: Path, place: Path) -> None:
    """The same for a folder; nothing where nothing is."""
    if source.is_symlink():
        place.symlink_to(source.readlink())
    elif source.is_dir():
        shutil.copytree(source, place, symlinks=True, copy_function=_lay)
    elif source.exists():
        _lay(source, place)


def _lay(source: str | Path, place: str | Path) -> None:
    """Gives a file a second name, which costs no room; some file systems have none, and get a copy."""
    try:
        Path(place).hardlink_to(source)
    except OSError:
        shutil.copy2(source, place)
