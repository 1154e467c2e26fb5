"""`dayfly run` and `dayfly plan`: a function or a script, on a machine of its own or on paper."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dayfly.runtime.cli.common import with_json
from dayfly.runtime.cli.options import refuse_late_options, spec_options

if TYPE_CHECKING:
    from dayfly.infra.plan import Plan
    from dayfly.runtime.call import Call
    from dayfly.runtime.cli.target import Target
    from dayfly.runtime.job import Job

_TARGET = "SCRIPT.py|MODULE:FUNCTION"
# What stands behind the target is its own.
_RAW = {"allow_interspersed_args": False}
_with_arguments = click.argument("arguments", metavar="[ARGS]...", nargs=-1)


@click.command(context_settings=_RAW)
@click.argument("target", metavar=_TARGET)
@_with_arguments
@with_json
@click.option(
    "--plan",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Run only if it does what this saved plan says.",
)
@click.option(
    "--detach",
    is_flag=True,
    help="End as soon as the function runs; `dayfly attach RUN` comes back.",
)
@spec_options
def run(
    *,
    target: str,
    arguments: Sequence[str],
    json: bool,
    plan: Path | None,
    detach: bool,
    options: dict[str, Any],
) -> None:
    """Run a script or a function on a machine of its own.

    ARGS are for a script as they are; for a function values, JSON where they parse, and NAME=VALUE.

    A script that uses @cluster itself is run here, as `python SCRIPT.py` would; the options are then the defaults of
    its functions. With --json the value is the only thing on stdout, and the function's own output goes to stderr.

    With --detach the run's id is, and log and value come to this computer when the function has ended.
    """
    if _is_script(target):
        script = Path(target)
        from dayfly.errors import SpecError
        from dayfly.runtime.script import source_of, uses_cluster

        if uses_cluster(source_of(script)):
            if detach:
                raise SpecError(
                    f"{script} uses @cluster itself and runs here, so that it cannot be detached: call"
                    " f.submit(...).detach() in it"
                )
            if plan is not None:
                raise SpecError(
                    f"{script} uses @cluster itself and runs here, so that it has a plan for each call: call"
                    " f.as_planned(FILE)(...) in it"
                )
            _run_here(script, list(arguments), options)
    found = _found(target, list(arguments), options)
    raise click.exceptions.Exit(_run_there(found, json, detach, plan))


@click.command(context_settings=_RAW)
@click.argument("target", metavar=f"[{_TARGET}]", required=False)
@_with_arguments
@with_json
@click.option(
    "--save",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write it down, for review and `run --plan`.",
)
@click.option("--all-rungs", is_flag=True, help="Have the engine preview every rung of the ladder.")
@click.option(
    "--fast",
    is_flag=True,
    help="Ask nobody: the catalog's prices, and resources as listed before.",
)
@spec_options
def plan(
    *,
    target: str | None,
    arguments: Sequence[str],
    json: bool,
    save: Path | None,
    all_rungs: bool,
    fast: bool,
    options: dict[str, Any],
) -> None:
    """Show resources, price and worst case; create nothing.

    ARGS are for a script as they are; for a function values, JSON where they parse, and NAME=VALUE.

    The resources are those of the real engine's preview; where it cannot be asked, and for the first lower rung of each further
    provider, those that the program declares without it, marked so. Without a function it is the plan of the machine alone.
    """
    from dayfly.errors import SpecError
    from dayfly.runtime import wording
    from dayfly.runtime.cli.output import emit_json, emit_pairs, tell

    if save is not None and target is not None and _is_script(target):
        _refuse_to_save(Path(target))
    if fast and all_rungs:
        raise SpecError("--fast asks nobody, and --all-rungs the engine for each; give one of them")
    if target is None:
        made = _machine_plan(options, all_rungs=all_rungs, fast=fast)
    else:
        call = _call_of(_found(target, list(arguments), options), json, to_run=False, live=not fast)
        made = call.preview(all_rungs=all_rungs, fast=fast)
    if json:
        emit_json(made.as_dict())
    else:
        emit_pairs("plan", wording.plan_rows(made))
    if save is not None:
        made.save(save)
        tell(f"dayfly: the plan is saved in {save}")
        if not made.resources_from:
            tell(
                "dayfly: the resources are not listed in it, so that `dayfly run --plan` refuses it: plan again without --fast"
            )


def _is_script(target: str) -> bool:
    return target.endswith(".py") or ":" not in target


def _refuse_to_save(script: Path) -> None:
    """
    Raises:
        SpecError: the script calls functions of its own, each of which has a plan.
    """
    from dayfly.errors import SpecError
    from dayfly.runtime.script import source_of, uses_cluster

    if uses_cluster(source_of(script)):
        raise SpecError(
            f"{script} uses @cluster itself, so that each of its calls has a plan: f.plan(...).save(FILE) in it, or"
            " `dayfly plan --save FILE MODULE:FUNCTION`"
        )


def _found(target: str, arguments: list[str], options: dict[str, Any]) -> Target:
    from dayfly.runtime.cli.target import function_target, script_target

    if _is_script(target):
        return script_target(Path(target), arguments, options)
    refuse_late_options(arguments)
    return function_target(target, arguments, options)


def _run_there(found: Target, as_json: bool, detach: bool, plan: Path | None) -> int:
    """Runs it, shows its value or its exception, and waits for the proof; or leaves all that to the keeper.

    Returns:
        The exit code.
    """
    from dayfly.infra.plan import Plan
    from dayfly.runtime.job import Job

    planned = found.planned if plan is None else Plan.load(plan)
    # What a detached run prints until it is let go of must not stand beside its id.
    call = _call_of(found, as_json or detach)
    job: Job[Any] = Job.start(call if planned is None else call.as_planned(planned))
    return _let_go(job, as_json) if detach else see(job, as_json)


def _let_go(job: Job[Any], as_json: bool) -> int:
    """Leaves the job to the keeper once its function runs, and prints its id; one that is over before is seen as any.

    Returns:
        The exit code.
    """
    from dayfly.errors import DayflyError, KeeperMissing
    from dayfly.runtime.cli.output import complain, emit_json, exit_code
    from dayfly.runtime.interrupt import detach

    try:
        detach(job)
    except KeyboardInterrupt as error:
        return exit_code(error)
    except KeeperMissing as missing:
        complain(missing)
    except DayflyError:
        pass  # It is told as that of any job.
    if not job.detached:
        return see(job, as_json)
    if as_json:
        emit_json({"run": job.id, "attach": f"dayfly attach {job.id}"})
    else:
        print(job.id)
    return 0


def see(job: Job[Any], as_json: bool) -> int:
    """Waits for a job, shows what came of it, and waits for the proof that its machine is gone.

    Returns:
        The exit code: 75 where the proof failed and nothing else did.
    """
    from dayfly.errors import DayflyError, LeakRisk
    from dayfly.runtime.cli.output import complain, complain_of_function, emit_value, exit_code
    from dayfly.runtime.interrupt import see_out, wait_for

    code = 0
    try:
        value = wait_for(job)
    except (LeakRisk, KeyboardInterrupt) as error:
        # Either has been told already, by whoever shows the job.
        return exit_code(error)
    except DayflyError as error:
        complain(error)
        code = exit_code(error)
    except BaseException as error:  # noqa: BLE001  # the function's own, whatever it is
        complain_of_function(error)
        code = 1
    else:
        emit_value(value, as_json)
        sys.stdout.flush()
    see_out(job)
    return code or (LeakRisk.exit_code if job.leak is not None else 0)


def _call_of(found: Target, as_json: bool, *, to_run: bool = True, live: bool = True) -> Call:
    from dayfly.runtime.call import Call
    from dayfly.runtime.display import Display

    display = Display.standard(output_to="stderr" if as_json else None)
    return Call.prepare(
        found.function,
        found.args,
        found.kwargs,
        found.spec,
        display,
        policies=found.policies,
        to_run=to_run,
        live=live,
    )


def _machine_plan(options: dict[str, Any], *, all_rungs: bool, fast: bool) -> Plan:
    from dayfly.infra.spec import Spec
    from dayfly.runtime.cli.output import tell
    from dayfly.runtime.context import Context
    from dayfly.runtime.machine_plan import plan_machine

    def note(text: str) -> None:
        tell(f"dayfly: {text}")

    # As of `spec_above_settings`, whose file loads what functions need.
    context = Context.open()
    spec = Spec.from_options({**context.settings.spec_options(), **options})
    return plan_machine(spec, note, context=context, all_rungs=all_rungs, fast=fast)


def _run_here(script: Path, arguments: list[str], options: dict[str, Any]) -> None:
    """Becomes `python SCRIPT`, so that nothing of this process is in its way."""
    from dayfly.runtime.cli.output import tell
    from dayfly.runtime.cli.target import as_environment, spec_above_settings

    # What cannot be is refused here, in the words of the command line.
    spec_above_settings(options)
    tell(
        f"dayfly: {script} uses @cluster itself: it runs here, and its functions on their machines"
    )
    os.environ.update(as_environment(options))
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, str(script), *arguments])  # noqa: S606  # as a plain python would
