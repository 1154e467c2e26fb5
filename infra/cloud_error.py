"""CloudError: what a cloud's own API has refused, in the one form in which the engine's output passes it on and it is read again."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from dayfly.errors import ProvisionFailed
from dayfly.infra.providers.base import FailureKind


class CloudError(ProvisionFailed):
    """The API said no, or said nothing that can be used.

    Attributes:
        called: whose it is, for people: "Lambda Cloud".
        gone_codes: those that say that the very thing that was named does not exist.
        in_use_codes: those that say that something else, which has to end first, still holds it.
        code: the API's own code, or one of ours.
    """

    called: ClassVar[str]
    gone_codes: ClassVar[Collection[str]] = ()
    in_use_codes: ClassVar[Collection[str]] = ()

    def __init__(
        self, doing: str, code: str, message: str, kind: FailureKind, fix: str | None
    ) -> None:
        # One line: of the engine's output only lines with an error in them are kept.
        text = " ".join(
            f"{self.called}, {doing}: {message}{f' Fix: {fix}.' if fix else ''}".split()
        )
        super().__init__(f"{text} [code {code}]", kind)
        self.code = code

    @property
    def gone(self) -> bool:
        """True where the very thing that was named does not exist."""
        return self.code in self.gone_codes

    @property
    def in_use(self) -> bool:
        """True where it cannot be deleted yet: whoever reads the inventory again comes back to it."""
        return self.code in self.in_use_codes
