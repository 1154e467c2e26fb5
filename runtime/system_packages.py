"""Packages of a machine's own package manager, for what no wheel brings: asked for by name, never guessed."""

from __future__ import annotations

from collections.abc import Sequence

from dayfly.errors import SpecError
from dayfly.infra import providers


def check(names: Sequence[str], packages: Sequence[str]) -> None:
    """Refuse to install into a system that is not the run's alone.

    Args:
        names: of the providers.
        packages: what is to be installed.

    Raises:
        SpecError: a provider's machine is this computer.
    """
    here = [name for name in names if providers.load(name).same_computer]
    if packages and here:
        raise SpecError(
            f"system_packages={list(packages)}: a machine of {here[0]!r} is this computer, in whose system Dayfly installs"
            " nothing: install them yourself, and leave system_packages= out for it"
        )
