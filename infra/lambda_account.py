"""The account at Lambda Cloud: its API, loaded where somebody is asked; a plan from the catalog needs no HTTP, which takes a tenth
of a second to be imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dayfly.infra.lambda_api import LambdaApi


def api() -> LambdaApi:
    """The API with the key of this computer.

    Raises:
        ConfigurationError: there is no key, or it cannot be used.
    """
    from dayfly.infra.lambda_api import LambdaApi

    return LambdaApi.from_environment()
