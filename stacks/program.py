"""The child process that holds Pulumi for one run: `python -m dayfly.stacks.program DIRECTORY up|preview`.

Pulumi never loads in the caller's interpreter: serialising a dynamic provider patches `pickle` there for good,
costs half a second of import, and dies with the caller. What happens here is written to the run's journal,
so that it is known even when no one is left to be told.
"""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dayfly.infra import providers
from dayfly.infra.offers import Offer
from dayfly.infra.run import Run
from dayfly.infra.spec import Spec
from dayfly.stacks import isolated, journal, outputs, recorder

if TYPE_CHECKING:
    from pulumi import automation

REQUEST = "request.json"
_INIT_TIMEOUT_S = 300.0
# Each of them says again what has been said.
_PROGRESS = re.compile(r"\s*[+~@-]{1,2} +\S+ \S+ .*ing\b")


@dataclass(frozen=True)
class Request:
    """What the child is asked to do; everything else it takes from its environment.

    Attributes:
        run: the identity.
        spec: what was asked for.
        offer: the rung to take.
        engine: path of the Pulumi CLI.
        engine_version: its version.
        project: folder with the run's Pulumi.yaml.
        secrets_provider: "passphrase" or a KMS URL.
    """

    run: Run
    spec: Spec
    offer: Offer
    engine: Path
    engine_version: str
    project: Path
    secrets_provider: str

    def write(self) -> None:
        """Leaves the request in the run's directory."""
        values = asdict(self) | {"spec": self.spec.as_dict()}
        file = self.run.directory / REQUEST
        file.touch(mode=0o600)
        file.write_text(json.dumps(values, default=str))

    @classmethod
    def read(cls, directory: Path) -> Request:
        """Takes the request from the run's directory."""
        values = json.loads((directory / REQUEST).read_text())
        run = Run(**{**values["run"], "directory": Path(values["run"]["directory"])})
        paths = {name: Path(values[name]) for name in ("engine", "project")}
        return cls(
            **{
                **values,
                **paths,
                "run": run,
                "spec": Spec(**values["spec"]),
                "offer": Offer(**values["offer"]),
            }
        )


def launch(spec: Spec, offer: Offer, run: Run) -> None:
    """The program of a real `up`: journals each id the moment it is known, and each machine when it is ready."""
    import pulumi

    exported = outputs.export(spec, offer, run)
    if pulumi.runtime.is_dry_run():
        return
    for machine in exported:
        _journal(run, machine)


def _journal(run: Run, exported: Mapping[str, Any]) -> None:
    """One machine, as soon as it is known."""
    import pulumi

    which = {name: exported[name] for name in ("node",) if name in exported}
    # The id and the rate are on the disk before anything that may fail begins.
    pulumi.Output.from_input(exported["id"]).apply(
        lambda id: journal.append(
            run.directory, "launched", id=id, usd_per_hour=exported["usd_per_hour"], **which
        )
    )
    pulumi.Output.all(**exported).apply(
        lambda values: journal.append(run.directory, "machine", **values)
    )


def _stack(request: Request, program: Any) -> automation.Stack:
    """The automation API's stack, with the CLI isolated and without the calls whose answers are known."""
    import semver
    from pulumi import automation
    from pulumi.automation._stack import StackInitMode
    from pulumi.automation.errors import create_command_error

    log = request.run.directory / "engine.log"

    class IsolatedCommand(automation.PulumiCommand):
        def __init__(self) -> None:
            # The base class spawns `pulumi version`; the engine's version was read when it was found.
            self.command = str(request.engine)
            self.version = semver.VersionInfo.parse(request.engine_version.removeprefix("v"))

        def run(
            self,
            args: list[str],
            cwd: str,
            additional_env: Mapping[str, str],
            on_output: Any = None,
            on_error: Any = None,
        ) -> Any:
            done = isolated.run(
                [self.command, "--non-interactive", *args],
                cwd=Path(cwd),
                log=log,
                environment={**os.environ, **additional_env},
                timeout_s=providers.load(request.offer.provider).up_timeout_s,
            )
            result = automation.CommandResult(
                stdout=done.stdout, stderr=done.stderr, code=done.code
            )
            if done.code:
                raise create_command_error(result)
            return result

    class RunWorkspace(automation.LocalWorkspace):
        def select_stack(self, stack_name: str) -> None:
            """Nothing to ask: the stack was made a moment ago, and selecting would write shared state."""

    class RunStack(automation.Stack):
        def outputs(self) -> Any:
            """Journaled by the program itself: two CLI calls fewer."""
            return {}

        def info(self, show_secrets: bool = True) -> Any:
            """Journaled by the caller."""
            return automation.UpdateSummary("update", time.gmtime(), "", {}, {}, "succeeded")  # type: ignore[arg-type]

    workspace = RunWorkspace(
        work_dir=str(request.project), program=program, pulumi_command=IsolatedCommand()
    )
    # `Stack.select` would make one of the base class.
    return RunStack(request.run.id, workspace, StackInitMode.SELECT)


