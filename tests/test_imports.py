"""Imports are read from code without running it."""

from __future__ import annotations

import linecache
from types import CodeType
from typing import Any

import pytest

from dayfly.runtime import imports
from dayfly.runtime.imports import Import

_SOURCE = """
from typing import TYPE_CHECKING
from contextlib import suppress

def f():
    import a.b as c
    from d import e, g
    from . import sibling
    from ..up import x
    try:
        import optional
    except ImportError:
        import fallback
    with suppress(ImportError):
        import suppressed
    if TYPE_CHECKING:
        import typed
    def inner():
        import deep
        return getattr(c, "by_text"), deep.attribute
    return inner
"""


@pytest.fixture
def code() -> CodeType:
    linecache.cache["<imports>"] = (len(_SOURCE), None, _SOURCE.splitlines(True), "<imports>")
    space: dict[str, Any] = {}
    exec(compile(_SOURCE, "<imports>", "exec"), space)
    made: CodeType = space["f"].__code__
    return made


_EXPECTED = [
    Import("a.b", (), True),
    Import("d", ("e", "g"), True),
    Import("pkg.sub", ("sibling",), True),
    Import("pkg.up", ("x",), True),
    Import("optional", (), False),
    Import("fallback", (), False),
    Import("suppressed", (), False),
    Import("deep", (), True),
]


def test_the_imports_of_a_function(code: CodeType) -> None:
    """Nested functions too; in a `try`, or under `suppress` or TYPE_CHECKING, they are not required."""
    found = [i for i in imports.of_code(code, "pkg.sub") if i.module != "typed"]
    assert len(found) == len(_EXPECTED)
    assert set(found) == set(_EXPECTED)
    assert not [i for i in imports.of_code(code, "pkg.sub") if i.module == "typed" and i.required]


def test_the_imports_of_a_source_file_are_the_same() -> None:
    """With those at its top."""
    found = list(imports.of_source(_SOURCE, "pkg.sub"))
    assert set(_EXPECTED) <= set(found)
    assert Import("typing", ("TYPE_CHECKING",), True) in found


def test_a_relative_import_outside_a_package_is_left_to_fail_there(code: CodeType) -> None:
    """It fails here in the same way."""
    assert not [i for i in imports.of_code(code, "") if "sibling" in i.names]


def test_without_source_every_import_counts(code: CodeType) -> None:
    """A guard cannot be seen, so the stricter reading is taken."""
    del linecache.cache["<imports>"]
    assert Import("optional", (), True) in list(imports.of_code(code, "pkg"))


def test_names_that_code_mentions(code: CodeType) -> None:
    """Attributes, and texts that could be names."""
    assert {"by_text", "attribute", "getattr"} <= imports.names_in(code)
    assert {"by_text", "attribute"} & imports.names_in_source(_SOURCE) == {"attribute"}
