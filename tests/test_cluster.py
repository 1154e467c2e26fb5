"""The decorator: what it keeps of a function, and what it refuses before anything exists."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from dayfly import cluster
from dayfly.errors import (
    ConfigurationError,
    DeadlineReached,
    InstanceLost,
    OutputsFailed,
    PayloadError,
    RunFailed,
    SpecError,
)
from dayfly.infra.offers import Offer
from dayfly.runtime.cluster import RemoteFunction
from dayfly.runtime.context import Context
from dayfly.runtime.options import Options
from dayfly.runtime.verb import verb
from dayfly.runtime.warm_run import _shared_gpus
from dayfly.stacks import journal
from dayfly.stacks.settings import SPEC_FIELDS


def nothing_exists() -> bool:
    """No run directory was ever made."""
    return journal.histories(Context.open().workspace.runs, closed=True) == []


def test_a_decorated_function_keeps_its_name_and_docstring() -> None:
    """With and without parentheses."""

    @cluster
    def bare(x: int) -> int:
        """Doubles."""
        return 2 * x

    @cluster(cores=1)
    def optioned(x: int) -> int:
        """Doubles."""
        return 2 * x

    for function in (bare, optioned):
        assert function.__doc__ == "Doubles."
        assert function.local(4) == 8
    assert bare.__name__ == "bare"  # type: ignore[attr-defined]  # as functools.update_wrapper leaves it
    assert "bare on local" in repr(bare)


def test_options_can_be_changed_on_the_function() -> None:
    """`time` and `max_runtime` are one option, whichever was written first."""

    @cluster(time="1h", cores=1)
    def f() -> None: ...

    assert f.with_options(max_runtime="2h").spec.max_runtime_s == 7200
    assert f.with_options(max_runtime="2h").spec.cores == 1
    assert f.spec.max_runtime_s == 3600


def test_an_unknown_option_is_refused_where_it_is_written() -> None:
    """With the nearest name."""
    with pytest.raises(SpecError, match=r"'memroy'; did you mean 'memory'"):
        cluster(memroy="3GB")  # type: ignore[call-overload]  # the point


def test_type_checkers_know_every_option() -> None:
    """The fields of a Spec, and another spelling of one."""
    assert set(Options.__annotations__) == {*SPEC_FIELDS, "time", "policies"}


@pytest.mark.parametrize(
    "verb",
    [
        lambda f: f.map([1], slots=0),
        lambda f: f.starmap([(1,)], slots=0),
        lambda f: next(f.map_unordered([1], slots=0)),
        lambda f: asyncio.run(f.map.aio([1], slots=0)),
        lambda f: asyncio.run(f.starmap.aio([(1,)], slots=0)),
        lambda f: asyncio.run(anext(f.map_unordered.aio([1], slots=0))),
    ],
    ids=["map", "starmap", "map_unordered", "map.aio", "starmap.aio", "map_unordered.aio"],
)
def test_a_map_of_a_function_has_the_slots_of_its_session(
    verb: Callable[[Any], object],
) -> None:
    """What a session refuses is refused there as well."""

    @cluster(cores=1)
    def f(x: int) -> int:
        return x

    with pytest.raises(SpecError, match="slots=0 must be a whole number of at least 1"):
        verb(f)
    assert nothing_exists()


class Ending:
    """A session whose run ends early: leaving raises what has ended it, as do the items that have not come by then."""

    def __init__(self, come: int, error: Exception, *, apart: bool = False) -> None:
        self._come, self._error = come, error
        # Whether who carries the calls has called it otherwise than the run itself.
        self._told: Exception = RunFailed("no more comes") if apart else error

    def _values(
        self, items: Iterable[Any], *more: Iterable[Any], return_exceptions: bool = False
    ) -> Iterator[Any]:
        for number, item in enumerate(zip(items, *more, strict=False)):
            if number >= self._come and not return_exceptions:
                raise self._told
            yield item if number < self._come else self._told

    async def _values_aio(self, /, *items: Iterable[Any], **how: Any) -> AsyncIterator[Any]:
        for value in self._values(*items, **how):
            yield value

    @verb(_values_aio)
    def map(self, /, *items: Iterable[Any], **how: Any) -> Iterator[Any]:
        return self._values(*items, **how)

    starmap = map

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            raise self._error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *how: Any) -> None:
        self.__exit__(*how)


MAPS = {
    "map": lambda f, items, **how: f.map(items, range(9), **how),
    "starmap": lambda f, items, **how: f.starmap(items, **how),
    "map.aio": lambda f, items, **how: asyncio.run(f.map.aio(items, range(9), **how)),
    "starmap.aio": lambda f, items, **how: asyncio.run(f.starmap.aio(items, **how)),
}


@pytest.fixture(params=MAPS)
def mapped(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """One of the verbs that give a list, over a session that is given."""

    def call(session: Ending, items: Iterable[Any], **how: bool) -> Any:
        monkeypatch.setattr(RemoteFunction, "session", lambda *_, **__: session)
        return MAPS[request.param](cluster(cores=1)(abs), items, **how)

    return call


@pytest.mark.parametrize("apart", [False, True])
def test_what_has_come_of_a_map_outlives_a_run_that_ends_early(
    mapped: Callable[..., Any], apart: bool
) -> None:
    """Where exceptions are values: that which has ended the run stands in the place of what had not come."""
    ended = Ending(3, InstanceLost("gone", "preempted"), apart=apart)
    values = mapped(ended, range(5), return_exceptions=True)
    assert [isinstance(value, RunFailed) for value in values] == [False] * 3 + [True] * 2
    # Every value was here by the time that the run ended.
    assert len(mapped(ended, range(2), return_exceptions=True)) == 2


def test_what_an_early_end_has_taken_away_is_told(mapped: Callable[..., Any]) -> None:
    """With what keeps it; what no item can tell is raised all the same."""
    early = DeadlineReached("max_runtime")
    with pytest.raises(DeadlineReached) as raised:
        mapped(Ending(3, early), range(5))
    said = "3 of 5 items had come; return_exceptions=True or map_unordered keeps them"
    assert raised.value.__notes__ == [said]
    lost = OutputsFailed("its machine went before")
    with pytest.raises(OutputsFailed) as raised_too:
        mapped(Ending(9, lost), iter(range(5)), return_exceptions=True)
    assert raised_too.value.__notes__ == ["5 items had come; map_unordered keeps them"]
    own = KeyError("mine")
    with pytest.raises(KeyError) as mine:
        mapped(Ending(3, own), range(5))
    assert not hasattr(mine.value, "__notes__")
    with pytest.raises(DeadlineReached) as at_once:
        mapped(Ending(0, DeadlineReached("max_runtime")), range(5))
    assert not hasattr(at_once.value, "__notes__")


def test_slots_that_nobody_has_chosen_are_told_where_there_are_gpus() -> None:
    """Every call would see all of them; without a GPU there is nothing to say."""
    without = Offer("local", "here", "this-computer", 26, 8 * 10**9, 0.0)
    with_gpus = dataclasses.replace(without, gpus=8, gpu_model="H100")
    assert _shared_gpus([without]) == ""
    said = _shared_gpus([without, with_gpus])
    assert "as there are cores (26)" in said
    assert "sees all 8 GPUs" in said


def test_a_positional_option_is_refused() -> None:
    """`@cluster("local")` is a mistake that deserves a sentence."""
    with pytest.raises(SpecError, match="options go by keyword"):
        cluster("local")  # type: ignore[call-overload]  # the point


def test_settings_of_the_project_lie_below_the_decorator_s_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Argument over environment over project."""
    (tmp_path / "pyproject.toml").write_text('[tool.dayfly]\nmax_runtime = "3h"\nretries = 2\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAYFLY_RETRIES", "1")

    @cluster(cores=1)
    def f() -> None: ...

    assert (f.spec.max_runtime_s, f.spec.retries) == (10800, 1)
    assert f.with_options(time="5m", retries=0).spec.retries == 0
    assert f.with_options(time="5m").spec.max_runtime_s == 300


def test_a_method_is_bound_as_methods_are() -> None:
    """The instance travels as the first argument."""

    class Model:
        factor = 3

        @cluster
        def scaled(self, x: int) -> int:
            return self.factor * x

    assert Model().scaled.local(2) == 6
    assert Model.scaled.spec.providers == ("local",)


@pytest.mark.parametrize("thing", [threading.Lock(), socket.socket])
def test_a_captured_lock_or_socket_is_named_before_anything_exists(thing: object) -> None:
    """By its path in the function."""
    held = thing() if callable(thing) else thing
    try:
        with pytest.raises(PayloadError, match="'held'"):
            cluster(environment=[])(lambda: held)()
    finally:
        if isinstance(held, socket.socket):
            held.close()
    assert nothing_exists()


def test_a_secret_that_is_not_set_is_refused_by_name() -> None:
    """Before anything exists."""

    @cluster(secrets=["DAYFLY_TEST_ABSENT"])
    def f() -> None: ...

    with pytest.raises(SpecError, match="DAYFLY_TEST_ABSENT"):
        f()
    assert nothing_exists()


def test_a_secret_too_short_to_be_masked_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its value would stand in the log; it is not repeated either."""
    monkeypatch.setenv("DAYFLY_TEST_PIN", "a1b2c")

    @cluster(secrets=["DAYFLY_TEST_PIN"])
    def f() -> None: ...

    with pytest.raises(SpecError, match="DAYFLY_TEST_PIN") as refused:
        f()
    assert "a1b2c" not in str(refused.value)
    assert nothing_exists()


def test_arguments_that_do_not_fit_are_refused_before_anything_exists() -> None:
    """As the plain call would be, with the function's signature."""

    @cluster
    def f(rate: float, rounds: int = 3) -> None: ...

    with pytest.raises(PayloadError, match=r"f\(rate: .*missing a required argument: 'rate'"):
        f()  # type: ignore[call-arg]  # the point
    with pytest.raises(TypeError, match="too many positional arguments"):
        f(0.1, 2, 3)  # type: ignore[call-arg]  # the point
    assert nothing_exists()


@pytest.mark.process
def test_the_hooks_of_the_end_are_there_before_a_first_call() -> None:
    """A first call may come from a thread when the main thread has ended: it is too late to set them then."""
    script = (
        "import sys, dayfly\nassert 'dayfly.runtime.at_exit' not in sys.modules\n"
        "dayfly.cluster(len)\nassert 'dayfly.runtime.at_exit' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_no_sshd_is_refused_before_anything_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    from dayfly.infra import sshd

    def missing() -> str:
        raise ConfigurationError(
            'provider="local" needs sshd and finds none: sudo apt-get install openssh-server'
        )

    monkeypatch.setattr(sshd, "path", missing)

    @cluster(environment=[])
    def f() -> None: ...

    with pytest.raises(ConfigurationError, match="openssh-server"):
        f()
    assert nothing_exists()


def test_no_engine_and_no_network_is_refused_before_anything_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Naming what was tried."""
    from dayfly.errors import EngineMissing
    from dayfly.stacks import engine

    def offline(progress: object) -> None:
        raise EngineMissing(
            "PATH: no `pulumi` there; the installer: no network; the build: no network"
        )

    monkeypatch.setenv("DAYFLY_ENGINE_HOME", str(tmp_path / "engine"))
    monkeypatch.setenv("PATH", os.pathsep.join(["/usr/sbin", "/usr/bin", "/bin"]))
    monkeypatch.setattr(engine, "ensure", offline)

    @cluster(environment=[])
    def f() -> None: ...

    with pytest.raises(EngineMissing, match="PATH"):
        f()
    assert nothing_exists()
