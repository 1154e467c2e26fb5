"""Context: the settings and the workspace that a call or a command works in."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from dayfly.stacks import engine, settings
from dayfly.stacks.engine import Engine
from dayfly.stacks.settings import Settings
from dayfly.stacks.workspace import Workspace


@dataclass(frozen=True)
class Context:
    """Where this process works.

    Attributes:
        settings: all layers below the arguments.
        workspace: where runs are kept.
    """

    settings: Settings
    workspace: Workspace

    @classmethod
    def open(cls) -> Context:
        """Reads the settings and checks the folders.

        Raises:
            ConfigurationError: a setting or a folder is wrong.
        """
        found = settings.load()
        return cls(found, Workspace.open(found))

    def engine(self, progress: Callable[[str], None] | None = None) -> Engine:
        """The Pulumi CLI; installed or built where there is none.

        Raises:
            EngineMissing: it cannot be had.
        """
        return engine.find() or engine.ensure(
            progress or (lambda text: print(text, file=sys.stderr))
        )

    def engine_or_none(self) -> Engine | None:
        """The Pulumi CLI if there is one: a teardown goes on without."""
        return engine.find()
