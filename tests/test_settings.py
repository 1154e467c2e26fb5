"""Settings come in layers, each value knows where it came from, and a name that no one knows is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dayfly.errors import ConfigurationError
from dayfly.infra.spec import Spec
from dayfly.runtime.context import Context
from dayfly.stacks import journal, settings
from dayfly.stacks.workspace import Workspace
from tests import runs


@pytest.fixture
def user(clean_environment: Path) -> Iterator[Path]:
    """The user's own file, not written yet."""
    file = settings.user_file()
    assert clean_environment in file.parents, "a test must not read the developer's own settings"
    file.parent.mkdir(parents=True)
    yield file
    file.unlink(missing_ok=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project's pyproject.toml, seen from a folder below it."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    return tmp_path / "pyproject.toml"


def test_without_any_layer_nothing_is_set(tmp_path: Path) -> None:
    """What is not set has no origin and keeps its default."""
    found = settings.load(tmp_path)
    assert found.values == {}
    assert found.get("region") is None
    assert found.get("region", "anywhere") == "anywhere"


def test_a_nearer_layer_wins_and_the_others_stay(
    user: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Argument over environment over project over user, value by value."""
    user.write_text('region = "user"\nmemory = "user"\ncores = 1\ndisk = "1GB"\n')
    project.write_text('[tool.dayfly]\nregion = "project"\nmemory = "2GB"\ncores = 2\n')
    monkeypatch.setenv("DAYFLY_CORES", "3")
    monkeypatch.setenv("DAYFLY_REGION", "environment")
    found = settings.load(project.parent / "deep" / "er")
    origins = {name: setting.origin for name, setting in found.values.items()}
    assert origins == {
        "region": "environment variable DAYFLY_REGION",
        "cores": "environment variable DAYFLY_CORES",
        "memory": f"{project.resolve()} [tool.dayfly]",
        "disk": str(user),
    }
    spec = Spec.from_options(found.spec_options() | {"cores": 4})
    assert (spec.cores, spec.region, spec.memory_bytes) == (4, "environment", 2 * 10**9)


@pytest.mark.parametrize("layer", ["user", "project"])
def test_an_unknown_name_is_refused_with_the_nearest_one(
    user: Path, project: Path, layer: str
) -> None:
    """The message names the file, so that it can be mended."""
    if layer == "user":
        user.write_text('reigon = "x"\n')
    else:
        project.write_text('[tool.dayfly]\nreigon = "x"\n')
    with pytest.raises(ConfigurationError, match=r"'reigon'.*region") as refused:
        settings.load(project.parent)
    assert str(user if layer == "user" else project.resolve()) in str(refused.value)


def test_time_is_another_spelling_of_max_runtime(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every layer; a nearer layer wins under either name, and both in one layer is a mistake."""
    project.write_text('[tool.dayfly]\ntime = "3h"\n')
    assert settings.load(tmp_path).get("max_runtime") == "3h"
    monkeypatch.setenv("DAYFLY_TIME", "2h")
    assert (
        settings.load(tmp_path).values["max_runtime"].origin == "environment variable DAYFLY_TIME"
    )
    monkeypatch.setenv("DAYFLY_MAX_RUNTIME", "1h")
    with pytest.raises(ConfigurationError, match="two spellings"):
        settings.load(tmp_path)


def test_a_file_that_is_no_toml_is_named(user: Path, tmp_path: Path) -> None:
    """With the parser's own words."""
    user.write_text("region = \n")
    with pytest.raises(ConfigurationError, match="cannot be read as TOML") as refused:
        settings.load(tmp_path)
    assert str(user) in str(refused.value)


def test_a_project_without_our_table_is_passed_over(project: Path) -> None:
    """The nearest pyproject.toml that has one counts, not the nearest of all."""
    project.write_text('[tool.dayfly]\nregion = "outer"\n')
    (project.parent / "deep" / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert settings.load(project.parent / "deep" / "er").get("region") == "outer"


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("PROVIDER", "local", "local"),
        ("PROVIDER", "lambda, aws", ["lambda", "aws"]),
        ("ENVIRONMENT", "numpy,scipy", ["numpy", "scipy"]),
        ("SECRETS", "TOKEN", ["TOKEN"]),
        ("RETRIES", "2", 2),
        ("RETRIES", "two", "two"),
        ("MAX_COST", "2.5", 2.5),
        ("MAX_COST", "cheap", "cheap"),
        ("MAX_PRICE", "3", 3.0),
        ("BUDGET_PER_DAY", "20", 20.0),
        ("WAIT_FOR_TEARDOWN", "True", True),
        ("WAIT_FOR_TEARDOWN", "0", False),
        ("BACKEND", "s3://bucket", "s3://bucket"),
    ],
)
def test_a_variable_is_read_as_the_type_of_its_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, text: str, value: object
) -> None:
    """What does not fit stays a text, which the Spec refuses by name."""
    monkeypatch.setenv(f"DAYFLY_{variable}", text)
    assert settings.load(tmp_path).get(variable.lower()) == value


