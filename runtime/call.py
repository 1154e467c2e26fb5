"""The whole story of one call on one screen: plan, machine, session, environment, function, result, gone."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import inspect
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dayfly.errors import (
    KeeperMissing,
    PayloadError,
    PlanChanged,
    SpecError,
)
from dayfly.infra import providers
from dayfly.infra.listing import Listing
from dayfly.infra.offers import Offer
from dayfly.infra.plan import Plan
from dayfly.infra.planning import make_plan
from dayfly.infra.spec import Spec
from dayfly.infra.units import human_bytes
from dayfly.runtime import (
    accelerator,
    checkpoint_bucket,
    entrust,
    environment,
    idle_floor,
    interpreter,
    keeping,
    listings,
    outputs,
    payload,
    ranks,
    redact,
    system_packages,
)
from dayfly.runtime.attend import Attendance
from dayfly.runtime.cargo import Cargo, with_backends
from dayfly.runtime.context import Context
from dayfly.runtime.display import Display
from dayfly.runtime.environment import Recipe
from dayfly.runtime.heal import heal
from dayfly.runtime.ladder import with_left_out
from dayfly.runtime.ledger import Times
from dayfly.runtime.payload import Payload
from dayfly.stacks import allowance, plugin_install, plugins
from dayfly.stacks.engine import Engine
from dayfly.stacks.kept_stack import KeptStack
from dayfly.stacks.policies import Check, Policies
from dayfly.stacks.run_stack import RunStack

if TYPE_CHECKING:
    from pathlib import Path

    from dayfly.runtime.dask_cluster import DaskCluster
    from dayfly.runtime.data import Data
    from dayfly.runtime.records import Task
    from dayfly.runtime.session import Session


@dataclass(frozen=True)
class Call:
    """One function with its arguments, checked, pickled and priced: nothing exists yet, and nothing can be wrong with it.

    Attributes:
        context: where this process works.
        engine: the Pulumi CLI; None in a call that is only planned.
        spec: what is asked for.
        offers: the ladder: what policies allow of it.
        payload: function and arguments.
        recipe: what is to be installed.
        secrets: values of the named variables.
        cargo: what the Data among the arguments brings to the machine.
        display: where progress is shown.
        begun: of a warm run: takes the session as soon as calls can be made; None where one call is all.
        serving: of a warm run on several machines: what each of them runs.
        idle_s: of a warm run: seconds without a call after which it ends; 0 for never.
        planned: it keeps to a plan: no machine that was kept is taken, which another ladder has chosen.
        began: when it was asked for, on the clock of `time.perf_counter`.
        pickle_s: how long making bytes of it took.
        policies: what it has to pass.
        left_out: why a provider that was named has no rung.
        denied: rungs that these have taken out of the ladder, with their reasons.
        fast: nobody is asked for it: resources are those that are known already.
    """

    context: Context
    engine: Engine | None
    spec: Spec
    offers: tuple[Offer, ...]
    payload: Payload
    recipe: Recipe
    secrets: Mapping[str, str] = field(repr=False)
    cargo: Cargo
    display: Display
    begun: Callable[[Session], None] | None = field(default=None, repr=False)
    serving: DaskCluster | None = field(default=None, repr=False)
    idle_s: float = 0.0
    planned: bool = False
    began: float = 0.0
    pickle_s: float = 0.0
    policies: Policies = field(default_factory=Policies)
    left_out: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    fast: bool = False

    @classmethod
    def prepare(
        cls,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        spec: Spec,
        display: Display | None = None,
        *,
        policies: Sequence[Check] = (),
        to_run: bool = True,
        live: bool = True,
        borrowed: bool = False,
    ) -> Call:
        """Step 1: everything that can be refused is refused here.

        Args:
            function, args, kwargs: what to call.
            spec: what is asked for.
            display: where progress is shown.
            policies: those of the function, beside those of the settings.
            to_run: False for a plan alone, which needs no credentials: the catalog's prices do.
            live: False for the catalog's prices, wherever more could be asked.
            borrowed: True where nobody changes an argument before it is sent, so that a large one need not be copied.

        Raises:
            SpecError, PayloadError, ConfigurationError, EngineMissing, BudgetExceeded, PolicyDenied: nothing exists, nothing was
                spent.
        """

        if to_run and spec.nodes > 1 and spec.distributed is None:
            raise SpecError(
                f"nodes={spec.nodes}: a call runs on one machine, and the others would be paid for nothing:"
                ' distributed="torchrun" runs it on each, f.map(items) has all of them make the calls'
            )

        def pack() -> Payload:
            check_arguments(function, args, kwargs)
            return payload.pack(function, args, kwargs)

        return cls._around(
            pack,
            spec,
            display,
            policies,
            to_run=to_run,
            live=live,
            borrowed=borrowed or not to_run,
        )

    @classmethod
    def prepare_warm(
        cls,
        function: Callable[..., Any],
        spec: Spec,
        settings: Mapping[str, Any],
        begun: Callable[[Session], None],
        policies: Sequence[Check] = (),
        *,
        data: Mapping[str, Data] | None = None,
    ) -> Call:
        """Step 1 of a warm run, in which the function is to be called many times.

        Args:
            function: what will be called.
            spec: what is asked for.
            settings: how the calls are to be made, for the machine.
            begun: takes the session as soon as calls can be made there.
            policies: those of the function, beside those of the settings.
            data: what the first call is given, where that is known: the machine gets what fetches from there.

        Raises:
            SpecError, PayloadError, ConfigurationError, EngineMissing, BudgetExceeded, PolicyDenied: nothing exists, nothing was
                spent.
        """

        def pack() -> Payload:
            task = payload.warm_task(function, settings)
            # What lies here is sent with its call.
            behind_urls = {key: each for key, each in (data or {}).items() if each.scheme}
            return dataclasses.replace(task, data={**task.data, **behind_urls})

        call = cls._around(pack, spec, None, policies, to_run=True)
        return dataclasses.replace(call, begun=begun, idle_s=settings["idle_s"])

    @classmethod
    def _around(
        cls,
        pack: Callable[[], Payload],
        spec: Spec,
        display: Display | None,
        checks: Sequence[Check],
        *,
        to_run: bool,
        live: bool = True,
        borrowed: bool = False,
    ) -> Call:
        began, context = time.perf_counter(), Context.open()
        asked = Policies.of(context.settings, checks)
        secrets = _secrets(spec)
        # It takes its tenth of a second while all this is looked at; whether it came is seen when it is needed.
        with contextlib.suppress(KeeperMissing):
            entrust.call(context.workspace)
        redact.remember(secrets.values())
        outputs.check_folder(spec.outputs)
        packing = time.perf_counter()
        packed = pack()
        if not borrowed:
            kept = packed.task.settled(context.workspace.home / "cache")
            packed = dataclasses.replace(packed, task=kept)
        pickle_s = time.perf_counter() - packing
        recipe = environment.recipe(
            spec.environment,
            packed.project_root,
            packed.imports,
            same_computer=all(providers.load(name).same_computer for name in spec.providers),
        )
        interpreter.check(spec.providers, recipe.variables)
        system_packages.check(spec.providers, spec.system_packages)
        recipe = with_backends(recipe, packed.data.values())
        if spec.checkpoints is not None:
            checkpoint_bucket.check(spec)
            recipe = checkpoint_bucket.with_backend(recipe, spec.checkpoints)
        cargo = Cargo(packed.data)
        shown = display or Display.standard()
        for warning in recipe.warnings:
            shown.warning(warning)
        for warning in cargo.warnings():
            shown.note(warning)
        offers, left_out = with_left_out(spec, shown.note, to_run=to_run, live=live)
        heal(context, shown.note)
        if to_run and spec.kept is None:
            # Also when its intent is written, under a lock: here nobody has waited for anything yet.
            workspace = context.workspace
            offers = allowance.affordable(workspace.home, workspace.budgets, spec, offers)
        call = cls(
            context,
            None,
            spec,
            offers,
            packed,
            recipe,
            secrets,
            cargo,
            shown,
            began=began,
            pickle_s=pickle_s,
            policies=asked,
            left_out=left_out,
            fast=not live,
        )._sifted()
        if not to_run:
            return call
        engine = context.engine(shown.note)
        equip(engine, call.offers, context.workspace.pulumi_home, shown.note)
        return dataclasses.replace(call, engine=engine)

    def _sifted(self) -> Call:
        """The same on the rungs that the policies allow.

        Raises:
            PolicyDenied: there is none; has the reason against each.
        """
        offers, denied = self.policies.sift(self.offers, self._plans, fast=self.fast)
        for each in denied:
            self.display.note(f"not in the ladder: {each}")
        return dataclasses.replace(self, offers=offers, denied=denied)

    def _plans(self, offers: Sequence[Offer]) -> list[Plan]:
        """A plan of each rung alone, with its resources where a policy may look at them; in a fast plan, if they are known."""
        listed = [Listing()] * len(offers)
        if self.policies.of_resources and self.fast:
            listed = listings.kept(self.context, self.spec, offers)
        elif self.policies.of_resources:
            listed = listings.recorded(self.context, self.spec, offers)
        return [self.plan([each], [offer]) for offer, each in zip(offers, listed, strict=True)]

    def permit(self, offer: Offer) -> None:
        """Asks the policies about a rung that a refusal has named, and which nobody has seen before.

        Raises:
            PolicyDenied: one denies it.
        """
        if self.policies and offer not in self.offers:
            self.policies.check(self._plans([offer])[0])

    def attempt(self, attendance: Attendance, offers: tuple[Offer, ...]) -> Any:
        """Runs it once on a machine of its own, of one of `offers`, or on one that was kept; leaving destroys the machine,
        whatever happened, unless it is to be kept."""
        # Its import takes a quarter of a second (paramiko), which passes while the stack comes up. No daemon: a process that ends
        # in the midst of it, since there can be no stack, would abort (SIGABRT) in a library's own code.
        module = ("dayfly.runtime.session",)
        loading = threading.Thread(target=importlib.import_module, args=module, daemon=False)
        loading.start()
        attendance.serves = self.begun is not None
        if self.begun is None:
            self.cargo.begin()
        with (
            attendance.stack(self.new_stack(attendance, offers)) as machine,
            keeping.or_lost(attendance),
            attendance.session(
                machine, connect_timeout_s=keeping.patience_s(attendance)
            ) as session,
            keeping.handed_on(attendance, session),
        ):
            attendance.connected(session)
            keeping.take_over(attendance, session)
            attendance.check_machine(session)
            attendance.arm_deadline(session)
            tasks = self.tasks(session, attendance)
            # The environment may have taken minutes, and the keeper may have been killed meanwhile.
            attendance.entrust(self.context.workspace, attendance.history)
            # Before it starts: were the client to die in between, the run would count as never started.
            attendance.record("job_started", python=self.recipe.python)
            sending = time.perf_counter()
            session.start(*tasks)
            upload_s = time.perf_counter() - sending
            attendance.began, attendance.sent = self.began, self._sent(upload_s)
            assert self.engine is not None
            attendance.deposit(self.context.workspace, self.engine)
            if self.begun is not None:
                self.begun(session)
            return attendance.finish(session)

    def _sent(self, upload_s: float) -> Times:
        return Times(
            pickle_s=self.pickle_s, upload_s=upload_s, argument_bytes=len(self.payload.task)
        )

    @property
    def environment_source(self) -> str:
        """What is installed, for the plan."""
        packages = ", ".join(self.spec.system_packages)
        return f"{self.recipe.source}{f'; system packages {packages}' if packages else ''}"

    def new_stack(self, attendance: Attendance, offers: tuple[Offer, ...]) -> RunStack:
        """The stack of one attempt."""
        kind = RunStack if self.spec.kept is None else KeptStack
        stack = kind(
            self.spec,
            self.context.workspace,
            self.engine,
            offers,
            observe=attendance.observe,
            renamed=attendance.joined,
            details={
                "function": self.payload.function,
                "job_name": self.spec.job_name,
                "code_digest": self.payload.code_digest,
                "python": payload.PYTHON,
                "environment": self.environment_source,
                "environment_digest": None if self.recipe.empty else self.recipe.digest,
                "lineage": attendance.lineage,
                "warm": self.begun is not None,
                "keeper": attendance.entrust(self.context.workspace),
            },
            permit=self.permit,
        )
        if isinstance(stack, KeptStack):
            stack.fresh = attendance.fresh
        return stack

    def tasks(self, session: Session, attendance: Attendance) -> list[Task]:
        """What each machine is to run, that of the first one first: what it has made its likes on this computer find made."""
        from dayfly.runtime.fleet import side_by_side

        meeting = None
        if self.spec.distributed:
            meeting = ranks.rendezvous(session, self.spec.nodes)
        if self.serving is not None:
            self.serving.meet(session)

        def prepared(each: Session) -> Task:
            task = self.task(each, attendance)
            if meeting is None:
                return task
            own = ranks.variables(each, self.spec.nodes, meeting)
            return dataclasses.replace(task, variables={**task.variables, **own})

        first = prepared(session)
        others = side_by_side([functools.partial(prepared, other) for other in session.others])
        return [first, *others]

    def task(self, session: Session, attendance: Attendance) -> Task:
        """Makes the environment on the machine and seals function and arguments for it."""
        from dayfly.runtime.records import Task

        idle_floor.check_machine(self.spec, session)
        if self.spec.system_packages:
            attendance.step("environment", ", ".join(self.spec.system_packages))
            session.install_system_packages(self.spec.system_packages, self.display.note)
        python = self.recipe.python
        if not self.recipe.empty:
            attendance.step("environment", self.recipe.source)
            python = self._build_environment(session)
        variables = self._bring_data(session, attendance)
        node, packed = session.machine.node, self.payload
        bucket = self.spec.checkpoints or ""
        if bucket:
            checkpoint_bucket.restore(
                attendance, session, bucket, python=python, secrets=self.secrets
            )
        attendance.step("start")
        if self.serving is not None:
            packed = self.serving.task_of(node)
        return Task(
            sealed=attendance.seal(packed.task),
            python=python,
            secrets={**self.secrets, **(self.serving.secrets if self.serving else {})},
            variables=variables,
            max_runtime_s=attendance.function_limit_s,
            grace_s=attendance.grace_s,
            hold_s=self.spec.hold_s,
            ends_rest=self.begun is not None or self.spec.kept is not None,
            gpu_floor_percent=self.spec.min_gpu_utilization or 0.0,
            gpu_window_s=self.spec.gpu_window_s,
            pickler=payload.pickler_zip(self.context.workspace.home / "cache"),
            checkpoints=""
            if bucket or not attendance.lineage
            else attendance.checkpoints.restore(session),
            restored=bool(bucket),
            # Where several machines have them, those of the first are kept.
            bucket="" if node else bucket,
        )

    def _bring_data(self, session: Session, attendance: Attendance) -> dict[str, str]:
        """What the function's process needs to know of its Data, all of which is there then."""
        if self.begun is not None:
            return {}  # A session brings it with its calls, and again when it has changed.
        began = time.perf_counter()
        if self.cargo.size:
            attendance.step("data", human_bytes(self.cargo.size))

        def progress(have: int, total: int) -> None:
            self.display.detail(f"{human_bytes(have)} of {human_bytes(total)}")

        variables = self.cargo.bring(session, session.machine.cache_dir, progress)
        if self.cargo.size:
            self.display.done(human_bytes(self.cargo.size))
            seconds = time.perf_counter() - began
            attendance.record("data", bytes=self.cargo.size, seconds=seconds)
        return variables

    def _build_environment(self, session: Session) -> str:
        """Makes it from the wheels that fit the machine, or finds it made; gives its Python."""
        facts = session.facts
        here = providers.load(session.machine.provider).same_computer
        recipe = accelerator.fitted(self.recipe, facts, same_computer=here)
        if recipe.hardware:
            self.display.note(f"wheels for {recipe.hardware}")

        def uv() -> Path:
            cache = self.context.workspace.home / "cache"
            return environment.uv_binary(facts.platform, facts.libc, cache=cache)

        return session.build_environment(recipe, self.display.note, uv)

    def plan(self, listed: Sequence[Listing], offers: Sequence[Offer] = ()) -> Plan:
        """The Plan of the ladder, or of these rungs, with resources that someone else has listed."""
        plan = make_plan(
            self.spec,
            offers or self.offers,
            listed,
            function=self.payload.function,
            environment_source=self.environment_source,
            environment_digest="" if self.recipe.empty else self.recipe.digest,
            code=str(self.payload.code),
            code_digest=self.payload.code_digest,
            idle_s=self.idle_s,
        )
        return dataclasses.replace(
            plan, policies=self.policies.names, left_out=self.left_out, denied=self.denied
        )

    def plan_on(self, listing: Listing, offer: Offer) -> Plan:
        """The Plan of the rung that was taken, and of those below it."""
        below = self.offers[self.offers.index(offer) :] if offer in self.offers else (offer,)
        return self.plan([listing], below)

    def preview(self, *, all_rungs: bool = False, fast: bool = False) -> Plan:
        """The Plan with the resources of the real engine's preview; nothing is created.

        Args:
            all_rungs: those of every rung, and not of the first one and of the first of each further provider alone.
            fast: those that are known already; nobody is asked, and policies that look at resources do not judge a rung whose
                resources are not known.
        """
        if fast:
            return self._fast_plan(listings.kept(self.context, self.spec, self.offers))
        note = self.display.note
        listed = listings.of_ladder(self.context, self.spec, self.offers, note, all_rungs=all_rungs)
        return self.plan(listed)

    def _fast_plan(self, known: Sequence[Listing]) -> Plan:
        plan, policies = self.plan(known), self.policies
        if all(each.source for each in known):
            return plan
        judged = policies.without_resources().names
        unjudged = tuple(name for name in policies.names if name not in judged)
        return dataclasses.replace(plan, policies=judged, unjudged=unjudged)

    def as_planned(self, plan: Plan) -> Call:
        """The same on the machines of a plan alone, where it would do what was planned; its arguments may be others.

        Raises:
            PlanChanged: it would not; names every difference.
        """
        offers = tuple(offer for offer in self.offers if plan.allows(offer))
        planned = dataclasses.replace(self, offers=offers or self.offers, planned=True)
        changes = plan.changes(planned.preview())
        changes += [] if offers else plan.dearer(self.offers)
        if changes:
            listed = "\n".join(f"  {each}" for each in changes)
            raise PlanChanged(
                f"the plan of {plan.function or 'the machine'} does not hold any more:\n{listed}\nnothing was created; make a"
                " new plan, and have it looked at"
            )
        return planned


