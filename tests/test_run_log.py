"""The log of a run on this computer: whole, masked, and never in the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from dayfly.runtime.display import Display
from dayfly.runtime.redact import remember
from dayfly.runtime.run_log import RunLog, tail


def test_a_log_goes_on_where_it_ended(tmp_path: Path) -> None:
    """The next client asks the machine for what is not here yet; a masked value keeps the offsets as they are."""
    remember(["a-secret-value"])
    with RunLog(tmp_path, Display.silent()) as log:
        log.take("stdout", 0, b"one a-secret-value\r")
    with RunLog(tmp_path, Display.silent()) as log:
        assert log.size("stdout") == len(b"one a-secret-value\r")
        log.take("stdout", 19, b"two\n")
    assert (tmp_path / "stdout.log").read_bytes() == b"one **************\rtwo\n"


def test_what_is_held_back_when_the_client_fails_is_not_counted_as_here(tmp_path: Path) -> None:
    """A beginning of a secret is asked for again by the next client."""
    remember(["a-secret-value"])
    with pytest.raises(KeyError), RunLog(tmp_path, Display.silent()) as log:
        log.take("stdout", 0, b"one a-secr")
        raise KeyError
    assert (tmp_path / "stdout.log").read_bytes() == b"one "


def test_a_full_disk_cuts_the_log_and_nothing_else(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The function's output is still shown, and the run goes on."""
    for name in ("stdout.log", "stderr.log"):
        (tmp_path / name).symlink_to("/dev/full")
    with RunLog(tmp_path, Display.standard()) as log:
        log.take("stdout", 0, b"first\n")
        log.take("stdout", 6, b"second\n")
    shown = capfd.readouterr()
    assert shown.out == "first\nsecond\n"
    assert shown.err.count("cut here") == 1


def test_the_tail_of_a_log_is_its_last_words(tmp_path: Path) -> None:
    """For the message of an error; nothing where there is nothing."""
    (tmp_path / "stderr.log").write_text("x" * 5000 + "\nlast words\n")
    assert tail(tmp_path / "stderr.log").endswith("last words")
    assert tail(tmp_path / "missing") == ""
