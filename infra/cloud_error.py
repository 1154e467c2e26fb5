"""CloudError: what a cloud's own API has refused, in the one form in which the engine's output passes it on and it is read again."""

from __future__ import annotations

from typing import ClassVar

from dayfly.errors import ProvisionFailed
from dayfly.infra.providers.base import FailureKind


class CloudError(ProvisionFailed):
    """The API said no, or said nothing that can be used.

    Attributes:
        called: whose it is, for people: "Lambda Cloud".
        code: the API's own code, or one of ours.
    """

    called: ClassVar[str]

    def __init__(
        self, doing: str, code: str, message: str, kind: FailureKind, fix: str | None
    ) -> None:
        # One line: of the engine's output only lines with an error in them are kept.
        text = " ".join(
            f"{self.called}, {doing}: {message}{f' Fix: {fix}.' if fix else ''}".split()
        )
        super().__init__(f"{text} [code {code}]", kind)
        self.code = code
