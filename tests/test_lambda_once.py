"""A creating request is fenced, recorded before it is sent, and never sent blindly twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dayfly.infra import creations, fence
from dayfly.infra.fence import FenceShut
from dayfly.infra.lambda_errors import ApiError, MaybeCreated, Unanswered
from dayfly.infra.lambda_once import Once

LOST = Unanswered("launching", "dayfly/unanswered", "reset")
FULL = ApiError("launching", "instance-operations/launch/insufficient-capacity", "none left")
BUSY = ApiError("launching", "http/429", "too many requests")


class World:
    """An API on a clock of its own: what it says to each request, and what its listing shows when."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.time = 1000.0
        self.answers: list[ApiError | str] = []
        self.sent = 0
        self.listed: Callable[[], list[str]] = list
        self.on_sleep: Callable[[], None] = lambda: None

    def once(self, **changes: Any) -> Once:
        values: dict[str, Any] = {
            "directory": self.directory,
            "deadline": 9e9,
            "kind": "instance",
            "await_turn": lambda check: check(),
            "post": self.post,
            "find": self.listed,
            "look_for_s": 60.0,
            "now": lambda: self.time,
            "sleep": self.sleep,
        }
        return Once(**values | changes)

    def post(self) -> str:
        (creation,) = [c for c in creations.read(self.directory) if c.outcome == "open"]
        assert creation.kind == "instance", "it must be on record before it is sent"
        self.sent += 1
        answer = self.answers.pop(0)
        if isinstance(answer, ApiError):
            raise answer
        return answer

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        self.on_sleep()

    def outcomes(self) -> list[tuple[str, str]]:
        return [(c.id, c.outcome) for c in creations.read(self.directory)]


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Of one run."""
    return World(tmp_path)


def test_an_answer_is_on_record(world: World) -> None:
    """And asking again gives the same machine without another request."""
    world.answers = ["i-1"]
    assert world.once().make() == "i-1"
    assert world.outcomes() == [("i-1", "answered")]
    assert world.once().make() == "i-1"
    assert world.sent == 1


def test_a_refusal_is_on_record_with_its_reason(world: World) -> None:
    """So that nobody waits for something to appear late."""
    world.answers = [FULL]
    with pytest.raises(ApiError):
        world.once().make()
    (creation,) = creations.read(world.directory)
    assert creation.outcome == "refused"
    assert "insufficient-capacity" in creation.why


def test_a_lost_answer_is_looked_for_and_adopted(world: World) -> None:
    """A listing may lag, and one that fails says nothing."""
    world.answers = [LOST]

    def listed() -> list[str]:
        if world.time < 1010:
            raise ApiError("listing", "http/502", "bad gateway")
        return [] if world.time < 1030 else ["i-9"]

    world.listed = listed
    assert world.once().make() == "i-9"
    assert world.sent == 1
    assert world.outcomes() == [("i-9", "answered")]


def test_what_no_listing_shows_is_a_maybe_and_never_a_second_request(world: World) -> None:
    """Also when the engine asks again: the record says that the first one was never answered."""
    world.answers = [LOST]
    for _ in range(2):
        with pytest.raises(MaybeCreated, match="maybe") as maybe:
            world.once().make()
        assert maybe.value.code == "dayfly/maybe-created"
    assert world.sent == 1
    assert world.time == pytest.approx(1120.0)
    assert world.outcomes() == [("", "open")]


def test_looking_ends_as_soon_as_the_run_is_being_closed(world: World) -> None:
    """Whoever closes it looks as well, and holds the lock meanwhile."""
    world.answers = [LOST]
    world.on_sleep = lambda: fence.shut(world.directory)
    with pytest.raises(MaybeCreated):
        world.once().make()
    assert world.time == pytest.approx(1001.0)


def test_looking_holds_the_fence_for_nobody(world: World) -> None:
    """A teardown need not wait for it."""
    world.answers = [LOST]
    passed = list[bool]()
    world.on_sleep = lambda: passed.append(fence.is_passed(world.directory, 0.0))
    with pytest.raises(MaybeCreated):
        world.once(look_for_s=1.0).make()
    assert passed == [True]


def test_a_request_that_came_too_early_may_be_sent_again(world: World) -> None:
    """It was turned away at the door; each attempt is on record."""
    late = ApiError("launching", "http/429", "too many requests", 7.0)
    world.answers = [BUSY, late, "i-1"]
    assert world.once().make() == "i-1"
    assert world.outcomes() == [("", "refused"), ("", "refused"), ("i-1", "answered")]
    assert world.time == pytest.approx(1012.0)


@pytest.mark.parametrize("asked_s", [121.0, 1e9, float("inf")])
def test_an_api_that_asks_to_wait_for_long_is_an_error_that_says_so(
    world: World, asked_s: float
) -> None:
    """Not a silent wait until the deadline."""
    world.answers = [ApiError("launching", "http/429", "too many requests", asked_s), "i-1"]
    with pytest.raises(ApiError, match=f"asks to wait {asked_s:.0f} s") as busy:
        world.once().make()
    assert (busy.value.kind, world.time) == ("rate_limit", 1000.0)
    assert world.outcomes() == [("", "refused")]


def test_an_api_that_is_never_free_is_an_error(world: World) -> None:
    """Not a wait for ever."""
    world.answers = [BUSY] * 20
    with pytest.raises(ApiError) as busy:
        world.once().make()
    assert busy.value.kind == "rate_limit"
    assert len(world.answers) == 14


def test_a_shut_fence_is_noticed_before_and_after_the_turn(world: World) -> None:
    """An orphan wakes up late: nothing is sent, and nothing is on record."""
    world.answers = ["i-1"]

    def turn(check: Callable[[], None]) -> None:
        check()
        fence.shut(world.directory)

    with pytest.raises(FenceShut):
        world.once(await_turn=turn).make()
    with pytest.raises(FenceShut):
        world.once().make()
    assert (world.sent, world.outcomes()) == (0, [])


def test_waiting_to_send_again_ends_at_the_deadline(world: World) -> None:
    """The machine would have to end at once."""
    world.answers = [BUSY] * 20
    with pytest.raises(FenceShut, match="deadline"):
        world.once(deadline=1003.0).make()
    assert world.sent == 1


def test_an_id_is_worth_more_than_its_record(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full by then: the engine gets the id all the same."""

    def full(*_: object) -> None:
        raise OSError("no space")

    world.answers = ["i-1"]
    monkeypatch.setattr(creations, "answered", full)
    assert world.once().make() == "i-1"


def test_without_a_record_nothing_is_sent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk was full before."""

    def full(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(creations, "_append", full)
    with pytest.raises(OSError, match="no space"):
        world.once().make()
    assert world.sent == 0