def equip(
    engine: Engine, offers: Sequence[Offer], pulumi_home: Path, note: Callable[[str], None]
) -> None:
    """Installs the plugins that a ladder needs, the lower rungs' as well: on the way down there is no time for that.

    Raises:
        PluginMissing: one cannot be had, or would not be found in the home of the engine that is used; nothing exists.
    """
    for plugin in plugins.of_each(offer.provider for offer in offers):
        if plugin_install.ensure(plugin, engine, note).origin == "installed":
            plugins.check_linked(pulumi_home, plugin)


def check_arguments(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    """Refuses what the function could not be called with.

    Raises:
        PayloadError: with the function's signature.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # some built-in functions tell nobody what they take
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        name = getattr(function, "__qualname__", repr(function))
        raise PayloadError(f"{name}{signature} cannot be called so: {error}") from None


def _secrets(spec: Spec) -> dict[str, str]:
    missing = [name for name in spec.secrets if name not in os.environ]
    if missing:
        raise SpecError(f"secrets={missing}: not set in this environment; export them first")
    short = [name for name in spec.secrets if len(os.environ[name]) < redact.LEAST_LENGTH]
    if short:
        raise SpecError(
            f"secrets={short}: the value is shorter than {redact.LEAST_LENGTH} characters, too short to be masked in logs"
            " without masking half of every line; use a longer one, or pass it as an argument if it is no secret"
        )
    return {name: os.environ[name] for name in spec.secrets}
