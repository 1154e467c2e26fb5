"""Records: what campaigns have tried, a line each, written down as it ends, so that a campaign can be taken up again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.trial import Trial

ROOT = Path(__file__).parents[2]
# Beside the code: what is installed with it, and in which versions.
_CODE = ("infra", "stacks", "runtime", "tests", "pyproject.toml", "constraints.txt")


@dataclass(frozen=True)
class Records:
    """The file of all trials; those count that were made with the code as it is now.

    Attributes:
        file: one JSON object a line: the seed of a campaign, a trial, or how long a family took.
        code: digest of product and tests.
    """

    file: Path
    code: str

    @classmethod
    def open(cls, file: Path) -> Records:
        """The records of the code as it is now."""
        file.parent.mkdir(exist_ok=True)
        return cls(file, code_digest())

    @property
    def seed(self) -> int | None:
        """The first trial's of the campaign that is under way with this code; None without one."""
        seeds = [int(line["seed"]) for line in self._lines() if "seed" in line]
        return seeds[-1] if seeds else None

    def begin(self, seed: int) -> None:
        """Writes down that a campaign begins."""
        self._add({"seed": seed})

    def trials(self, family: str) -> list[Trial]:
        """What has been tried of a family with this code."""
        made = [Trial.from_dict(line["trial"]) for line in self._lines() if "trial" in line]
        return [trial for trial in made if trial.family == family]

    def add(self, trial: Trial) -> None:
        """Writes one down."""
        self._add({"trial": trial.as_dict()})

    def took_s(self, family: str) -> float:
        """For how long a family was tried with this code, all that was broken off and taken up again together."""
        own = [line for line in self._lines() if line.get("family") == family]
        return sum((float(line["took_s"]) for line in own), 0.0)

    def add_took(self, family: str, took_s: float) -> None:
        """Writes down that a family was tried for so long."""
        self._add({"family": family, "took_s": round(took_s, 1)})

    def put_aside(self) -> None:
        """Begins anew; what is there is kept under another name: it may be the work of an hour."""
        if self.file.exists():
            stem, suffix = self.file.stem, self.file.suffix
            number = len(list(self.file.parent.glob(f"{stem}.*{suffix}")))
            self.file.rename(self.file.with_name(f"{stem}.{number + 1}{suffix}"))

    def _lines(self) -> list[dict[str, Any]]:
        if not self.file.exists():
            return []
        lines = [json.loads(line) for line in self.file.read_text().splitlines()]
        return [line for line in lines if line["code"] == self.code]

    def _add(self, said: dict[str, Any]) -> None:
        """In one piece: several processes write."""
        line = json.dumps({"code": self.code, **said}) + "\n"
        descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


def code_digest(root: Path = ROOT) -> str:
    """A digest of everything that a trial runs: modules, and the prices, commands and C sources beside them."""
    digest = hashlib.sha256()
    for file in _files(root):
        digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _files(root: Path) -> Iterator[Path]:
    for name in _CODE:
        found = [root / name, *sorted((root / name).rglob("*"))]
        yield from (file for file in found if file.is_file() and "__pycache__" not in file.parts)
