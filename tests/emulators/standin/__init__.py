"""A vendor's provider for what all of them have in common, and its plugin: plans alone, since it makes no machines.

Left out: instances (nothing can be launched), inventory, prices of anything but two types.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import pytest

from dayfly.infra import providers
from tests.emulators.plugin import Plugin, Refusal, Values

NAME = "standin"
_FOLDER = Path(__file__).parent


def sdk_version() -> str:
    """Of the plugin that belongs to the SDK."""
    return str(json.loads((files("pulumi_aws") / "pulumi-plugin.json").read_text())["version"])


class StandInPlugin(Plugin):
    """Checks what a preview checks, and refuses to make anything."""

    name = "aws"
    version = sdk_version()

    def check(self, type: str, inputs: Values) -> Sequence[tuple[str, str]]:
        if type == "aws:ec2/keyPair:KeyPair" and not inputs.get("publicKey"):
            return [("publicKey", "must not be empty")]
        return []

    def create(self, configuration: Values, type: str, inputs: Values) -> tuple[str, Values]:
        raise Refusal("api error NoCapacity: it makes no machines")

    def delete(self, configuration: Values, type: str, id: str, outputs: Values) -> None:
        pass


@contextmanager
def known(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """The provider is there, in this process and in those that it starts."""
    patch.setattr(providers, "__path__", [*providers.__path__, str(_FOLDER / "providers")])
    patch.setenv("PYTHONPATH", str(_FOLDER / "site"))
    _forget()
    try:
        yield
    finally:
        patch.undo()
        _forget()


def _forget() -> None:
    """Who the providers are is remembered for good, as no file comes or goes while a process lives."""
    providers.names.cache_clear()
    providers.load.cache_clear()
    sys.modules.pop("dayfly.infra.providers.standin", None)
