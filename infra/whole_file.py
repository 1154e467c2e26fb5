"""Whole file: written aside and put in its place, so that whoever has it open never sees half of it."""

from __future__ import annotations

from pathlib import Path


def write(file: Path, text: str) -> None:
    """Replaces what is there."""
    aside = file.with_name(f".{file.name}.part")
    aside.write_text(text, encoding="utf-8")
    aside.replace(file)
