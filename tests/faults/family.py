"""Family: one kind of faults; each is a file of `families/`, found by listing."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.faults.place import Place
from tests.faults.trial import Trial

_FOLDER = Path(__file__).parent / "families"


@dataclass(frozen=True)
class Family:
    """One kind of faults.

    Attributes:
        name: that of its file.
        trials: how many a full run takes.
        sample: how many `make test` takes.
        run: takes seeds one by one and gives a trial for each; what all of them share is made before the first seed
            is taken and ended after the last.
        engine: True where it needs the Pulumi CLI.
        jobs: processes that share the trials of a full run.
        small: what a sample runs in its place, where one trial takes minutes, or another's part would be made in vain.
        cells: seeds so far apart try the same thing, with other chances: as many things there are to try, or a multiple.
    """

    name: str
    trials: int
    sample: int
    run: Callable[[Place, Iterator[int]], Iterator[Trial]]
    engine: bool = True
    jobs: int = 2
    small: Callable[[Place, Iterator[int]], Iterator[Trial]] | None = None
    # A multiple of every number up to 10, and of 14, 40, 64 and 576.
    cells: int = 20_160

    @property
    def as_sample(self) -> Family:
        """What `make test` takes of it."""
        return replace(self, trials=self.sample, run=self.small or self.run)


def names() -> list[str]:
    """Every family there is."""
    return sorted(file.stem for file in _FOLDER.glob("*.py") if not file.stem.startswith("_"))


def load(name: str) -> Family:
    """The FAMILY of a file."""
    family: Family = importlib.import_module(f"tests.faults.families.{name}").FAMILY
    assert family.name == name
    return family
