"""Own keys: the secrets that Dayfly itself makes for a run, read while they are there, and looked for where they must not be."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import left

# The user's login, the machine's identity, and what frames and results are signed with.
NAMES = ("user_key", "host_key", "hmac_key")
_LOOK_S = 0.1


@dataclass
class OwnKeys:
    """Those of the first run that a home gets from now on.

    Lifecycle: entering starts the look-out, since a closed run has no keys any more; leaving ends it.

    Attributes:
        held: name -> content.
        found: where they, or the passphrase of the state, were at any moment in anything but their own files.
    """

    home: Path
    held: dict[str, bytes] = field(default_factory=dict)
    found: set[str] = field(default_factory=set)
    _end: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> OwnKeys:
        before = left.runs(self.home)
        self._thread = threading.Thread(target=self._work, args=(before,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        assert self._thread is not None
        self._thread.join()

    def _work(self, before: set[str]) -> None:
        while not self._end.wait(_LOOK_S):
            for run in left.runs(self.home) - before:
                for name in set(NAMES) - set(self.held):
                    with contextlib.suppress(OSError):
                        if content := (self.home / "runs" / run / name).read_bytes().strip():
                            self.held[name] = content
                self._look_for_them(run)

    def _look_for_them(self, run: str) -> None:
        secrets = dict(self.held)
        with contextlib.suppress(OSError):
            secrets["passphrase"] = (self.home / "passphrase").read_bytes().strip()
        for folder in ("state/**/*", "pulumi/**/*", f"runs/{run}/*"):
            for file in self.home.glob(folder):
                with contextlib.suppress(OSError):
                    content = file.read_bytes() if file.is_file() else b""
                    for name, secret in secrets.items():
                        if file.name != name and any(form in content for form in _forms(secret)):
                            self.found.add(f"{name} in {file}")


def _forms(secret: bytes) -> tuple[bytes, ...]:
    """As it may be written; of a private key the one line that has what is private of it."""
    line = secret.splitlines()[4] if b"PRIVATE" in secret else secret
    return (line, secret.hex().encode())
