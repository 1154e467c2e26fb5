"""The digest of pickled code depends on the code, and not on how it was loaded."""

from __future__ import annotations

import pickle

from dayfly.runtime import digest
from dayfly.runtime.digest import Digest


def of(value: object) -> str:
    made = Digest()
    pickle.Pickler(made, 5).dump(value)
    return made.hexdigest()


def test_shared_and_equal_strings_are_one() -> None:
    """A pickle refers back to a string only where it is the same object."""
    one = "".join(["na", "me"])
    other = "".join(["nam", "e"])
    assert one is not other
    assert pickle.dumps([one, one]) != pickle.dumps([one, other])
    assert of([one, one]) == of([one, other])
    assert of([one, "x"]) != of([one, one])


def test_shared_objects_are_told_from_equal_ones() -> None:
    """Which list is meant is part of the meaning."""
    shared = [1]
    assert of([shared, shared]) != of([shared, [1]])
    assert of([shared, ["a", shared]]) == of([shared, ["a", shared]])


def test_a_large_variable_is_digested_as_it_is() -> None:
    """In pieces, and told from another."""
    large = bytes(digest.MAX_CANONICAL_BYTES)
    assert of([large, "x"]) == of([large, "x"])
    assert of([large, "x"]) != of([large, "y"])
