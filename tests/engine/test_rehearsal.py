"""What costs money on a real cloud is known to work before anybody pays: the very file, run against the emulator."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dayfly.infra import lambda_key
from tests.emulators.lambda_cloud import Emulator, Options
from tests.emulators.lambda_cloud.catalog import TYPES

_CHECKOUT = Path(__file__).parents[2]


def _cheapest(*, gpus: bool) -> str:
    """Name of the cheapest type that is sold; with `gpus`, of those that have some."""
    sold = [each for each in TYPES.values() if each.gpus or not gpus]
    return min(sold, key=lambda each: each.price_cents_per_hour).name


def _pytest(**variables: str) -> subprocess.CompletedProcess[str]:
    """The real-world tests of Lambda Cloud, as `make real-world` runs them, in this environment and these variables."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-v", "-rs", "-p", "no:cacheprovider"]
    # Not in this test's own folder, in which the path of a keeper's socket would be too long.
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
        return subprocess.run(
            [*command, "--basetemp", f"{folder}/t", "tests/real_world/test_lambda.py"],
            cwd=_CHECKOUT,
            env=own | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@pytest.mark.engine
@pytest.mark.sshd
@pytest.mark.long
def test_the_real_world_test_passes_on_the_emulator() -> None:
    """With the key in the variable; it says what it will cost first, and takes the cheapest machine that has a GPU."""
    with Emulator(Options(time_scale=10)) as cloud:
        done = _pytest(DAYFLY_REAL_WORLD="1", **cloud.environment())
        assert done.returncode == 0, done.stdout + done.stderr
        assert "1 passed" in done.stdout
        assert cloud.live() == []
        (bill,) = cloud.meter()["bills"]
    assert bill["type"] == _cheapest(gpus=True) != _cheapest(gpus=False)
    assert "PASSED" in done.stdout
    assert 0 < done.stdout.index("worst case") < done.stdout.index("destroyed 4 of 4")
    assert cloud.api_key not in done.stdout + done.stderr


@pytest.mark.process
def test_nothing_is_spent_unless_it_was_asked_for() -> None:
    """A key alone is no wish to pay."""
    done = _pytest(**{lambda_key.VARIABLE: "secret_nobody"})
    assert (done.returncode, "1 skipped" in done.stdout) == (0, True), done.stdout + done.stderr
    assert "set DAYFLY_REAL_WORLD=1" in done.stdout
