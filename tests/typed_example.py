"""A user's program, as type checkers see it; checked, never run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Any, assert_type

from dayfly import Job, Offer, Plan, Receipt, WarmCall, attach, cluster, gather, offers


@cluster
def doubled(x: int) -> int:
    """Decorated without parentheses."""
    return 2 * x


def cheap(plan: Plan) -> str | None:
    """A policy."""
    return "too dear" if plan.usd_per_hour > 4 else None


@cluster(
    provider="local",
    gpu=["H100", "A100-80GB"],
    max_price=4,
    memory="1GB",
    time="10m",
    policies=[cheap],
)
def halve(x: float) -> float:
    """Decorated with options."""
    return x / 2


async def use() -> None:
    """Every verb, with its type."""
    assert_type(doubled(3), int)
    assert_type(halve.local(1.0), float)
    job = halve.with_options(cores=2).submit(3.0)
    assert_type(job, Job[float])
    assert_type(job.result(), float)
    assert_type(await job, float)
    assert_type(job.receipt(), Receipt)
    assert_type(halve.plan(1.0), Plan)
    assert_type(await halve.aio(1.0), float)
    assert_type(await halve.submit.aio(1.0), Job[float])
    assert_type(await halve.plan.aio(1.0), Plan)
    assert_type(halve.plan_all_rungs(1.0), Plan)
    assert_type(await halve.plan_fast.aio(1.0), Plan)
    halve.plan(1.0).run()
    await halve.plan(1.0).run.aio()
    assert_type(offers(gpu="H100"), list[Offer])
    assert_type(await offers.aio(gpu="H100"), list[Offer])
    assert_type(await job.receipt.aio(timeout=5), Receipt)
    await job.stop.aio()
    async for line in job.logs.aio(follow=True):
        assert_type(line, str)
    assert_type(await job.detach.aio(), str)
    (await attach.aio(job.id, log=False)).result()
    with halve.session(slots=2) as s:
        assert_type(s(3.0), float)
        call = s.submit(3.0)
        assert_type(call, WarmCall[float])
        assert_type(await call, float)
        assert_type(s.map([1.0, 2.0], timeout="1m"), Iterator[float])
    assert_type(s.receipt(), Receipt)
    assert_type(halve.map([1.0], slots="gpu", retries=1), list[float])
    async with halve.session(isolation="process") as t:
        assert_type(await t.aio(3.0), float)
        assert_type(await t.submit.aio(3.0), WarmCall[float])
        assert_type(t.map.aio([1.0], retries=1), AsyncGenerator[float, None])
        async for value in t.map_unordered.aio([1.0, 2.0], max_concurrency=1):
            assert_type(value, float)
        assert_type([each async for each in t.starmap.aio([(1.0,)])], list[float])
        await call.stop.aio()
        await t.close.aio()
    assert_type(await t.receipt.aio(), Receipt)
    assert_type(await halve.map.aio([1.0], timeout="1m"), list[float])
    assert_type(await halve.starmap.aio([(1.0,)]), list[float])
    assert_type(await gather.aio(job, call, return_exceptions=True), list[Any])
