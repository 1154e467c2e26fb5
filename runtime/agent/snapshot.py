"""A folder as it is at one moment, while somebody may be writing into it."""

from __future__ import annotations

import os
import stat

from .files import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    # By path: the device and number of a file, or where a link leads; nothing more of a folder.
    Seen = dict[str, tuple[Any, ...]]


class Snapshot:
    """Second names of all that is in a folder, in another folder beside it: made in no time, whatever the size.

    Its names are those of one moment. A file that was written aside and renamed is whole in it, and stays so when it is
    replaced or deleted in the folder; one that is written in place goes on changing here, too. Pipes, sockets and devices
    are left out.

    Lifecycle: constructing does nothing; `take` may be called again and again, and looks only for what is new; `drop` gives
    the room back that deleted files take for the sake of it.

    Args:
        source: the folder.
        place: where the second names are; on the same file system.
    """

    # A pass costs microseconds for each name: who renames more often than that is never at rest.
    PASSES = 30
    # What is deleted in the folder is not free until `drop`; room for so much more must be there.
    SPARE = 2

    def __init__(self, source: str, place: str) -> None:
        self._source, self._place = source, place

    def take(self) -> bool:
        """Have it show the folder as it is now; tell whether a moment was found at which all its names were there.

        Raises:
            OSError: files of this folder can have no second name, or there is too little room to keep them.
        """
        if not os.path.isdir(self._place):
            # Alone: the folder above it, which is the job's, must not come back by this.
            os.mkdir(self._place, 0o700)
        for _ in range(self.PASSES):
            wanted, here = self._look(self._source), self._look(self._place)
            if wanted == here:
                self._check_room(here)
                self._copy_times(wanted)
                return True
            self._follow(wanted, here)
        return False

    def drop(self) -> None:
        remove_tree(self._place)

    def _look(self, root: str) -> Seen:
        """What is there, a folder before what it holds. What goes meanwhile is seen by the next pass to have gone."""
        seen: Seen = {}
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            try:
                names = os.listdir(os.path.join(root, folder))
            except (FileNotFoundError, NotADirectoryError):
                continue
            for path in (os.path.join(folder, name) for name in names):
                known = self._known(os.path.join(root, path))
                if known is not None:
                    seen[path] = known
                    if not known:
                        waiting.append(path)
        return seen

    @staticmethod
    def _known(place: str) -> tuple[Any, ...] | None:
        try:
            found = os.lstat(place)
            if stat.S_ISDIR(found.st_mode):
                return ()
            if stat.S_ISLNK(found.st_mode):
                return (os.readlink(place),)
        except (FileNotFoundError, NotADirectoryError):
            return None
        # While it has a second name here, no other file can get its number.
        return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None

    def _follow(self, wanted: Seen, here: Seen) -> None:
        """Remove what is there no more or another one by now, and add what is new."""
        for path in reversed(list(here)):
            if wanted.get(path) != here[path]:
                place = os.path.join(self._place, path)
                if here[path]:
                    os.unlink(place)
                else:
                    os.rmdir(place)
        for path, known in wanted.items():
            if here.get(path) != known:
                try:
                    self._add(path, known)
                except (FileNotFoundError, FileExistsError, NotADirectoryError):
                    continue  # It has gone, or become something else: the next pass sees it.

    def _add(self, path: str, known: tuple[Any, ...]) -> None:
        place = os.path.join(self._place, path)
        if not known:
            os.mkdir(place, 0o700)
        elif len(known) == 1:
            os.symlink(known[0], place)
        else:
            os.link(os.path.join(self._source, path), place, follow_symlinks=False)

    def _check_room(self, seen: Seen) -> None:
        held = sum(
            os.lstat(os.path.join(self._place, path)).st_size
            for path, known in seen.items()
            if len(known) == 2
        )
        room = os.statvfs(self._place)
        if room.f_bavail * room.f_frsize < self.SPARE * held:
            raise OSError("there is too little room to keep what is deleted meanwhile")

    def _copy_times(self, seen: Seen) -> None:
        """Folders are new ones here, with the times of those."""
        for path, known in seen.items():
            if not known:
                try:
                    found = os.lstat(os.path.join(self._source, path))
                except (FileNotFoundError, NotADirectoryError):
                    continue
                times = (found.st_atime_ns, found.st_mtime_ns)
                os.utime(os.path.join(self._place, path), ns=times)
