"""What stays on this computer: by the user's own file, and by what a file's name says."""

from __future__ import annotations

from pathlib import Path

import pytest

from dayfly.errors import ConfigurationError
from dayfly.runtime.ignore import FILE, GitIgnore, Ignore


@pytest.mark.parametrize(
    "name",
    [".env", "a/.env.production", "tls/server.pem", "id_ed25519", "credentials.py", "secrets.toml"],
)
def test_what_looks_like_secrets_stays_here(tmp_path: Path, name: str) -> None:
    """Without a word of the user's, and with the rule that says so."""
    assert "looks like a file of secrets (" in Ignore.of(tmp_path).reason(tmp_path / name)


@pytest.mark.parametrize(
    "name",
    [".env.example", "id_ed25519.pub", "id_generator.py", "environment.py", "keys.py", "a.b"],
)
def test_what_only_sounds_like_it_travels(tmp_path: Path, name: str) -> None:
    """Examples, public keys, and code about such things."""
    assert Ignore.of(tmp_path).reason(tmp_path / name) == ""


def test_the_file_has_gitignore_s_syntax_and_the_last_word(tmp_path: Path) -> None:
    """The line is named, as it is numbered in the file; a secret's name can be allowed."""
    text = "# of ours\n\nprivate/\n*.bin\n!keep.bin\r\n/top.py\n!credentials.py\n"
    (tmp_path / FILE).write_text(text)
    ignore = Ignore.of(tmp_path)
    assert (
        ignore.reason(tmp_path / "private" / "a.py")
        == "line 3 of .dayflyignore (private/) keeps it here"
    )
    assert ignore.reason(tmp_path / "private", folder=True)
    assert "line 4" in ignore.reason(tmp_path / "x" / "a.bin")
    assert "line 6" in ignore.reason(tmp_path / "top.py")
    for name in ("keep.bin", "x/top.py", "credentials.py", "ours"):
        assert ignore.reason(tmp_path / name) == ""
    assert ignore.reason(tmp_path / "credentials.json")


def test_a_file_that_cannot_be_read_is_no_empty_one(tmp_path: Path) -> None:
    """Something would travel that was to stay."""
    (tmp_path / FILE).write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigurationError, match=FILE):
        Ignore.of(tmp_path)


def test_gitignore_only_tells(tmp_path: Path) -> None:
    """Generated code is named by it, and is needed all the same."""
    (tmp_path / ".gitignore").write_text("_version.py\n")
    assert GitIgnore(tmp_path).names(tmp_path / "pkg" / "_version.py")
    assert not GitIgnore(tmp_path).names(tmp_path / "pkg" / "version.py")
    assert Ignore.of(tmp_path).reason(tmp_path / "pkg" / "_version.py") == ""
