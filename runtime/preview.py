"""The real engine's preview of a Spec, in a state of its own that is thrown away: nothing is created or remembered."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from pathlib import Path

from dayfly.errors import ProvisionFailed
from dayfly.infra import cost, providers
from dayfly.infra.offers import Offer
from dayfly.infra.run import Run, new_id
from dayfly.infra.spec import Spec
from dayfly.runtime.context import Context
from dayfly.stacks import isolated, journal
from dayfly.stacks.engine import Engine
from dayfly.stacks.program import Request
from dayfly.stacks.workspace import folder_url

_TIMEOUT_S = 600.0


def resources(context: Context, engine: Engine, spec: Spec, offer: Offer) -> list[dict[str, str]]:
    """What an `up` of this Offer would create.

    Returns:
        {"type", "name"} of each resource, in the order of declaration.

    Raises:
        ProvisionFailed: the engine refuses the program, with its words; or it never had a place to run.
    """
    with tempfile.TemporaryDirectory(prefix="dayfly-plan-") as folder:
        home = Path(folder)
        for name in ("runs", "state"):
            (home / name).mkdir(mode=0o700)
        (home / "slots").symlink_to(context.workspace.home / "slots")
        scratch = dataclasses.replace(
            context.workspace,
            home=home,
            backend=folder_url(home / "state"),
            secrets_provider="passphrase",
            # Nothing is opened to anybody, so that this computer's own address need not be known.
            private_ingress=False,
        )
        run_id = new_id()
        now = time.time()
        deadline = now + cost.allowed_runtime_s(spec, offer)
        run = Run(run_id, scratch.owner, now, deadline, scratch.directory(run_id), "", "")
        run.directory.mkdir(mode=0o700)
        project = scratch.project_directory(run_id)
        Request(run, spec, offer, engine.path, engine.version, project, "passphrase").write()
        with scratch.operation_slot(wait_s=_TIMEOUT_S) as slot:
            if slot is None:
                raise ProvisionFailed(
                    f"other runs kept every place for an engine operation for {_TIMEOUT_S:.0f} s; wait until some have"
                    " ended (dayfly ps), and try again"
                )
            done = isolated.run(
                [sys.executable, "-m", "dayfly.stacks.program", str(run.directory), "preview"],
                cwd=project,
                log=run.directory / journal.PROGRAM_LOG,
                environment=scratch.environment(engine, run_id, providers.load(offer.provider)),
                timeout_s=_TIMEOUT_S,
                pass_fds=(slot,),
            )
        history = journal.read(run.directory)
    if done.code:
        raise ProvisionFailed(
            f"the preview failed: {history.field('preview_failed', 'message', done.stderr)}"
        )
    found: list[dict[str, str]] = history.field("resources", "resources")
    return found