def test_an_empty_variable_sets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`export DAYFLY_REGION=` is how a shell takes a setting back."""
    monkeypatch.setenv("DAYFLY_REGION", "")
    assert settings.load(tmp_path).values == {}


def test_settings_of_the_workspace_are_no_options_of_a_spec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Backend, owner and secrets provider belong to the place, not to a run."""
    monkeypatch.setenv("DAYFLY_OWNER", "me")
    monkeypatch.setenv("DAYFLY_CORES", "1")
    assert settings.load(tmp_path).spec_options() == {"cores": 1}


def test_of_a_budget_the_smallest_holds_whichever_layer_sets_it(
    user: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A project must not raise what its user has set; what is no number is seen, and refused where it is used."""
    user.write_text("budget_per_day = 20\nbudget_per_month = 100\n")
    project.write_text('[tool.dayfly]\nbudget_per_day = 1000\nbudget_per_month = "lots"\n')
    found = settings.load(project.parent)
    assert (found.get("budget_per_day"), found.values["budget_per_day"].origin) == (20, str(user))
    assert found.get("budget_per_month") == "lots"
    monkeypatch.setenv("DAYFLY_BUDGET_PER_DAY", "5")
    assert settings.load(project.parent).get("budget_per_day") == 5


def test_a_mistake_in_a_file_does_not_stop_who_only_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is told, and what it concerns left out; a function that is called by the same file is refused."""
    project = tmp_path / "pyproject.toml"
    project.write_text('[tool.dayfly]\nbudget_per_day = "much"\nbackedn = "s3://x"\nowner = "me"\n')
    monkeypatch.chdir(tmp_path)
    told: list[str] = []
    context = Context.to_end(told.append)
    assert context.workspace.owner == "me"
    assert context.workspace.budgets == ()
    assert len(told) == 1
    assert "unknown setting 'backedn'" in told[0]
    with pytest.raises(ConfigurationError, match="backedn"):
        Context.open()
    project.write_text("[tool.dayfly\n")
    told.clear()
    assert Context.to_end(told.append).workspace.backend.startswith("file://")
    assert told
    assert all("cannot be read as TOML" in text for text in told)


def test_machines_are_ended_whatever_stands_in_the_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, workspace: Workspace
) -> None:
    """`gc --yes` and the keeper's own child close an orphan under a file that no call would take."""
    for command in (["-m", "dayfly.runtime.cli", "gc", "--yes"], ["-m", "dayfly.runtime.tend"]):
        run = runs.opened(workspace, alive=False)
        (tmp_path / "pyproject.toml").write_text("[tool.dayfly]\nproviders = 3\n")
        given = [run] if command[-1].endswith("tend") else []
        done = subprocess.run(
            [sys.executable, *command, *given],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "unknown setting 'providers'" in done.stderr
        assert journal.read(workspace.directory(run)).closed
