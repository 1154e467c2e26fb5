"""The command line on Lambda Cloud, as docs/lambda.md shows it: key and address are all that is set, and what it prints is what stands there."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dayfly.infra import providers
from tests.emulators.lambda_cloud import Emulator, Options
from tests.emulators.machines import addresses

pytestmark = [pytest.mark.engine, pytest.mark.sshd, pytest.mark.tried("lambda", "emulator")]
_DOCS = (Path(__file__).parents[2] / "docs/lambda.md").read_text()
_RUN = "--provider lambda --instance-type gpu_1x_a100 --region us-east-1 --cores 8 --memory 32GB"
# What is another one each time: ids, times and amounts.
_VARYING = (
    (r"GPU-[0-9a-f-]{36}", "UUID"),
    (r"\b[0-9a-f]{32}\b|\b[0-9a-f]{12}\b", "ID"),
    (r"\d[\d.:]*", "N"),
    (r" +", " "),
    # Which of those that wait for nothing is first.
    (r"resources (?=\w+ \(pulumi)", ""),
)
_RESOURCE = "(pulumi-python:"


def _block(language: str, first: str) -> str:
    """The one block of that language of the tutorial that has this text."""
    blocks = re.findall(rf"^ *```{language}\n(.*?)^ *```$", _DOCS, re.DOTALL | re.MULTILINE)
    (found,) = [block for block in blocks if first in block]
    return "".join(line[3:] if line.strip() else line for line in found.splitlines(keepends=True))


def _fixed(text: str) -> list[str]:
    """Its lines without what varies."""
    for pattern, name in _VARYING:
        text = re.sub(pattern, name, text)
    return [line.strip() for line in text.splitlines() if line.strip() not in ("", "...")]


def _own_addresses() -> bool:
    """Whether machines can have their SSH servers at port 22 here; the port map serves where an SSH server has it already."""
    try:
        addresses.check()
    except OSError:
        return False
    return True


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """The emulator at the real API's pace; the environment has its address and its key."""
    with Emulator(Options(own_addresses=_own_addresses())) as emulator:
        given = emulator.environment()
        assert set(given) - {"DAYFLY_SSH_PORT_MAP"} == {"LAMBDA_API_URL", "LAMBDA_API_KEY"}
        assert ("DAYFLY_SSH_PORT_MAP" in given) == (not emulator.options.own_addresses)
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        yield emulator


def _dayfly(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dayfly.runtime.cli", *arguments],
        cwd=folder,
        env=dict(os.environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@pytest.mark.long
def test_the_tutorial_s_first_run_is_what_it_says(cloud: Emulator, tmp_path: Path) -> None:
    """Plan, steps, output and receipt in this order, its very lines; then `dayfly cost` agrees with the meter, and nothing is left."""
    (tmp_path / "gpus.py").write_text(_block("python", "def gpus()"))
    command = shlex.split(_block("sh", "dayfly run"))
    assert command[:2] == ["dayfly", "run"]
    assert " ".join(command[2:]) == f"{_RUN} gpus:gpus"
    done = _dayfly(tmp_path, *command[1:])
    assert done.returncode == 0, done.stderr
    written, told = _fixed(_block("text", "plan of run")), _fixed(done.stderr)
    shown = _fixed(done.stdout)
    assert [line for line in written if line not in [*told, *shown]] == [], done.stderr
    places = [told.index(line) for line in written if line in told and _RESOURCE not in line]
    assert places == sorted(places), done.stderr
    marks = ("plan", "worst case", "provision", "connect", "run", "teardown", "receipt")
    assert {mark for mark in marks if any(line.startswith(mark) for line in written)} == set(marks)
    assert shown == [line for line in written if line not in told]
    assert re.search(r"destroyed 4 of 4, lambda confirms 0 left .* billed, \$0\.0\d", done.stderr)

    (bill,) = cloud.meter()["bills"]
    assert (bill["type"], bill["region"]) == ("gpu_1x_a100", "us-east-1")
    cost = json.loads(_dayfly(tmp_path, "cost", "--json").stdout)
    (run,) = cost["runs"]
    increment = providers.load("lambda").limits.billing_increment_s / 3600 * 1.99
    assert bill["tags"]["dayfly-run"] == run["run"]
    assert bill["dollars"] <= run["usd"] + 1e-9 <= bill["dollars"] + increment + 1e-6
    assert (run["function"], run["open"], run["at_most"]) == ("gpus:gpus", False, False)
    assert cloud.live() == []
    assert not re.search(re.escape(cloud.api_key), done.stdout + done.stderr)
