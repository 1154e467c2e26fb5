"""The folder of a bucket that keeps a job's checkpoints: contents behind a list that is written last.

It is used in a process of the environment's Python, where fsspec is: the agent itself never loads it.

    manifest.json    the one state that is there: each path with its object, SHA-256, size, whether it is executable, and its time
    objects/NAME     contents; a name is used once, so that what was cut short is never taken for another one
    claim.json       the run that writes there
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress

from .bucket_state import check_state, held_in, name_of, state_of, take_over, top_of
from .checkpoint_folder import Changing, digest_of
from .credentials import check_credentials
from .files import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .checkpoint_folder import CheckpointFolder

_AT_ONCE = 8
# One that is larger goes alone: file systems hold several parts of it in memory.
_ALONE_BYTES = 64 << 20
_TRIES, _PAUSE_S = 3, 0.5
# After so many rounds in which it was written to, what is at rest in the folder is kept without the rest.
PATIENCE = 4
# What was changed so shortly before is not at rest: whoever writes a folder of files pauses between them.
_REST_NS = 2 * 10**9


class BucketError(Exception):
    """What is in the bucket cannot be used, or is another run's by now; its text is for the user."""


class Bucket:
    """One state of a folder; while another one is on its way the former stays whole.

    Attributes:
        state: the list of it, {} where there is none.
        held: what at the top of the folder was written to in every round, and is there as it was before.
    """

    def __init__(self, url: str, run_id: str) -> None:
        from fsspec.core import url_to_fs

        self._system, root = url_to_fs(url)
        check_credentials(self._system)
        self._root, self._run_id = root.rstrip("/"), run_id
        self.state: dict[str, Any] = {}
        self.held: set[str] = set()
        self._restless_rounds = 0
        # The objects that are there by digest, and the names of all.
        self._objects: dict[str, str] = {}
        self._present: set[str] = set()
        self._saved: list[Any] = []

    # -- what is there

    def load(self) -> None:
        """Read what is there.

        Raises:
            BucketError: it is none of ours.
        """
        self.state = self._manifest()
        self._objects = {digest: name for _, name, digest, _, _, _ in self.state.get("files", ())}
        try:
            found = self._system.find(self._key("objects"))
        except FileNotFoundError:
            found = []
        self._present = {os.path.basename(path) for path in found}

    def claim(self) -> None:
        """Say that this run writes there: another one that does sees it, and stops."""
        self._write("claim.json", {"run": self._run_id, "time": time.time()})

    def _check_claim(self) -> None:
        run = (self._read("claim.json") or {}).get("run")
        if run != self._run_id:
            raise BucketError(f"run {str(run)[:32]} writes there now, and this one no longer does")

    def _manifest(self) -> dict[str, Any]:
        told = self._read("manifest.json")
        try:
            return {} if told is None else check_state(told)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BucketError(f"its manifest.json is none of Dayfly's ({error})") from None

    def _is_as_known(self) -> bool:
        return bool(self._manifest().get("id") == self.state.get("id"))

    def _key(self, *names: str) -> str:
        return "/".join((self._root, *names))

    def _read(self, name: str) -> Any:
        # Some file systems look at what they have listed before they look there.
        self._system.invalidate_cache()
        try:
            data = self._system.cat_file(self._key(name))
        except FileNotFoundError:
            return None
        try:
            return json.loads(data)
        except ValueError:
            raise BucketError(f"its {name} is none of Dayfly's") from None

    def _write(self, name: str, value: Any) -> None:
        self._system.pipe_file(self._key(name), json.dumps(value).encode())

    # -- from there

    def restore(self, folder: str, told: Callable[[int, int], None]) -> tuple[int, int]:
        """Make `folder` as the state that is there; give how many files and bytes that is.

        Args:
            folder: does not exist yet.
            told: how many bytes of how many have come.

        Raises:
            BucketError: a content is not what the list says.
        """
        for left in reversed(range(_TRIES)):
            self.load()
            try:
                return self._bring(folder, told)
            except FileNotFoundError as error:
                # Another run may have replaced that state meanwhile.
                remove_tree(folder)
                if not left:
                    raise BucketError(
                        f"manifest.json lists what is not there any more: {error}"
                    ) from error
                time.sleep(_PAUSE_S)
        raise AssertionError("unreachable")

    def _bring(self, folder: str, told: Callable[[int, int], None]) -> tuple[int, int]:
        os.makedirs(folder, 0o700)
        folders = self.state.get("folders", ())
        for path, _ in folders:
            os.makedirs(os.path.join(folder, path), 0o700, exist_ok=True)
        files = self.state.get("files", ())
        wanted: dict[str, list[Any]] = {}
        for entry in files:
            wanted.setdefault(entry[1], []).append(entry)
        total, have = sum(entry[3] for entry in files), 0
        for size in _each(self._bring_object, [(folder, same) for same in wanted.values()]):
            have += size
            told(have, total)
        # Last: nothing is ever written through one.
        for path, target in self.state.get("links", ()):
            os.symlink(target, _room_for(folder, path))
        for path, modified_ns in folders:
            # Now that nothing is put into it any more.
            _set_time(os.path.join(folder, path), modified_ns)
        return len(files), total

    def _bring_object(self, folder: str, same: list[Any]) -> int:
        """Bring one content to every path that has it."""
        from shutil import copyfile

        path, name, digest, size, _, _ = same[0]
        first = _room_for(folder, path)
        self._system.get_file(self._key("objects", name), first)
        if digest_of(first) != digest:
            raise BucketError(f"{path} is not what manifest.json says: it was changed there")
        for path, _, _, _, executable, modified_ns in same:
            place = _room_for(folder, path)
            if place != first:
                copyfile(first, place)
            os.chmod(place, 0o700 if executable else 0o600)
            _set_time(place, modified_ns)
        return int(size) * len(same)

    # -- to there

    def save(self, folder: CheckpointFolder) -> bool:
        """Bring the folder there as it is, only what has changed; one in which nothing is leaves there what is there.

        Where some file is written to in every round, that is so after some of them of each thing at the top of the folder: what
        is being written stays there as it was, and is in `held`.

        Returns:
            Whether nothing is left to bring; False where it is being written.

        Raises:
            BucketError: another run writes there.
        """
        seen = folder.entries()
        if not seen or seen == self._saved:
            return True
        self._check_claim()
        if not self._is_as_known():
            self.load()
        with folder.standing_still():
            return self._save(folder)

    def _save(self, folder: CheckpointFolder) -> bool:
        now, began_ns = folder.entries(), time.time_ns()
        digests, moving = self._brought(folder, now)
        later = folder.entries()
        if not now or [name_of(entry) for entry in later] != [name_of(entry) for entry in now]:
            return False
        moving |= {e[0] for e, after in zip(now, later) if e != after}  # noqa: B905 - 3.8 has no strict
        self._restless_rounds = self._restless_rounds + 1 if moving else 0
        if 0 < self._restless_rounds < PATIENCE:
            return False
        self._check_claim()
        # What is counted on may have gone with the state that it was of.
        if not self._is_as_known():
            return False
        self.held = held_in(now, moving, began_ns - _REST_NS)
        kept = [entry for entry in now if top_of(entry[0]) not in self.held]
        if not kept:
            return False
        state = state_of(self._run_id, kept, digests, self._objects)
        take_over(state, self.state, self.held)
        self._write("manifest.json", state)
        self.state, self._saved = state, [] if self.held else now
        self._objects = {digest: name for _, name, digest, _, _, _ in state["files"]}
        self._sweep()
        return not self.held

    def _brought(self, folder: CheckpointFolder, now: list[Any]) -> tuple[dict[str, str], set[str]]:
        """Bring the contents that are not there; give the digests, and which files were written to meanwhile."""
        digests: dict[str, str] = {}
        moving: set[str] = set()
        for entry in now:
            if entry[1] == "file":
                try:
                    digests[entry[0]] = folder.digest(entry)
                except Changing:
                    moving.add(entry[0])
        # Of paths with the same content one will do.
        sizes = {entry[0]: entry[2] for entry in now}
        missing = {d: path for path, d in digests.items() if d not in self._objects}
        small = [(folder, p, d) for d, p in missing.items() if sizes[p] <= _ALONE_BYTES]
        large = [(folder, p, d) for d, p in missing.items() if sizes[p] > _ALONE_BYTES]
        for _ in _each(self._put, small):
            pass
        for one in large:
            self._put(*one)
        moving |= {path for path, digest in digests.items() if digest not in self._objects}
        return digests, moving

    def _put(self, folder: CheckpointFolder, path: str, digest: str) -> None:
        """Bring one content; what turns out to be another one by now is not taken for it."""
        name = f"{digest[:32]}-{os.urandom(4).hex()}"
        self._present.add(name)
        try:
            self._system.put_file(folder.place(path), self._key("objects", name))
            # What was read twice with the same digest was the same in between.
            if folder.digest_now(path) == digest:
                # Kept also where it gets into no list this time: it need not come again.
                self._objects[digest] = name
        except Changing:
            return
        except FileNotFoundError:
            if os.path.lexists(folder.place(path)):
                raise

    def _sweep(self) -> None:
        """Throw away what the state that is there does not name: of former ones, and of tries that were cut short."""
        unused = self._present - {entry[1] for entry in self.state["files"]}
        for name in _each(self._remove, [(name,) for name in unused]):
            self._present.discard(name)

    def _remove(self, name: str) -> str:
        # It may never have come, or somebody else has removed it.
        with suppress(FileNotFoundError):
            self._system.rm_file(self._key("objects", name))
        return name


def _each(act: Callable[..., Any], given: Iterable[tuple[Any, ...]]) -> Iterable[Any]:
    """Do it for each, several at once; what one raises is raised."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield from pool.map(lambda arguments: act(*arguments), given)


def _room_for(folder: str, path: str) -> str:
    place = os.path.join(folder, path)
    os.makedirs(os.path.dirname(place), 0o700, exist_ok=True)
    return place


def _set_time(place: str, modified_ns: int) -> None:
    # Some file systems have no such year.
    with suppress(OSError, OverflowError):
        os.utime(place, ns=(modified_ns, modified_ns))
