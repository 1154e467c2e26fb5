"""What several of these tests have in common."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.emulators.lambda_cloud.emulator import Emulator
from tests.emulators.lambda_cloud.options import Options


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """Lambda's emulator, as the environment tells of it; its time goes ten times as fast."""
    with Emulator(Options(time_scale=10)) as emulator:
        for name, value in emulator.environment().items():
            monkeypatch.setenv(name, value)
        yield emulator
