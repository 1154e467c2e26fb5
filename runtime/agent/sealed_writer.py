"""A sealed payload that is written as it comes."""

from __future__ import annotations

import os

from .digests import new_sha256
from .files import sync_folder
from .frames import HEADER_BYTES, header_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class SealedWriter:
    """A file that becomes one frame: the header goes in front when all is written, the name appears last."""

    # More than that is digested while it is written, by a thread for it.
    BESIDE_BYTES = 4 << 20

    def __init__(
        self, path: str, key: bytes, run_id: str, seq: int, *, durable: bool = True
    ) -> None:
        """Where it is `durable`, it is on the disk when its name appears: it may be needed when the machine has been off."""
        self._path, self._key, self._run_id, self._seq = path, key, run_id, seq
        self._durable = durable
        self._digest, self._length = new_sha256(), 0
        descriptor = os.open(path + ".tmp", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        self._file = os.fdopen(descriptor, "wb")
        self._file.write(bytes(HEADER_BYTES))

    def write(self, data: Any) -> int:
        # A pickler hands large buffers over as they are; one of several dimensions has another length than its bytes.
        view = data.raw() if hasattr(data, "raw") else memoryview(data).cast("B")
        self._length += len(view)
        if len(view) > self.BESIDE_BYTES:
            return self._write_large(view)
        self._digest.update(view)
        return self._file.write(view)

    def _write_large(self, view: memoryview) -> int:
        import threading

        failures = []  # type: list[Exception]

        def digest() -> None:
            try:
                self._digest.update(view)
            except Exception as error:  # noqa: BLE001 - raised below
                failures.append(error)

        beside = threading.Thread(target=digest, daemon=True)
        try:
            beside.start()
        except RuntimeError:
            self._digest.update(view)  # There may be no more threads.
            return self._file.write(view)
        try:
            written = self._file.write(view)
        finally:
            beside.join()
        if failures:
            raise failures[0]
        return written

    def commit(self) -> None:
        digest = self._digest.digest()
        self._file.seek(0)
        self._file.write(header_of(self._key, self._run_id, self._seq, self._length, digest))
        self._file.flush()
        if self._durable:
            os.fsync(self._file.fileno())
        self._file.close()
        os.rename(self._path + ".tmp", self._path)
        if self._durable:
            sync_folder(os.path.dirname(self._path))

    def discard(self) -> None:
        """Leave nothing of it: what was begun may be what has filled the disk."""
        file: Any = self._file
        for end in (lambda: os.unlink(self._path + ".tmp"), file.close):
            try:
                end()
            except OSError:
                continue  # Gone already; or the disk cannot even take what was held back for it.
