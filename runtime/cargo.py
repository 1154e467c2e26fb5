"""Cargo: what the Data of one call brings to its machine, and the paths that come of it."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dayfly.errors import DataFailed, RunFailed
from dayfly.infra.units import human_bytes
from dayfly.runtime.data import BACKENDS, Data
from dayfly.runtime.local_tree import Blob, LocalTree
from dayfly.runtime.tree import printable

if TYPE_CHECKING:
    from dayfly.runtime.environment import Recipe
    from dayfly.runtime.session import Session
    from dayfly.runtime.ssh.link import Link

VARIABLE = "DAYFLY_DATA"
_LARGE_BYTES = 10 * 10**9
# A file of more than this size goes alone; smaller ones together, as many as the machine is soon through with.
_ALONE_BYTES, _PACK_BYTES, _PACK_FILES = 256 << 10, 1 << 20, 500
# So many may be unanswered: more than any line has room for, so that it is never empty.
_PACKS_AHEAD = 64
_ASKED = 50_000
_SPARE_BYTES = 256 << 20
_TOLD = 5


class Cargo:
    """Everything that travels for the Data among the arguments of one call.

    Lifecycle: constructing looks at names and sizes, `begin` has contents digested meanwhile, `bring` sends them.
    """

    def __init__(self, items: Mapping[str, Data]) -> None:
        self._items = dict(items)
        self._trees = {k: LocalTree(Path(d.source)) for k, d in items.items() if not d.scheme}

    @property
    def size(self) -> int:
        """Bytes of what lies on this computer."""
        return sum(tree.size for tree in self._trees.values())

    def warnings(self) -> list[str]:
        """What should be said before anything is spent."""
        return [warning for tree in self._trees.values() for warning in warnings_of(tree)]

    def begin(self) -> None:
        """Has the contents digested while a machine comes up."""
        for tree in self._trees.values():
            tree.begin()

    def bring(
        self, session: Session, cache_dir: str, progress: Callable[[int, int], None]
    ) -> dict[str, str]:
        """Sends what the machine has not, and has the folders made there.

        Args:
            session: with the machine.
            cache_dir: its cache.
            progress: told how many bytes of how many are there.

        Returns:
            The variables from which the function's process knows its paths.

        Raises:
            DataFailed: a file has changed meanwhile, or the machine has no room.
        """
        if not self._items:
            return {}
        blobs = {blob.digest: blob for tree in self._trees.values() for blob in tree.blobs()}
        send(session, blobs.values(), progress)
        paths = {}
        for key, tree in self._trees.items():
            listing = session.put(tree.listing())
            paths[key] = session.make_tree(key, listing)
        return {VARIABLE: json.dumps({"store": f"{cache_dir}/urls", "paths": paths})}


def warnings_of(tree: LocalTree) -> list[str]:
    """What takes long to send, and what stays here."""
    said = []
    if tree.size > _LARGE_BYTES:
        said.append(
            f"{tree.source} is {human_bytes(tree.size)}, which this computer's connection has to carry to every new"
            " machine while that is paid for: a URL (s3://, gs://, ...) or file_systems= may be cheaper"
        )
    left = [f"{printable(path)}: {why}" for path, why in sorted(tree.left_out.items())]
    more = f"; and {len(left) - _TOLD} more" if len(left) > _TOLD else ""
    if left:
        said.append(f"left out of Data({str(tree.source)!r}): {'; '.join(left[:_TOLD])}{more}")
    return said


def send(
    session: Session,
    blobs: Iterable[Blob],
    progress: Callable[[int, int], None] = lambda _have, _all: None,
) -> int:
    """Brings contents to the machine, as far as it has not got them.

    Returns:
        How many bytes that were.

    Raises:
        DataFailed: one has changed meanwhile, or the machine has no room.
    """
    sending = _Sending(blobs, progress)
    session.transfer(sending.run)
    return sending.missed or 0


def blobs_of(files: Mapping[str, Path]) -> list[Blob]:
    """Looks at the sizes of files that are given by their digest.

    Raises:
        DataFailed: one is gone.
    """
    blobs = []
    for digest, path in files.items():
        try:
            blobs.append(Blob(digest, path, path.stat().st_size))
        except OSError as error:
            raise DataFailed(f"{path} cannot be read any more: {error}") from error
    return blobs


class _Sending:
    """The contents that the machine has not, from this computer's files, as often as the connection breaks."""

    def __init__(self, blobs: Iterable[Blob], progress: Callable[[int, int], None]) -> None:
        self._waiting = list(blobs)
        self._progress = progress
        self._all = sum(blob.size for blob in self._waiting)
        # Bytes that were not there at first; None before that is known.
        self.missed: int | None = None

    def run(self, link: Link, heard: Callable[[], None]) -> None:
        """Sends them; `heard` is called whenever an answer has come."""
        self._waiting = self._missing(link, heard)
        here = self._all - sum(blob.size for blob in self._waiting)
        small = [blob for blob in self._waiting if blob.size <= _ALONE_BYTES]

        def told(have: int) -> None:
            heard()
            self._progress(here + have, self._all)

        for blob in self._waiting:
            if blob.size > _ALONE_BYTES:
                self._send_alone(link, blob, told)
                here += blob.size
        self._send_packed(link, small, told)

    def _missing(self, link: Link, heard: Callable[[], None]) -> list[Blob]:
        """Which are not there; refuses what the machine has no room for."""
        missing: list[Blob] = []
        there = free = 0
        for start in range(0, len(self._waiting), _ASKED):
            asked = self._waiting[start : start + _ASKED]
            body = json.dumps([[blob.digest, blob.size] for blob in asked]).encode()
            answer = link.ask({"op": "data_have"}, body)
            heard()
            free = int(answer["free"])
            for blob, have in zip(asked, answer["have"], strict=True):
                there += max(0, have)
                if have < blob.size:
                    missing.append(blob)
        needed = sum(blob.size for blob in self._waiting) - there
        self.missed = needed if self.missed is None else self.missed
        if needed > max(0, free - _SPARE_BYTES) and needed:
            raise DataFailed(
                f"the data of this call is {human_bytes(self._all)}, of which {human_bytes(needed)} are to be sent, and the"
                f" machine has {human_bytes(free)} free: ask for more with disk="
            )
        return missing

    @staticmethod
    def _send_alone(link: Link, blob: Blob, told: Callable[[int], None]) -> None:
        from dayfly.runtime.content import Content
        from dayfly.runtime.ssh.link import AgentRefused
        from dayfly.runtime.upload import Upload

        try:
            with Content(blob.path, blob.digest) as content:
                if content.size != blob.size:
                    raise _changed(blob)
                Upload(content).send(link, told)
        except OSError as error:
            raise _unreadable(blob, error) from error
        except RunFailed as error:
            raise _changed(blob) from error
        except AgentRefused as refusal:
            if refusal.kind != "digest":
                raise
            raise _changed(blob) from refusal

    def _send_packed(self, link: Link, blobs: Sequence[Blob], told: Callable[[int], None]) -> None:
        """Many in one frame, and several frames on their way: a round trip for each would take long."""
        from dayfly.runtime.packing import Packing

        answers: deque[tuple[int, Callable[[], dict[str, Any]]]] = deque()
        packing, sent = Packing(link.codec, link.upward), 0

        def await_one() -> None:
            nonlocal sent
            sent += _awaited(answers)
            packing.arrived(sent)
            told(sent)

        for pack in _packs(blobs):
            body = b"".join(_content(blob) for blob in pack)
            head: dict[str, Any] = {
                "op": "data_pack",
                "blobs": [[blob.digest, blob.size] for blob in pack],
            }
            size, packed = len(body), packing.packed(body)
            if packed is not None:
                codec, body = packed
                head |= {"codec": codec, "plain": size}
            answers.append((size, link.send(head, body)))
            while len(answers) >= _PACKS_AHEAD:
                await_one()
        while answers:
            await_one()


