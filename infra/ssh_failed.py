"""How a machine of one's own says no, or nothing: by a code of ours that its words carry through the engine."""

from __future__ import annotations

import re
from collections.abc import Mapping

from dayfly.errors import DayflyError
from dayfly.infra.providers.base import FailureKind

_KINDS: Mapping[str, FailureKind] = {
    "unreachable": "capacity",
    "host-key": "auth",
    "login": "auth",
    "python": "invalid",
    "handshake": "invalid",
    "silent": "invalid",
    "lost": "transient",
    "refused": "invalid",
}
_CODE = re.compile(r"\[code ssh/([a-z-]+)\]")


class SshFailed(DayflyError):
    """A machine could not be asked, or could not do what was asked.

    Attributes:
        code: "unreachable", "handshake", "host-key", "login", "silent", "python": nothing was done there; "lost": perhaps it was; "refused": the
            machine said no.
        words: without the code.
    """

    phase = "provision"
    exit_code = 70

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} [code ssh/{code}]")
        self.code = code
        self.words = message

    @property
    def did_nothing(self) -> bool:
        """Whether it is certain that nothing has been done there."""
        return self.code not in ("lost", "refused")


def kind_of(error: str) -> FailureKind:
    """The standard kind of a failure, by the code in its words."""
    found = _CODE.search(error)
    return _KINDS.get(found[1], "unknown") if found else "unknown"
