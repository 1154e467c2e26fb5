"""Why a stack did not come up, told from what is on record."""

from __future__ import annotations

from pathlib import Path

import pytest

from dayfly.infra import creations
from dayfly.stacks import failures, journal


def test_a_program_s_own_words_come_first(tmp_path: Path) -> None:
    """With the kind that the provider has read in them."""
    journal.append(tmp_path, "up_failed", kind="quota", message="error: Quota exceeded.")
    failed = failures.of_program(tmp_path, 1, "lambda")
    assert failed.kind == "quota"
    assert "Quota exceeded." in str(failed)


@pytest.mark.parametrize(
    ("code", "words"), [(0, "exported no machine"), (-9, "ended with -9: Killed")]
)
def test_a_program_that_said_nothing_is_told_by_its_end(
    tmp_path: Path, code: int, words: str
) -> None:
    """And by its last output."""
    (tmp_path / "program.log.err").write_text("Killed\n")
    assert words in str(failures.of_program(tmp_path, code, "lambda"))


def test_a_refusal_for_want_of_capacity_is_known_before_the_engine_has_ended(
    tmp_path: Path,
) -> None:
    """Nothing else moves on to the next rung, and only a provider with a record has one."""
    assert failures.of_capacity(tmp_path, "lambda") is None
    for code in ("http/429", "global/quota-exceeded"):
        creations.refused(tmp_path, creations.begin(tmp_path, "instance"), f"no [code {code}]")
    assert failures.of_capacity(tmp_path, "lambda") is None
    why = "none left [code instance-operations/launch/insufficient-capacity]"
    creations.refused(tmp_path, creations.begin(tmp_path, "instance"), why)
    failed = failures.of_capacity(tmp_path, "lambda")
    assert failed is not None
    assert (failed.kind, str(failed)) == ("capacity", why)
    assert failures.of_capacity(tmp_path, "local") is None