def _awaited(answers: deque[tuple[int, Callable[[], dict[str, Any]]]]) -> int:
    size, answer = answers.popleft()
    answer()
    return size


def _packs(blobs: Iterable[Blob]) -> Iterable[list[Blob]]:
    pack: list[Blob] = []
    size = 0
    for blob in blobs:
        if pack and (size + blob.size > _PACK_BYTES or len(pack) == _PACK_FILES):
            yield pack
            pack, size = [], 0
        pack.append(blob)
        size += blob.size
    if pack:
        yield pack


def _content(blob: Blob) -> bytes:
    try:
        # Without a buffer, which would be made for each of thousands.
        with blob.path.open("rb", buffering=0) as file:
            data = file.read()
    except OSError as error:
        raise _unreadable(blob, error) from error
    if hashlib.sha256(data).hexdigest() != blob.digest:
        raise _changed(blob)
    return data


def _changed(blob: Blob) -> DataFailed:
    return DataFailed(f"{blob.path} was changed while it was sent")


def _unreadable(blob: Blob, error: OSError) -> DataFailed:
    return DataFailed(f"{blob.path} cannot be read any more: {error}")


def with_backends(recipe: Recipe, items: Iterable[Data]) -> Recipe:
    """The recipe with what the machine needs to fetch from the URLs; what it lists already is not added."""
    needed = sorted({name for item in items for name in BACKENDS.get(item.scheme, ())})
    return with_needed(recipe, needed, "its data")


def with_needed(recipe: Recipe, needed: Iterable[str], purpose: str) -> Recipe:
    """The recipe with further distributions; what it lists already is not added."""
    import dataclasses
    import re

    from packaging.utils import canonicalize_name

    found = re.findall(r"^([A-Za-z0-9][A-Za-z0-9._-]*)", recipe.requirements, re.M)
    listed = {canonicalize_name(name) for name in found}
    added = [name for name in needed if canonicalize_name(name) not in listed]
    if not added:
        return recipe
    lines = "".join(f"{name}\n" for name in added)
    source = f"{recipe.source} and {', '.join(added)} for {purpose}"
    return dataclasses.replace(recipe, requirements=recipe.requirements + lines, source=source)
