"""Gives tests of real clouds back what all other tests are kept from: the credentials, where somebody has asked to spend money."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dayfly.infra import lambda_key, providers


def _given() -> dict[str, str]:
    """What this environment tells of the providers, and the key that is kept in a file, as a variable.

    Not the folder that the file is in: that has the developer's own settings, too.
    """
    names = {name for each in providers.names() for name in providers.load(each).environment}
    found = {name: os.environ[name] for name in names - {"XDG_CONFIG_HOME"} if name in os.environ}
    if lambda_key.is_there():
        found[lambda_key.VARIABLE] = lambda_key.load().secret
    return found


# When this file is read: the tests' own environment has none of it any more.
_GIVEN = _given() if os.environ.get("DAYFLY_REAL_WORLD") == "1" else {}


@pytest.fixture(autouse=True)
def credentials(clean_environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts them into the environment that was cleaned before."""
    for name, value in _GIVEN.items():
        monkeypatch.setenv(name, value)
