"""What a machine says of its folder: only what stays below the folder here is made."""

from __future__ import annotations

from typing import Any

import pytest

from dayfly.errors import Forged
from dayfly.runtime.tree import Entry, printable


def entry(path: str, kind: str = "file", target: str = "") -> Entry:
    return Entry.of([path, kind, 0, 0o644, 1, target])


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../up", "a/../../up", "a//b", "./a", "a/.", "", "a/..", "nul\0byte"]
)
def test_a_path_that_leads_elsewhere_is_refused(path: str) -> None:
    """However it is written."""
    if not path:
        with pytest.raises(Forged):
            entry(path)
        return
    assert entry(path).refusal == "its path leads out of the folder"


@pytest.mark.parametrize("path", ["a", "a/b/c", "..a", "a..", "line\nbreak", "\udcff", " ", "-rf"])
def test_odd_names_are_names(path: str) -> None:
    """They are carried as they are."""
    assert entry(path).refusal == ""


@pytest.mark.parametrize("path", ["n" * 256, "ü" * 128, "a/" * 2100 + "b"])
def test_a_name_that_no_file_system_has_is_refused(path: str) -> None:
    """By its bytes, before a disk is asked."""
    assert entry(path).refusal == "its name is too long"


@pytest.mark.parametrize(
    ("path", "target"),
    [("latest", "step_9"), ("a/b/latest", "../../step_9"), ("a/latest", "./c/d"), ("a", "b/")],
)
def test_a_link_within_the_folder_is_carried(path: str, target: str) -> None:
    """As a checkpoint's "latest" is."""
    assert entry(path, "link", target).refusal == ""


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("a", "/etc/passwd"),
        ("a", "../x"),
        ("a/b", "../../x"),
        # Lexically inside; if `b` leads to ".", it is not.
        ("a", "b/../c"),
        ("a", "./../x"),
        ("a", ""),
        ("a", "x\0y"),
    ],
)
def test_a_link_that_may_lead_out_of_the_folder_is_refused(path: str, target: str) -> None:
    """Also where it does so only through another link."""
    assert entry(path, "link", target).refusal.startswith("it is a link out of the folder")


def test_what_is_no_file_is_refused_with_its_reason() -> None:
    """Pipes and sockets, and what could not be read there."""
    assert "pipe" in entry("a", "special").refusal
    assert "Permission denied" in entry("a", "unreadable", "Permission denied").refusal


@pytest.mark.parametrize(
    "told",
    [
        None,
        [],
        "abcdef",
        ["a", "file", -1, 0, 0, ""],
        ["a", "file", 1.5, 0, 0, ""],
        ["a", "file", True, 0, 0, ""],
        ["a", "door", 0, 0, 0, ""],
        [7, "file", 0, 0, 0, ""],
        ["a", "file", 0, 0, 0],
    ],
)
def test_what_is_no_entry_is_not_taken_for_one(told: Any) -> None:
    """A machine that says such a thing runs no agent of ours."""
    with pytest.raises(Forged):
        Entry.of(told)


def test_a_name_that_is_shown_moves_no_cursor() -> None:
    """Control characters and lone bytes are spelled out, and a long one is cut."""
    assert printable("a\x1b[2J\n\udcff") == "a\\x1b[2J\\n\\udcff"
    assert len(printable("x" * 1000)) < 210
    assert entry("Ä/B").spelling == entry("a\u0308/b").spelling
