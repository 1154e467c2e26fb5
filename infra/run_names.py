"""Names of what carries no tags at its provider, as keys and networks: each says whose it is, of which run, and until when."""

from __future__ import annotations

import hashlib
import re

from dayfly.infra.run import Run

_PATTERN = r"^dayfly-(?P<run>[0-9a-f]{32})-(?P<owner>[0-9a-f]{8})-(?P<deadline>\d+)(?:-[a-z]+)?$"


def of(run: Run) -> str:
    """The name of all that a run has of that kind."""
    return f"dayfly-{run.id}-{owner_digest(run.owner)}-{int(run.deadline)}"


def owner_digest(owner: str) -> str:
    """By which an owner is known in a name."""
    return hashlib.sha256(owner.encode()).hexdigest()[:8]


def run_in(name: str) -> str:
    """Which run's a thing is by its name; empty where it is nobody's of ours."""
    found = re.match(_PATTERN, name)
    return found["run"] if found else ""


def tags_in(name: str, remark: str, owner: str | None) -> dict[str, str]:
    """What a name and its remark tell of a run, as tags; empty where it is nobody's of ours, or another owner's.

    Args:
        name: of the thing.
        remark: its description, or what stands behind a key.
        owner: whose; None for anybody's.
    """
    found = re.match(_PATTERN, name)
    if not found or (owner is not None and found["owner"] != owner_digest(owner)):
        return {}
    return {
        "dayfly-run": found["run"],
        "dayfly-owner": owner or owner_in(remark, found),
        "dayfly-deadline": found["deadline"],
    }


def owner_in(remark: str, name: re.Match[str]) -> str:
    """Whose a thing is: the last word of its remark, unless the digest in its name says that it is somebody else's."""
    word = remark.rsplit(maxsplit=1)[-1] if remark.split() else ""
    return word if owner_digest(word) == name["owner"] else ""