def _init(request: Request) -> subprocess.Popen[bytes]:
    """Makes the stack while Pulumi's SDK is still being imported."""
    command = [
        str(request.engine),
        "stack",
        "init",
        request.run.id,
        "--no-select",
        "--non-interactive",
    ]
    command += ["--secrets-provider", request.secrets_provider]
    log = request.run.directory / "engine.log"
    return isolated.start(command, cwd=request.project, log=log, environment=os.environ)


def _wait_for_init(request: Request, process: subprocess.Popen[bytes]) -> None:
    try:
        code = process.wait(_INIT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        isolated.end(process)
        raise RuntimeError(
            f"pulumi stack init did not end in {_INIT_TIMEOUT_S:.0f} s; is the state backend within reach?"
        ) from None
    if code:
        said = (request.run.directory / "engine.log.err").read_text(errors="replace")
        raise RuntimeError(f"pulumi stack init: {said.strip()}")
    journal.append(request.run.directory, "stack_created", stack=request.run.id)


def _load_sdk(offer: Offer) -> None:
    """The SDK of an offer's provider, without the search for garbage in it, of which there is none and which takes a sixth of its second."""
    gc.disable()
    try:
        providers.load(offer.provider).load_sdk(offer)
    finally:
        gc.freeze()
        gc.enable()


def up(request: Request) -> None:
    """Plan, stack, machine: each in the journal as it happens."""
    directory = request.run.directory
    making = _init(request)
    import pulumi.automation  # noqa: F401  # its half second passes while the stack is being made

    # Once for the recorder, which is a fork, and for the program.
    _load_sdk(request.offer)
    journal.append(
        directory,
        "resources",
        resources=recorder.resources(request.spec, request.offer, request.run),
        resources_from="recorder",
    )
    _wait_for_init(request, making)
    stack = _stack(request, lambda: launch(request.spec, request.offer, request.run))
    journal.append(directory, "up_started", program=journal.myself())
    stack.up()
    journal.append(directory, "up_ended")


def preview(request: Request) -> None:
    """The real engine's preview, in a state of its own that is thrown away."""
    making = _init(request)
    import pulumi.automation  # noqa: F401  # as above

    _wait_for_init(request, making)
    priced = outputs.Priced(request.offer)

    def program() -> None:
        priced.look_at(outputs.export(request.spec, request.offer, request.run))

    steps = json.loads(_stack(request, program).preview(json=True).stdout)["steps"]
    listed = [
        (step["newState"]["type"], step["urn"].rpartition("::")[2])
        for step in steps
        if step["newState"]["type"] != "pulumi:pulumi:Stack"
    ]
    journal.append(
        request.run.directory, "resources", resources=priced.of(listed), resources_from="engine"
    )


def main(arguments: list[str]) -> int:
    """One operation for one run directory; its failure is journaled with its kind."""
    directory, operation = Path(arguments[0]), arguments[1]
    os.umask(0o077)
    request = Request.read(directory)
    try:
        {"up": up, "preview": preview}[operation](request)
    except Exception as error:  # noqa: BLE001  # whatever it was, the journal must have it
        said = _words(str(error))
        kind = providers.load(request.offer.provider).failure(said)
        journal.append(directory, f"{operation}_failed", kind=kind, message=said)
        return 1
    return 0


def _words(text: str) -> str:
    """The engine's own error lines, without its progress: "error: 1 error occurred:" has a "* Error creating ..." below it."""
    lines = [line.strip() for line in text.splitlines() if not _PROGRESS.match(line)]
    errors = [
        line
        for line in lines
        if "error:" in line.lower() or "exception" in line.lower() or line.startswith("* ")
    ]
    return "\n".join(dict.fromkeys(errors or lines))[:4000]


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    # Half a second would go into taking apart what an SDK has loaded, and whoever takes the next rung waits for the end.
    os._exit(code)
