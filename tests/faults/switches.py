"""The product's safety rules, each of which can be switched off to see whether the crash matrix would notice.

Nothing in the product knows of this: modules are changed as they are imported, here and in child processes.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.faults.trial import Trial

VARIABLE = "FAULTS_WITHOUT"
_ROOT = Path(__file__).parents[2]
_FOLDER = Path(__file__).parent / "without"

Change = Callable[[Any], None]


@dataclass(frozen=True)
class Switch:
    """One rule.

    Attributes:
        family: that has to notice.
        protects: what has to be wrong with a trial for that: a pattern in what was found.
        changes: what becomes of which module.
        under: a pattern in the faults of such a trial, where the rule is there for one of them.
    """

    family: str
    protects: str
    changes: dict[str, Change]
    under: str = ""

    def is_missed_in(self, trial: Trial) -> bool:
        """Whether a trial failed for want of this rule, and not for any other reason."""
        found, faults = "; ".join(trial.wrong), "; ".join(trial.faults)
        return bool(re.search(self.protects, found) and re.search(self.under, faults))


def _shared_group(module: Any) -> None:
    """Children in the caller's own process group, as `subprocess` has them."""

    class _Subprocess:
        def __getattr__(self, name: str) -> Any:
            return getattr(subprocess, name)

        def Popen(self, *arguments: Any, **options: Any) -> Any:  # the name of what it stands for
            return subprocess.Popen(*arguments, **{**options, "start_new_session": False})

    module.subprocess = _Subprocess()


def _unsynced(module: Any) -> None:
    """What is written stays in the computer's memory."""

    class _Os:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def fsync(self, _descriptor: int) -> None:
            """Nothing."""

    module.os = _Os()


def _nothing_adopted(module: Any) -> None:
    """A launch whose answer was lost is not looked for."""

    def lost(self: Any, _creation: Any, reason: str) -> str:
        raise module.MaybeCreated("making", "dayfly/maybe-created", reason)

    module.Once._look_for = lost


def _nothing_listed(module: Any) -> None:
    """What carries the run's tag and is not on record is left alone."""
    module.Absence._listed = lambda self: []


def _nothing_proved(module: Any) -> None:
    """The engine's word is enough."""
    module.Absence.prove = lambda self, traces: 0


def _open_fence(module: Any) -> None:
    """Whoever was about to create something goes on."""
    module.check = lambda *_, **__: None
    module.is_shut = lambda _: False
    module.is_passed = lambda *_, **__: True


def _only_machines_listed(module: Any) -> None:
    """What carries the run's tag and is no machine is overlooked: keys, firewalls, networks, groups, disks."""
    whole = module.Absence._listed
    module.Absence._listed = lambda self: [each for each in whole(self) if each.kind == "instance"]


# What is there when all is over, or was said to be gone and was there.
_LEFT = r"(^|[;:] )(instance|ssh_key|ruleset) \S+"
SWITCHES: dict[str, Switch] = {
    # A signal for the client ends its engine as well, in the midst of what that creates and writes down.
    "isolation": Switch(
        "signals",
        r"leaked: |outlived the client|is still open|(^|; )(lock|pending|stack) ",
        {"dayfly.stacks.isolated": _shared_group},
    ),
    "fsync": Switch(
        "sequences",
        _LEFT,
        {"dayfly.stacks.journal": _unsynced, "dayfly.infra.creations": _unsynced},
        under="power cut",
    ),
    "adoption": Switch(
        "sequences",
        _LEFT,
        {
            "dayfly.infra.lambda_once": _nothing_adopted,
            "dayfly.stacks.absence": _nothing_listed,
        },
    ),
    "proof": Switch(
        "sequences",
        rf"{_LEFT}|was called gone and is alive",
        {"dayfly.stacks.absence": _nothing_proved},
    ),
    "fence": Switch("sequences", _LEFT, {"dayfly.infra.fence": _open_fence}),
    # At a vendor's there is no record of what was asked for beside the engine's: a listing alone tells.
    "listing": Switch("clouds", "leaked: ", {"dayfly.stacks.absence": _nothing_listed}),
    "listing of all kinds": Switch(
        "clouds", "leaked: ", {"dayfly.stacks.absence": _only_machines_listed}
    ),
}


def environment(name: str) -> dict[str, str]:
    """Variables under which this process's children do without the rule."""
    return {VARIABLE: name, "PYTHONPATH": os.pathsep.join([str(_FOLDER), str(_ROOT)])}


def apply(name: str) -> None:
    """Switches the rule off in this process."""
    for module, change in SWITCHES[name].changes.items():
        change(importlib.import_module(module))


def apply_on_import(name: str) -> None:
    """Switches the rule off as soon as its modules are imported, and for the engine's processes too."""
    changes = {**SWITCHES[name].changes, "dayfly.stacks.workspace": _handed_on}
    sys.meta_path.insert(0, _Finder(changes))


def _handed_on(module: Any) -> None:
    """The engine gets a minimal environment; these two variables with it."""
    minimal = module.Workspace.environment

    def environment(self: Any, *arguments: Any) -> dict[str, str]:
        passed = {name: os.environ[name] for name in (VARIABLE, "PYTHONPATH")}
        return {**minimal(self, *arguments), **passed}

    module.Workspace.environment = environment


class _Finder(importlib.abc.MetaPathFinder):
    """Finds what the others find, and changes it when it has been loaded."""

    def __init__(self, changes: dict[str, Change]) -> None:
        self._changes = changes

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        change = self._changes.get(name)
        spec = next(self._found(name, path), None) if change else None
        if change is None or spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            change(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def _found(
        self, name: str, path: Sequence[str] | None
    ) -> Iterator[importlib.machinery.ModuleSpec]:
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(name, path)):
                yield spec
