"""The decorator: a function with a Spec, and the verbs to run it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Generator,
    Iterable,
    Mapping,
    Sequence,
    Sized,
)
from os import PathLike
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    ParamSpec,
    Self,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from dayfly.errors import DayflyError, RunFailed, SpecError
from dayfly.infra.spec import Spec
from dayfly.runtime.options import Options, split
from dayfly.runtime.verb import act, verb
from dayfly.stacks import settings

if TYPE_CHECKING:
    from dayfly.infra.plan import Plan
    from dayfly.runtime.call import Call
    from dayfly.runtime.job import Job
    from dayfly.runtime.warm_map import Ahead, MapOptions
    from dayfly.runtime.warm_run import Isolation, Slots, WarmRun
    from dayfly.stacks.policies import Check

P = ParamSpec("P")
R = TypeVar("R")


class RemoteFunction(Generic[P, R]):
    """A function that runs on a machine of its own.

    Calling it provisions, runs, returns the value and destroys. The bare function is `__dayfly_function__`. What blocks
    has an awaitable form: `await f.aio(3)`, `await f.submit.aio(3)`, `await f.map.aio(items)`, `await f.plan.aio(3)`, and
    `async with f.session() as s`.

    Attributes:
        planned: the plan that its calls keep to; None where they keep to none.
    """

    def __init__(
        self, function: Callable[P, R], options: Options, planned: Plan | None = None
    ) -> None:
        if isinstance(function, classmethod | staticmethod):
            raise SpecError(
                f"put @cluster below @{type(function).__name__}, directly above the function"
            )
        if not callable(function):
            raise SpecError(
                f"@cluster decorates functions, not {function!r}; options go by keyword"
            )
        # Its hooks for the end of the process can be set only before that has begun; a first call may come later.
        importlib.import_module("dayfly.runtime.at_exit")
        functools.update_wrapper(self, function)
        self.__dayfly_function__ = function
        self._options, self._policies = split(options)
        self.planned = planned
        self.spec  # noqa: B018  # a Spec that cannot be is refused here, where it is written

    @property
    def spec(self) -> Spec:
        """What is asked for: the decorator's options above the settings of project and user."""
        below = settings.load().spec_options()
        if "time" in self._options:
            below.pop("max_runtime", None)
        return Spec.from_options({**below, **self._options})

    @property
    def policies(self) -> tuple[Check, ...]:
        """What each of its plans has to pass, beside the policies of project and user."""
        return self._policies

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs it there and returns its value, or raises its exception.

        Raises:
            DayflyError: it could not run, or its machine could not be proved gone.
        """
        from dayfly.runtime.interrupt import wait_for
        from dayfly.runtime.job import Job

        # Its caller waits, and so changes no argument meanwhile.
        return cast("R", wait_for(Job.start(self._prepared(args, kwargs, borrowed=True))))

    def _prepared(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], *, borrowed: bool = False
    ) -> Call:
        from dayfly.runtime.call import Call

        function = self.__dayfly_function__
        call = Call.prepare(
            function, args, kwargs, self.spec, policies=self._policies, borrowed=borrowed
        )
        return call if self.planned is None else call.as_planned(self.planned)

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """As the call itself, without blocking the event loop; a task that is cancelled meanwhile stops the function."""
        return await (await self.submit.aio(*args, **kwargs))

    async def _submit_aio(self, /, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        from dayfly.runtime.aside import aside
        from dayfly.runtime.job import Job

        # Until it is prepared nothing exists, and nobody who waits no longer gets a machine.
        prepare = functools.partial(self._prepared, args, kwargs)
        return cast("Job[R]", await Job.start(await aside(prepare)).begun())

    @verb(_submit_aio)
    def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Starts it and returns at once; what cannot work is refused here, before anything exists.

        Raises:
            SpecError, PayloadError, ConfigurationError, EngineMissing, BudgetExceeded, PlanChanged: nothing was spent.
        """
        from dayfly.runtime.job import Job

        return cast("Job[R]", Job.start(self._prepared(args, kwargs)))

    def session(
        self,
        *,
        slots: Slots | None = None,
        isolation: Isolation = "fork",
        linger: float | str = "60s",
        idle: float | str | None = None,
    ) -> WarmRun[P, R]:
        """One run whose machine is kept for many calls, for as long as a `with` block, or `async with`, lasts.

        Args:
            slots: calls at once on the machine: a number, "cores" (the default), or "gpu" for one on each GPU.
            isolation: "fork" makes each call in a process of its own; "process" makes them one after the other in one
                that stays: faster, and what a crash takes with it is all that the function has kept there.
            linger: for how long the machine waits for a client that is gone, when it has nothing to do.
            idle: for how long it waits for a client that is there and has no call for it, such as a notebook that was
                left open; the run ends then. None lets it live until the block is left, or max_runtime.

        Raises:
            SpecError: one of them cannot be.
        """
        from dayfly.runtime.warm_run import WarmRun

        if self.planned is not None:
            raise SpecError(
                "a plan is one of a single call: f.as_planned(plan)(...), or .submit(...)"
            )
        return WarmRun(
            self.__dayfly_function__,
            self.spec,
            slots=slots,
            isolation=isolation,
            linger=linger,
            idle=idle,
            policies=self._policies,
        )

    def _map_session(
        self, slots: Slots | None, how: MapOptions, *items: Iterable[Any], star: bool = False
    ) -> tuple[WarmRun[P, R], list[Ahead]]:
        """The session of a map, which knows of its first call, and what the map is to go through."""
        from dayfly.runtime.warm_map import Ahead

        run, ahead = self.session(slots=slots), [Ahead(each) for each in items]

        def first() -> Sequence[Any] | None:
            found = [each.first(tuple if star else None) for each in ahead]
            return next(iter(found[0]) if star else zip(*found, strict=False), None)

        run.first_call, run.first_may_fail = first, bool(how.get("return_exceptions"))
        return run, ahead

    async def _map_aio(
        self,
        items: Iterable[Any],
        *more: Iterable[Any],
        slots: Slots | None = None,
        **how: Unpack[MapOptions],
    ) -> list[R]:
        run, ahead = self._map_session(slots, how, items, *more)
        with _Kept[R](how, items, *more) as kept:
            async with run:
                await kept.fill_aio(run.map.aio(*ahead, **how))
        return kept.values

    @verb(_map_aio)
    def map(
        self,
        items: Iterable[Any],
        *more: Iterable[Any],
        slots: Slots | None = None,
        **how: Unpack[MapOptions],
    ) -> list[R]:
        """Calls it for each item on one machine, and gives the values in the items' order.

        It is a session around `WarmRun.map`, where the other arguments are explained.

        Args:
            items: the first argument of each call.
            more: the second argument, and so on.
            slots: calls at once on the machine, as of `session`: where GPUs are asked for, "gpu" gives each call its own.
            how: see MapOptions.

        Raises:
            Exception: what the first item to fail has raised, unless `return_exceptions`.
            DayflyError: it could not run, or its machine could not be proved gone. With `return_exceptions` what ends the
                run early takes the place of the values that had not come.
        """
        run, ahead = self._map_session(slots, how, items, *more)
        with _Kept[R](how, items, *more) as kept, run:
            kept.fill(run.map(*ahead, **how))
        return kept.values

    async def _starmap_aio(
        self,
        items: Iterable[Sequence[Any]],
        *,
        slots: Slots | None = None,
        **how: Unpack[MapOptions],
    ) -> list[R]:
        run, ahead = self._map_session(slots, how, items, star=True)
        with _Kept[R](how, items) as kept:
            async with run:
                await kept.fill_aio(run.starmap.aio(ahead[0], **how))
        return kept.values

    @verb(_starmap_aio)
    def starmap(
        self,
        items: Iterable[Sequence[Any]],
        *,
        slots: Slots | None = None,
        **how: Unpack[MapOptions],
    ) -> list[R]:
        """As `map`, each item holding all the arguments of its call."""
        run, ahead = self._map_session(slots, how, items, star=True)
        with _Kept[R](how, items) as kept, run:
            kept.fill(run.starmap(ahead[0], **how))
        return kept.values

    async def _map_unordered_aio(
        self,
        items: Iterable[Any],
        *more: Iterable[Any],
        slots: Slots | None = None,
        **how: Unpack[MapOptions],
    ) -> AsyncGenerator[R, None]:
        run, ahead = self._map_session(slots, how, items, *more)
        async with run:
            unordered = run.map_unordered.aio(*ahead, **how)
            async with contextlib.aclosing(unordered) as values:
                async for value in values:
                    yield value

    @verb(_map_unordered_aio)
    def map_unordered(
        self,
        items: Iterable[Any],
        *more: Iterable[Any],
        slots: Slots | None = None,
        **how: Unpack[MapOptions],
    ) -> Generator[R, None, None]:
        """As `map`, each value as soon as it is there.

        It returns at once: the machine is made when the first value is asked for, and destroyed behind the last, or where the
        values are left early (`close`, or the end of the loop that no longer holds them).
        """
        run, ahead = self._map_session(slots, how, items, *more)
        with run:
            yield from run.map_unordered(*ahead, **how)

    async def _plan_aio(self, /, *args: P.args, **kwargs: P.kwargs) -> Plan:
        from dayfly.runtime.aside import aside

        return await aside(functools.partial(self.plan, *args, **kwargs))

    @verb(_plan_aio)
    def plan(self, /, *args: P.args, **kwargs: P.kwargs) -> Plan:
        """Every resource from the real engine's preview, $/h and worst case; nothing is created.

        Where the engine cannot be asked, as without a vendor's plugin or without credentials, the resources are listed by
        running the program without it, and the plan says so and why; so are, of the lower rungs of the ladder, those of the first
        rung of each further provider.

        Raises:
            PolicyDenied: no rung of the ladder passes the policies.
        """
        return self._plan(args, kwargs)

    async def _plan_all_rungs_aio(self, /, *args: P.args, **kwargs: P.kwargs) -> Plan:
        from dayfly.runtime.aside import aside

        return await aside(functools.partial(self.plan_all_rungs, *args, **kwargs))

    @verb(_plan_all_rungs_aio)
    def plan_all_rungs(self, /, *args: P.args, **kwargs: P.kwargs) -> Plan:
        """As `plan`, with the engine's preview of every rung of the ladder, which takes seconds for each."""
        return self._plan(args, kwargs, all_rungs=True)

    async def _plan_fast_aio(self, /, *args: P.args, **kwargs: P.kwargs) -> Plan:
        from dayfly.runtime.aside import aside

        return await aside(functools.partial(self.plan_fast, *args, **kwargs))

    @verb(_plan_fast_aio)
    def plan_fast(self, /, *args: P.args, **kwargs: P.kwargs) -> Plan:
        """As `plan`, from what is known on this computer: prices of the catalog, and resources as they were listed before, or not
        at all. No engine, no request, and no Pulumi.
        """
        return self._plan(args, kwargs, fast=True)

    def _plan(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        all_rungs: bool = False,
        fast: bool = False,
    ) -> Plan:
        from dayfly.runtime.call import Call

        call = Call.prepare(
            self.__dayfly_function__,
            args,
            kwargs,
            self.spec,
            policies=self._policies,
            to_run=False,
            live=not fast,
        )

        async def run_aio(plan: Plan, /) -> R:
            return await self.as_planned(plan).aio(*args, **kwargs)

        @act(run_aio)
        def run(plan: Plan, /) -> R:
            return self.as_planned(plan)(*args, **kwargs)

        return dataclasses.replace(call.preview(all_rungs=all_rungs, fast=fast), runner=run)

    def as_planned(self, plan: Plan | str | PathLike[str]) -> RemoteFunction[P, R]:
        """The same function, whose calls do what was planned, or nothing; the arguments are the caller's.

        Args:
            plan: one of `f.plan`, or the file in which one was saved.

        Raises:
            ConfigurationError: there is no plan in that file.
        """
        from dayfly.infra.plan import Plan

        found = plan if isinstance(plan, Plan) else Plan.load(plan)
        return self._like(planned=found)

    def _like(
        self,
        function: Callable[P, R] | None = None,
        options: Mapping[str, Any] | None = None,
        planned: Plan | None = None,
        checks: tuple[Check, ...] = (),
    ) -> RemoteFunction[P, R]:
        """One like this, but for what is given; a policy is only ever added."""
        chosen = {**(self._options if options is None else options)}
        return RemoteFunction(
            function or self.__dayfly_function__,
            cast("Options", {**chosen, "policies": (*self._policies, *checks)}),
            planned or self.planned,
        )

    def local(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Calls the bare function in this process; a `Data` of this computer, wherever in the arguments, is its path here."""
        from dayfly.runtime.data import here

        positional, named = here((args, kwargs))
        return self.__dayfly_function__(*positional, **named)

    def with_options(self, **options: Unpack[Options]) -> RemoteFunction[P, R]:
        """The same function with other options; `policies` come beside those that it has."""
        if not options:
            return self
        merged = dict(self._options)
        if self.planned is not None:
            raise SpecError(
                "other options would not be what was planned: give them before f.plan(...)"
            )
        given, checks = split(options)
        for twin in ({"time", "max_runtime"},):
            if twin & set(given):
                merged = {name: value for name, value in merged.items() if name not in twin}
        return self._like(options={**merged, **given}, checks=checks)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """A method's own function, bound as methods are."""
        if instance is None:
            return self
        bound = self.__dayfly_function__.__get__(instance, owner)
        return self._like(bound)

    def __repr__(self) -> str:
        name = getattr(self.__dayfly_function__, "__qualname__", repr(self.__dayfly_function__))
        return f"<cluster function {name} on {' or '.join(self.spec.providers)}>"


class _Kept(Generic[R]):
    """The values of a map that have come, around its session: without it they would go with a run that ends early.

    Where exceptions are values every item has one as soon as the last has come. That what has ended the run is raised again
    when the session is left would only take them away, and nobody else has them.

    Args:
        how: the map's options.
        items: what it is called with.

    Attributes:
        values: those that have come.
    """

    def __init__(self, how: MapOptions, *items: Iterable[Any]) -> None:
        self._returns, self._items = bool(how.get("return_exceptions")), items
        self.values: list[R] = []
        self._whole = False

    def fill(self, values: Iterable[R]) -> None:
        """Takes all of them, one by one."""
        self.values.extend(values)
        self._whole = True

    async def fill_aio(self, values: AsyncIterable[R]) -> None:
        """As `fill`, without blocking the event loop."""
        async for value in values:
            self.values.append(value)
        self._whole = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, DayflyError):
            return False
        is_told = isinstance(error, RunFailed) or any(each is error for each in self.values)
        if self._whole and self._returns and is_told:
            return True
        if self.values:
            error.add_note(self._note())
        return False

    def _note(self) -> str:
        lengths = [len(each) for each in self._items if isinstance(each, Sized)]
        total = f" of {min(lengths)}" if len(lengths) == len(self._items) else ""
        ways = (
            "map_unordered keeps"
            if self._returns
            else "return_exceptions=True or map_unordered keeps"
        )
        return f"{len(self.values)}{total} items had come; {ways} them"


@overload
def cluster(function: Callable[P, R], /) -> RemoteFunction[P, R]: ...


@overload
def cluster(**options: Unpack[Options]) -> Callable[[Callable[P, R]], RemoteFunction[P, R]]: ...


def cluster(function: Callable[P, R] | None = None, /, **options: Unpack[Options]) -> Any:
    """Makes a function run on a machine that exists for that call only.

    Args:
        function: the function, where the decorator is used without parentheses.
        options: the fields of `Spec`, by keyword, and `policies`.

    Raises:
        SpecError: an option is unknown or cannot be; nothing was spent.
    """
    if function is not None:
        return RemoteFunction(function, options)
    Spec.from_options(split(options)[0])

    def decorate(bare: Callable[P, R]) -> RemoteFunction[P, R]:
        return RemoteFunction(bare, options)

    return decorate
