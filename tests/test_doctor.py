"""The doctor names what is broken with its fix, and the origin of every setting; it never fails itself."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dayfly.runtime.doctor import Report, examine


def level(report: Report, name: str) -> str:
    """What became of one check."""
    return next(check.level for check in report.checks if check.name == name)


def fix(report: Report, name: str) -> str:
    """The remedy of one check."""
    return next(check.fix for check in report.checks if check.name == name)


def test_every_layer_of_the_settings_shows_where_a_value_comes_from(
    tmp_path: Path, clean_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Environment over project over user's file over default."""
    user = clean_environment / "config" / "dayfly" / "config.toml"
    user.parent.mkdir(parents=True)
    user.write_text('cores = 1\nregion = "eu"\njob_name = "mine"\n')
    (tmp_path / "pyproject.toml").write_text('[tool.dayfly]\ncores = 2\nregion = "us"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAYFLY_CORES", "3")
    found = {name: (value, origin) for name, value, origin in examine().settings}
    assert found["cores"] == (3, "environment variable DAYFLY_CORES")
    assert found["region"] == ("us", f"{tmp_path / 'pyproject.toml'} [tool.dayfly]")
    assert found["job_name"] == ("mine", str(user))
    assert found["provider"] == ("local", "default")
    assert "DAYFLY_HOME" in found


def test_a_broken_settings_file_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is examined all the same."""
    (tmp_path / "pyproject.toml").write_text("[tool.dayfly]\ncoores = 2\n")
    with monkeypatch.context() as there:
        there.chdir(tmp_path)
        report = examine()
    assert level(report, "settings") == "fail"
    assert not report.healthy
    assert level(report, "python") == "ok"


def test_a_budget_that_is_none_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses every run; a right one is told."""
    monkeypatch.setenv("DAYFLY_BUDGET_PER_DAY", "20")
    monkeypatch.setenv("DAYFLY_BUDGET_PER_MONTH", "lots")
    report = examine()
    assert level(report, "budget_per_day") == "ok"
    assert level(report, "budget_per_month") == "fail"


def test_a_home_that_others_can_write_to_is_a_failure_with_its_fix(
    clean_environment: Path,
) -> None:
    """They could run code as this user."""
    clean_environment.chmod(0o777)
    report = examine()
    clean_environment.chmod(0o700)
    assert level(report, "home") == "fail"
    assert "chmod 700" in fix(report, "home")


@pytest.mark.parametrize(
    ("content", "mode", "remedy"), [("", 0o600, "put the old one back"), ("x", 0o644, "chmod 600")]
)
def test_a_passphrase_that_protects_nothing_is_a_failure(
    clean_environment: Path, content: str, mode: int, remedy: str
) -> None:
    """An empty one, and one that others can read."""
    file = clean_environment / "passphrase"
    file.write_text(content)
    file.chmod(mode)
    report = examine()
    assert level(report, "passphrase") == "fail"
    assert remedy in fix(report, "passphrase")


def test_what_is_missing_on_this_computer_has_its_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No engine and no ssh: the one breaks every run, the other only `dayfly ssh`."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DAYFLY_ENGINE_HOME", str(tmp_path / "engines"))
    report = examine()
    assert level(report, "engine") == "fail"
    assert "dayfly engine install" in fix(report, "engine")
    assert level(report, "ssh") == "warn"


def test_the_report_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no credentials of a URL in it."""
    monkeypatch.setenv("DAYFLY_BACKEND", "postgres://me:hunter22@db/state")
    text = json.dumps(examine().as_dict())
    assert "hunter22" not in text
    values = json.loads(text)
    assert {check["name"] for check in values["checks"]} >= {
        "python",
        "dayfly",
        "uv",
        "sshd",
        "home",
    }
    assert os.environ["DAYFLY_HOME"] in text
