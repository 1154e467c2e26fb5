"""Vendor: a provider whose resources are made by the cloud's own Pulumi plugin, and listed and ended by its own SDK."""

from __future__ import annotations

import importlib.util
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from dayfly.infra.held import Held, Whose
from dayfly.infra.providers.base import FailureKind, Provider

# A plugin that runs already and only has to be attached to; Pulumi documents it for whoever develops one.
ENVIRONMENT: tuple[str, ...] = ("PULUMI_DEBUG_PROVIDERS",)


class VendorProvider(Provider):
    """What the providers of large clouds have in common.

    A vendor's plugin waits inside its create and takes no hook, so that names and tags are in the journal before `up`, and
    after any unclean end a listing by tag decides.

    Attributes:
        plugin: name of its Pulumi plugin, "aws".
        sdk: package that declares its resources, "pulumi_aws"; its pulumi-plugin.json names the version of the plugin.
        modules: further packages that it is listed and ended with, "boto3".
        extra: what installs them, of "dayfly[aws]".
        codes: standard kind of each error code of the cloud's that says what went wrong.
        machine: type of its machines, as the engine writes it.
        ends_as_one: True where the end of a stack takes along what no state has, as that of a resource group does.
        code: the pattern that finds those codes in what the engine says, each as its first group; a text, so that nothing is
            compiled of it before there is a failure.
    """

    plugin: ClassVar[str]
    sdk: ClassVar[str]
    modules: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str]
    codes: ClassVar[Mapping[str, FailureKind]]
    code: ClassVar[str]
    machine: ClassVar[str]
    ends_as_one: ClassVar[bool] = False
    environment: ClassVar[tuple[str, ...]] = ENVIRONMENT
    takes = frozenset({"spot", "image"})

    def failure(self, error: str) -> FailureKind:
        """By the first code that it knows; prose decides nothing."""
        found = (self.codes.get(match[1]) for match in re.finditer(self.code, error))
        return next((kind for kind in found if kind is not None), "unknown")

    @abstractmethod
    def owns(self, held: Held, whose: Whose) -> bool:
        """Whether a resource of one of its types, which has an id, is a run's: the engine would delete it.

        Raises:
            DayflyError, OSError: that has to be asked, and nobody can be.
        """

    @abstractmethod
    def sets(self, settings: Mapping[str, Any], whose: Whose) -> bool:
        """Whether settings of its plugin, as a state has them, are those that the program of a run gives it: no other
        account, no other address, no credential."""

    def preflight(self) -> Sequence[str]:
        missing = [name for name in (self.sdk, *self.modules) if not _is_installed(name)]
        if missing:
            return [
                f'provider="{self.name}" needs {", ".join(missing)}: pip install "dayfly[{self.extra}]"'
            ]
        return self.without_credentials()

    @abstractmethod
    def without_credentials(self) -> Sequence[str]:
        """What is missing of its credentials, each with its fix; found out without a request that waits for long."""

    def is_configured(self) -> bool:
        return all(map(_is_installed, self.modules)) and not self.without_credentials()


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        # The package that it is a part of is not there.
        return False
