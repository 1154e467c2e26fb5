"""A process is told apart from the next one with its pid, by a clock that nobody sets."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dayfly.stacks import vitals


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process of another's."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def test_a_process_is_alive_until_it_ends_and_a_zombie_is_dead(
    sleeper: subprocess.Popen[bytes],
) -> None:
    """Whether or not its parent has collected it."""
    described = json.loads(json.dumps(vitals.described(sleeper.pid)))
    assert vitals.is_alive(described)
    sleeper.kill()
    while vitals.is_alive(described):
        pass
    sleeper.wait()
    assert not vitals.is_alive(described)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_clock_that_is_set_kills_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start in ticks since the boot stays; as unix time it moves with the clock."""
    me = vitals.myself()
    monkeypatch.setattr(vitals, "_boot_time", lambda: 12345.0)
    assert vitals.is_alive(me)
    assert not vitals.is_alive({**me, "ticks": me["ticks"] + 1})


def test_a_description_of_an_older_version_is_understood() -> None:
    """Without ticks and place: by the start, within a second."""
    me = {name: value for name, value in vitals.myself().items() if name not in ("ticks", "place")}
    assert vitals.is_alive(me)
    assert not vitals.is_alive({**me, "started": me["started"] - 60})
    assert not vitals.is_alive({**me, "host": "elsewhere"})


def test_without_proc_the_start_comes_from_ps(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on macOS; one that was seen a moment ago is only asked whether it is there."""
    by_proc = vitals.described(sleeper.pid)
    monkeypatch.setattr(vitals, "_PROC", tmp_path)
    vitals.place.cache_clear()
    try:
        by_ps = vitals.described(sleeper.pid)
        assert (by_ps["ticks"], by_ps["place"]) == (None, "")
        assert abs(by_ps["started"] - by_proc["started"]) < 2
        assert vitals.is_alive(by_ps)
        monkeypatch.setenv("PATH", "")
        assert vitals.is_alive(by_ps)
        sleeper.kill()
        sleeper.wait()
        assert not vitals.is_alive(by_ps)
    finally:
        vitals.place.cache_clear()


def test_what_describes_nobody_is_dead() -> None:
    """Anything may stand in a journal."""
    me = vitals.myself()
    for garbled in ({}, {**me, "pid": None}, {**me, "started": "x"}, {**me, "pid": 2**22 + 1}):
        assert not vitals.is_alive(garbled)


def test_the_journal_s_own_modules_load_no_foreign_library() -> None:
    """The keeper reads journals, and is small."""
    code = (
        "import sys; from dayfly.stacks import standing\n"
        "print([m for m in ('psutil', 'platformdirs', 'ssl', '_hashlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
