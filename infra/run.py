"""Run: the identity of one execution, as providers see it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


def new_id() -> str:
    """128 random bits as 32 hexadecimal digits."""
    import secrets  # brings OpenSSL along, for which the keeper has no use

    return secrets.token_hex(16)


def is_id(text: str) -> bool:
    """Whether a text has the form of an id; only then may it become the name of a folder, a stack or a tag."""
    return re.fullmatch(r"[0-9a-f]{32}", text) is not None


@dataclass(frozen=True)
class Run:
    """One execution.

    Attributes:
        id: 32 hexadecimal digits; the directory, the stack and the tags carry it.
        owner: whose it is: a slug of at most 40 characters.
        created: unix time at which the intent was written.
        deadline: unix time at which the machine is to be destroyed.
        directory: the run's own folder on this computer.
        public_key: the user key of this run, "ssh-ed25519 AAAA...".
        host_key: the public half of the host key to pin; of the first machine, where there are several.
    """

    id: str
    owner: str
    created: float
    deadline: float
    directory: Path
    public_key: str
    host_key: str

    def host_key_file(self, node: int = 0) -> Path:
        """The private half of the host key of one of its machines."""
        return self.directory / (f"host_key-{node}" if node else "host_key")

    def host_key_of(self, node: int) -> str:
        """The public half of it; "" in a preview, which has no keys."""
        if not node:
            return self.host_key
        file = self.host_key_file(node).with_suffix(".pub")
        return file.read_text() if file.is_file() else ""

    @property
    def tags(self) -> dict[str, str]:
        """What every resource of the run carries."""
        return {
            "dayfly-run": self.id,
            "dayfly-owner": self.owner,
            "dayfly-deadline": str(int(self.deadline)),
            "dayfly-created": str(int(self.created)),
        }
