"""Homes and backends with names that URLs, SSH configurations and shells read in their own way."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dayfly.stacks import journal
from tests import keepers
from tests.engine.client import alive

pytestmark = pytest.mark.engine

_SCRIPT = """
from dayfly import cluster


@cluster(provider="local", environment=[])
def there():
    return 42


if __name__ == "__main__":
    job = there.submit()
    print(job.result(), job.receipt().left, job.receipt().how)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short way to it: an SSH server's socket and lock names have an end."""
    with tempfile.TemporaryDirectory(prefix="dayfly-place-") as name:
        try:
            yield Path(name)
        finally:
            # What it writes into a run's folder must not come in between its being emptied and its being removed.
            for lock in Path(name).rglob("keeper/*.lock"):
                home = lock.parents[1]
                keepers.end(home)
                for act in keepers.acts(home):
                    keepers.wait(act)


def _call(folder: Path, home: Path, **variables: str) -> str:
    script = folder / "there.py"
    script.write_text(_SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env=os.environ | {"DAYFLY_HOME": str(home), **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _left(home: Path, state: Path) -> list[object]:
    histories = journal.histories(home / "runs", closed=True)
    assert len(histories) == 1
    kept = [path for path in (state / ".pulumi" / "stacks").rglob("*.json") if path.is_file()]
    return [*kept, *alive(histories[0].id), *(h.id for h in histories if not h.closed)]


@pytest.mark.parametrize("name", ["a b#c%20d?e", "?ü'&;$x#%h%%"])
def test_a_home_may_have_any_name_that_can_be_written(folder: Path, name: str) -> None:
    """Spaces, "#", "%" and "?" among them, in either order: a value comes back, and by its own stack everything goes."""
    home = folder / name
    assert _call(folder, home) == "42 0 pulumi\n"
    assert _left(home, home / "state") == []


def test_a_folder_s_url_with_a_query_is_torn_down_like_any_other(folder: Path) -> None:
    """What the engine takes for an option is no part of the path."""
    state = folder / "state"
    state.mkdir()
    told = _call(folder, folder / "home", DAYFLY_BACKEND=f"file://{state}?no_tmp_dir=true")
    assert told == "42 0 pulumi\n"
    assert _left(folder / "home", state) == []


def test_a_home_inside_somebody_s_pulumi_project_is_not_taken_for_its_stack(folder: Path) -> None:
    """The engine looks for a project upwards: that one is not asked for anything, and nothing is written into it."""
    project = folder / "Pulumi.yaml"
    project.write_text("name: theirs\nruntime: nodejs\n")
    home = folder / "home"
    assert _call(folder, home) == "42 0 pulumi\n"
    assert _left(home, home / "state") == []
    assert project.read_text() == "name: theirs\nruntime: nodejs\n"
