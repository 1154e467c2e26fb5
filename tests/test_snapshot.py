"""A folder stands still for whoever reads it, while somebody is writing into it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dayfly.runtime.agent.job_folder import JobFolder
from dayfly.runtime.agent.output_answers import OutputAnswers
from dayfly.runtime.agent.snapshot import Snapshot


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = tmp_path / "job" / "checkpoints"
    made.mkdir(parents=True)
    return made


def place_of(source: Path) -> Path:
    return source.with_name("checkpoints.taken")


def shown(root: Path) -> dict[str, str]:
    """Every path with what is there."""
    found = {}
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        else:
            found[name] = "/" if path.is_dir() else path.read_text()
    return found


def write_step(source: Path, step: int) -> None:
    """As a careful function does: aside, renamed, made the latest, and only then the former one goes."""
    (source / "aside").write_text(f"step {step}")
    (source / "aside").rename(source / f"step-{step}")
    (source / "aside").symlink_to(f"step-{step}")
    (source / "aside").rename(source / "latest")
    (source / f"step-{step - 1}").unlink(missing_ok=True)


def test_it_keeps_what_is_replaced_and_deleted_there(source: Path) -> None:
    """Without a copy of it; folders have their times, and a pipe is left out."""
    write_step(source, 1)
    (source / "sub" / "empty").mkdir(parents=True)
    (source / "sub" / "file").write_text("one")
    os.utime(source / "sub", (10**9, 10**9))
    os.mkfifo(source / "pipe")
    taken = Snapshot(str(source), str(place_of(source)))
    assert taken.take()
    (source / "pipe").unlink()
    before = shown(source)
    assert shown(place_of(source)) == before
    assert place_of(source).joinpath("sub", "file").samefile(source / "sub" / "file")
    assert place_of(source).joinpath("sub").stat().st_mtime == 10**9
    write_step(source, 2)
    (source / "sub" / "file").unlink()
    assert shown(place_of(source)) == before
    taken.drop()
    taken.drop()
    assert not place_of(source).exists()
    assert (source / "step-2").read_text() == "step 2"


def test_it_follows_what_has_become_of_each_path(source: Path) -> None:
    """Whatever it was before: a file, a folder, a link."""
    taken = Snapshot(str(source), str(place_of(source)))
    (source / "a").write_text("one")
    (source / "b").mkdir()
    (source / "b" / "c").mkdir()
    (source / "b" / "c" / "d").write_text("deep")
    (source / "link").symlink_to("b")
    assert taken.take()
    (source / "a").unlink()
    (source / "a").mkdir()
    (source / "a" / "x").write_text("below")
    (source / "b" / "c" / "d").rename(source / "d")
    (source / "b" / "c").rmdir()
    (source / "b").rmdir()
    (source / "b").symlink_to("a")
    (source / "link").unlink()
    (source / "link").write_text("no link")
    assert taken.take()
    assert shown(place_of(source)) == shown(source)


class Meanwhile(Snapshot):
    """One in whose passes something happens in the folder."""

    def __init__(self, source: Path, happens: Callable[[int], None]) -> None:
        super().__init__(str(source), str(place_of(source)))
        self._happens, self.passes = happens, 0

    def _follow(self, wanted: Any, here: Any) -> None:
        super()._follow(wanted, here)
        self.passes += 1
        self._happens(self.passes)


def test_its_names_are_those_of_one_moment(source: Path) -> None:
    """What was renamed during a pass is seen by the next: a link leads to what was there at the same time."""
    write_step(source, 1)

    def twice(passes: int) -> None:
        if passes <= 2:
            write_step(source, passes + 1)

    taken = Meanwhile(source, twice)
    assert taken.take()
    assert taken.passes == 3
    assert shown(place_of(source)) == {"step-3": "step 3", "latest": "-> step-3"}


def test_what_goes_during_a_pass_is_no_trouble(source: Path) -> None:
    """Before its second name could be made."""
    (source / "a").write_text("one")
    (source / "b").mkdir()
    taken = Snapshot(str(source), str(place_of(source)))
    wanted = taken._look(str(source))
    (source / "a").unlink()
    place_of(source).mkdir()
    taken._follow({**wanted, "c": (), "c/d": (1, 2)}, {})
    assert taken.take()
    assert shown(place_of(source)) == {"b": "/"}


def test_a_folder_that_is_never_at_rest_has_no_moment(source: Path) -> None:
    """And that is said after some passes."""
    write_step(source, 1)
    taken = Meanwhile(source, lambda passes: write_step(source, passes + 1))
    assert not taken.take()
    assert taken.passes == Snapshot.PASSES


def told(source: Path, drop: bool = False) -> bool:
    """What a client is answered."""
    answers = OutputAnswers(None, JobFolder(str(source.parent)))  # type: ignore[arg-type]
    answer = answers.on_snapshot({"of": "checkpoints", "drop": drop}, b"")
    return bool(answer["taken"])


def test_a_client_is_told_whether_the_folder_stands_still(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it does not, nothing is left beside it."""
    write_step(source, 1)
    assert told(source)
    assert shown(place_of(source)) == shown(source)
    assert not told(source, drop=True)
    assert not place_of(source).exists()
    with monkeypatch.context() as little:
        little.setattr(Snapshot, "SPARE", 1 << 60)
        assert not told(source)

    def refused(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    assert not told(source)
    assert not place_of(source).exists()


def test_a_job_whose_folder_is_gone_does_not_get_it_back(tmp_path: Path) -> None:
    """By a client that looks for its checkpoints."""
    assert not told(tmp_path / "job" / "checkpoints")
    assert not (tmp_path / "job").exists()
