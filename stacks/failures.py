"""Why a stack did not come up, from what its program and its provider have left on record."""

from __future__ import annotations

from pathlib import Path

from dayfly.errors import ProvisionFailed
from dayfly.infra import creations, providers
from dayfly.stacks import journal


def of_program(directory: Path, code: int, provider: str) -> ProvisionFailed:
    """The failure of a program that has ended without a machine."""
    history = journal.read(directory)
    failed = history.last("up_failed")
    if failed:
        return ProvisionFailed(
            f"the stack did not come up: {failed.fields['message']}", failed.fields["kind"]
        )
    said = (directory / f"{journal.PROGRAM_LOG}.err").read_text(errors="replace").strip()[-1500:]
    if code == 0:
        return ProvisionFailed(f"{provider} exported no machine for run {history.id}")
    return ProvisionFailed(f"the program of run {history.id} ended with {code}: {said}")


def of_capacity(directory: Path, provider: str) -> ProvisionFailed | None:
    """A refusal for want of capacity, which is on record a second before the engine has ended over it."""
    asked = providers.load(provider)
    if not asked.keeps_creations:
        return None
    for creation in creations.read(directory):
        if creation.outcome == "refused" and asked.failure(creation.why) == "capacity":
            return ProvisionFailed(creation.why, "capacity")
    return None
