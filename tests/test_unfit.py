"""What is tried after an unfit machine: the same Offer again, then the next, and no more than was allowed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dayfly.errors import GpuUnfit
from dayfly.infra.offers import Offer
from dayfly.runtime.unfit import UnfitMachines


def offer(name: str) -> Offer:
    return Offer("cloud", "us", name, 8, 1 << 30, 1.0, gpus=1, gpu_model="A10")


A, B, C = offer("a"), offer("b"), offer("c")


def error(text: str = "no") -> GpuUnfit:
    return GpuUnfit(text, check="driver", found="cuInit: error 802")


def tried(offers: tuple[Offer, ...], most: int, unavailable: tuple[Offer, ...] = ()) -> list[str]:
    """The types of the machines that were had, all of them unfit."""
    unfit, names = UnfitMachines(offers, most), []
    while True:
        taken = next(each for each in unfit.offers if each not in unavailable)
        names.append(taken.instance_type)
        if not unfit.another(error(), taken):
            return names


@pytest.mark.parametrize(
    ("offers", "most", "expected"),
    [
        ((A,), 3, "a a a"),
        ((A, B), 3, "a a b"),
        ((A, B, C), 6, "a a b b c c"),
        ((A, B), 6, "a a b b b b"),
        ((A, B), 1, "a"),
    ],
)
def test_the_same_offer_again_then_the_next(
    offers: tuple[Offer, ...], most: int, expected: str
) -> None:
    """The last one is stayed with, and the bound holds."""
    assert tried(offers, most) == expected.split()


def test_an_offer_without_capacity_is_not_gone_back_to() -> None:
    """The stack goes down the ladder by itself; what counts is the Offer that the machine came from."""
    assert tried((A, B, C), 4, unavailable=(A,)) == ["b", "b", "c", "c"]


def test_an_offer_that_a_refusal_has_named_is_tried_again_too() -> None:
    """Its region is on no rung; after it the ladder goes on as it was."""
    elsewhere = replace(A, region="eu")
    unfit = UnfitMachines((A, B), 9)
    assert unfit.another(error(), elsewhere)
    assert list(unfit.offers) == [elsewhere, A, B]
    assert unfit.another(error(), elsewhere)
    assert list(unfit.offers) == [A, B]


def test_the_last_error_tells_of_all() -> None:
    """Whoever reads it sees that it was not one bad machine."""
    unfit = UnfitMachines((A, B), 2)
    assert unfit.another(error("first"), A)
    last = error("second")
    assert not unfit.another(last, A)
    assert last.__notes__ == [
        "2 machines were tried and destroyed:\na in cloud/us: first\na in cloud/us: second"
    ]
