"""The README says what is true: its code runs, its commands exist."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from dayfly.infra.spec import Spec
from dayfly.stacks import standing
from dayfly.stacks.engine import Engine
from tests import tried

_CHECKOUT = Path(__file__).parent.parent
README = (_CHECKOUT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


@pytest.mark.engine
@pytest.mark.network
@pytest.mark.parametrize("code", [text for language, text in BLOCKS if language == "python"])
def test_every_python_block_runs_as_it_stands(code: str, tmp_path: Path) -> None:
    """In a file of its own, as a new user would write it."""
    script = tmp_path / "ten_lines.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "90000.0"
    assert "destroyed 2 of 2" in done.stderr


@pytest.mark.engine
def test_the_block_for_the_plain_cli_runs_as_it_stands(engine: Engine, tmp_path: Path) -> None:
    """In a checkout of its own, whose .venv is this one."""
    (block,) = [text for language, text in BLOCKS if language == "sh" and "pulumi preview" in text]
    for name in ("Pulumi.yaml", "stacks"):
        (tmp_path / name).symlink_to(_CHECKOUT / name)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/dayfly").symlink_to(Path(sys.executable).parent / "dayfly")
    done = subprocess.run(
        ["bash", "-euc", block],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cost_per_hour_usd" in done.stdout
    assert "worst_case_usd" in done.stdout
    assert (tmp_path / "Pulumi.try.yaml").exists()


def test_every_class_of_gc_and_every_option_stands_in_its_table() -> None:
    """A class that somebody sees in `dayfly gc`, or an option that is refused, is looked up there."""
    rows = re.findall(r"^\| ([A-Z]+(?:, [A-Z]+)*) \|", README, re.MULTILINE)
    named = {name for row in rows for name in row.split(", ")}
    assert named == (set(get_args(standing.Status)) - {"CLOSED"}) | {"UNTAGGED"}
    for option in dataclasses.fields(Spec):
        assert f"`{option.name}`" in README, option.name


def test_every_dayfly_command_of_the_shell_blocks_exists() -> None:
    """Named in the help of the CLI."""
    shown = subprocess.run(
        [sys.executable, "-m", "dayfly.runtime.cli", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    named = {
        name
        for language, text in BLOCKS
        if language == "sh"
        for name in re.findall(r"\bdayfly (\w+)", text)
    }
    assert named
    for name in named:
        assert re.search(rf"^\W*{name}\b", shown.stdout, re.MULTILINE), name


def test_every_make_target_of_the_readme_exists() -> None:
    """`make demo` and `make test` first of all."""
    makefile = (_CHECKOUT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z][a-z-]*)", README)):
        if f"`make {target}`" in README or f"\nmake {target}\n" in README:
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_option_of_the_decorator_is_in_the_readme() -> None:
    """A Spec field that nobody can read about is not there."""
    from dayfly.stacks.settings import SPEC_FIELDS

    for name in SPEC_FIELDS:
        assert f"`{name}`" in README, name


def test_the_table_of_what_was_tried_is_made_from_recorded_results() -> None:
    """Whoever edits it by hand, or adds a provider without trying it, sees this fail; `make tried` mends it."""
    records = tried.kept()
    assert tried.shown() == tried.table(records)
    assert [entry.test for entry in records if not tried.is_there(entry.test)] == []
