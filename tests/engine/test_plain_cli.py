"""The checkout is a Pulumi project: the plain CLI previews, brings up and destroys, and the journal keeps in step."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from dayfly.infra.ingress import PRIVATE_VARIABLE
from dayfly.stacks.engine import Engine
from tests.emulators.lambda_cloud.emulator import Emulator
from tests.emulators.lambda_cloud.options import Options
from tests.engine.client import Pulumi, dayfly, plain_project

pytestmark = pytest.mark.engine

_CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def pulumi(engine: Engine, tmp_path: Path) -> Pulumi:
    """The CLI in a copy of the checkout's project, with the environment that `dayfly engine env` prints."""
    return plain_project(tmp_path)


def test_up_and_destroy_by_the_plain_cli_are_a_run_like_any_other(
    pulumi: Pulumi, clean_environment: Path
) -> None:
    """Preview shows resources and money, `up` is in `ps`, a second one changes nothing, `destroy` closes it."""
    assert pulumi("stack", "init", "dev").returncode == 0
    assert pulumi("config", "set", "dayfly:provider", "local").returncode == 0

    preview = pulumi("preview")
    assert preview.returncode == 0, preview.stdout + preview.stderr
    for word in ("LocalInstance", "LocalReady", "cost_per_hour_usd", "worst_case_usd"):
        assert word in preview.stdout
    assert json.loads(dayfly("ps", "--json").stdout) == []

    up = pulumi("up", "--yes", "--skip-preview")
    assert up.returncode == 0, up.stdout + up.stderr
    (listed,) = json.loads(dayfly("ps", "--json").stdout)
    assert (listed["status"], listed["provider"], listed["stack"]) == ("RUNNING", "local", "dev")
    assert "dev" in dayfly("ps").stdout

    assert pulumi("config", "set", "dayfly:max_runtime", "2h").returncode == 0
    again = pulumi("up", "--yes")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "is up as it was asked for then" in again.stdout
    assert "3 unchanged" in again.stdout
    assert [run["id"] for run in json.loads(dayfly("ps", "--json").stdout)] == [listed["id"]]

    gone = pulumi("destroy", "--yes", "--skip-preview")
    assert gone.returncode == 0, gone.stdout + gone.stderr
    assert json.loads(dayfly("ps", "--json").stdout) == []
    (kept,) = json.loads(dayfly("ps", "--all", "--json").stdout)
    assert (kept["id"], kept["status"]) == (listed["id"], "CLOSED")
    assert "dev" in pulumi("stack", "ls").stdout


def _shell(line: str) -> str:
    """What a line prints in the checkout, in a shell that has evaluated `dayfly engine env`."""
    done = subprocess.run(
        ["bash", "-c", f'eval "$({sys.executable} -m dayfly.runtime.cli engine env)" && {line}'],
        cwd=_CHECKOUT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_gc_by_name_ends_a_plain_run_too(engine: Engine, clean_environment: Path) -> None:
    """`dayfly cancel` destroys what `pulumi up` made in the checkout itself, through its own stack, which stays for its owner."""
    quiet = "--non-interactive --stack plain"
    try:
        told = _shell(
            "command -v python && pulumi stack init plain --non-interactive"
            f" && pulumi up --yes --skip-preview {quiet}"
        )
        assert told.startswith(sysconfig.get_path("scripts"))
        (listed,) = json.loads(dayfly("ps", "--json").stdout)
        assert (listed["status"], listed["stack"]) == ("RUNNING", "plain")
        done = dayfly("cancel", listed["id"], "--yes", "--json")
        assert done.returncode == 0, done.stderr
        receipt = json.loads(done.stdout)
        assert (receipt["destroyed"], receipt["left"], receipt["how"]) == (2, 0, "pulumi")
        assert "plain" in _shell("pulumi stack ls --non-interactive")
    finally:
        (_CHECKOUT / "Pulumi.plain.yaml").unlink(missing_ok=True)


@pytest.mark.clouds
def test_a_policy_keeps_out_the_public_whatever_the_shell_says(
    pulumi: Pulumi, clean_environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shell's environment is from before the policy; what is up stays as it is, and what is made from now on is told."""
    monkeypatch.delenv(PRIVATE_VARIABLE, raising=False)
    with Emulator(Options(time_scale=10)) as cloud:
        for name, value in cloud.environment().items():
            monkeypatch.setenv(name, value)
        assert pulumi("stack", "init", "dev").returncode == 0
        assert pulumi("config", "set", "dayfly:provider", "lambda").returncode == 0
        up = pulumi("up", "--yes", "--skip-preview")
        assert up.returncode == 0, up.stdout + up.stderr
        assert "private" not in _ruleset(pulumi)
        (tmp_path / "pyproject.toml").write_text("[tool.dayfly.policy]\npublic_ingress = false\n")
        again = pulumi("up", "--yes", "--skip-preview")
        assert again.returncode == 0, again.stdout + again.stderr
        assert "5 unchanged" in again.stdout
        assert _ruleset(pulumi)["private"] is True
        gone = pulumi("destroy", "--yes", "--skip-preview")
        assert gone.returncode == 0, gone.stdout + gone.stderr


def _ruleset(pulumi: Pulumi) -> dict[str, Any]:
    """What the stack's firewall was asked to be."""
    state = json.loads(pulumi("stack", "export").stdout)["deployment"]["resources"]
    (found,) = [each["inputs"] for each in state if each["urn"].endswith("::ruleset")]
    return dict(found)


def test_an_impossible_configuration_fails_with_our_message(
    pulumi: Pulumi, clean_environment: Path
) -> None:
    """Before anything is registered, let alone created."""
    assert pulumi("stack", "init", "dev").returncode == 0
    assert pulumi("config", "set", "dayfly:cores", "0").returncode == 0
    done = pulumi("preview")
    assert done.returncode != 0
    assert "cores=0" in done.stdout + done.stderr
    assert json.loads(dayfly("ps", "--json").stdout) == []


@pytest.mark.clouds
def test_what_the_first_rung_s_provider_lacks_is_named_with_its_fix(
    pulumi: Pulumi, clean_environment: Path, tmp_path: Path
) -> None:
    """Of that one alone: a provider whose machines a policy denies needs no key, and why it is not taken is said."""
    assert pulumi("stack", "init", "dev").returncode == 0
    assert pulumi("config", "set", "dayfly:provider", "lambda,local").returncode == 0
    done = pulumi("preview")
    assert done.returncode != 0
    assert "LAMBDA_API_KEY" in done.stdout + done.stderr
    (tmp_path / "pyproject.toml").write_text('[tool.dayfly.policy]\nproviders = ["local"]\n')
    done = pulumi("preview")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "LocalInstance" in done.stdout
    assert re.search(r"not in the ladder: lambda \S+ in .*: policy .*local", done.stdout), (
        done.stdout
    )
