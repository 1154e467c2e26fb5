"""Context: the settings and the workspace that a call or a command works in."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import NamedTuple

from dayfly.errors import ConfigurationError
from dayfly.stacks import engine, settings
from dayfly.stacks.engine import Engine
from dayfly.stacks.settings import Settings
from dayfly.stacks.workspace import Workspace, slug


class Context(NamedTuple):
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

    @classmethod
    def to_end(cls, note: Callable[[str], None]) -> Context:
        """As `open`, for whoever starts nothing: a mistake in a settings file must not keep a machine alive.

        Args:
            note: told each mistake; what it concerns is left out, budgets and policies with it.

        Raises:
            ConfigurationError: a folder is wrong.
        """
        found = settings.load(wrong=lambda text: note(f"left out: {text}"))
        bound = {n: s for n, s in found.values.items() if n not in settings.BUDGETS}
        plain = Settings(bound)
        return cls(plain, Workspace.open(plain))

    def as_owner(self, owner: str | None) -> Context:
        """The same, on behalf of another owner.

        Raises:
            ConfigurationError: no owner can have that name.
        """
        if owner is None:
            return self
        if slug(owner) != owner:
            raise ConfigurationError(
                f"--owner {owner!r}: owners are lower-case letters, digits and hyphens, as `dayfly gc` lists them"
            )
        return self._replace(workspace=dataclasses.replace(self.workspace, owner=owner))

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
