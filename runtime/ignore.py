"""Ignore: what of a folder stays on this computer: what `.dayflyignore` names, and what looks like a file of secrets."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dayfly.errors import ConfigurationError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

FILE = ".dayflyignore"
# In gitignore's own syntax, and above the lines of the user's file, which may take one back: `!credentials.py`.
SECRETS = (
    ".env",
    ".env.*",
    "!.env.example",
    "!.env.sample",
    "!.env.template",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "*.jks",
    "*.keystore",
    "*.kdbx",
    "id_rsa*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    "!id_*.pub",
    "credentials*",
    "*_credentials.json",
    "service-account*.json",
    "secrets.py",
    "secrets.json",
    "secrets.toml",
    "secrets.y*ml",
    "secrets.ini",
    ".netrc",
    ".pgpass",
    ".pypirc",
    ".npmrc",
    ".htpasswd",
    ".git-credentials",
    ".aws/",
    ".ssh/",
    ".gnupg/",
    ".kube/",
    ".docker/",
)


@dataclass(frozen=True)
class Ignore:
    """The rules of one folder, by its own `.dayflyignore`; those of folders below it do not count.

    Attributes:
        root: the folder.
        lines: the number and the text of each line of its file.
    """

    root: Path
    lines: tuple[tuple[int, str], ...]

    @classmethod
    def of(cls, root: Path) -> Ignore:
        """Reads a folder's rules; without a file it has those for secrets.

        Raises:
            ConfigurationError: the file cannot be read.
        """
        return cls(root, _lines(root / FILE))

    def reason(self, path: Path, *, folder: bool = False) -> str:
        """Why a path below the root stays here, "" where it may travel."""
        name = path.relative_to(self.root).as_posix() + ("/" if folder else "")
        found = self._rules.check_file(name)
        if not found.include or found.index is None:
            return ""
        if found.index < len(SECRETS):
            return f"it looks like a file of secrets ({SECRETS[found.index]})"
        number, text = self.lines[found.index - len(SECRETS)]
        return f"line {number} of {FILE} ({text}) keeps it here"

    @functools.cached_property
    def _rules(self) -> GitIgnoreSpec:
        return _spec([*SECRETS, *(text for _, text in self.lines)])


@dataclass(frozen=True)
class GitIgnore:
    """What the `.gitignore` of a folder names: no source of the user's, by their own word, but it may be needed."""

    root: Path

    def names(self, path: Path) -> bool:
        """Whether it names a path below the root."""
        return self._rules.match_file(path.relative_to(self.root).as_posix())

    @functools.cached_property
    def _rules(self) -> GitIgnoreSpec:
        return _spec([text for _, text in _lines(self.root / ".gitignore")])


def _spec(lines: Sequence[str]) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec

    return GitIgnoreSpec.from_lines(lines)


def _lines(file: Path) -> tuple[tuple[int, str], ...]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} cannot be read: {error}") from error
    numbered = enumerate(text.splitlines(), 1)
    return tuple((number, line.strip("\r")) for number, line in numbered if line.strip())
