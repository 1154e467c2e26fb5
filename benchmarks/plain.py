"""The plain Pulumi CLI on the checkout's own project, as `dayfly engine env` sets it up."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks import place


class Plain:
    """A stack of its own, made and configured.

    Args:
        home: where the state is, and a copy of the project, whose stack files belong to nobody.
        settings: of the stack, without their "dayfly:".
        variables: what the program and the engine see beside.
    """

    def __init__(
        self, home: Path, settings: Mapping[str, str], variables: Mapping[str, str] | None = None
    ) -> None:
        self._home, self._project = home, home / "project"
        command = (sys.executable, "-m", "dayfly.runtime.cli", "engine", "env")
        lines = place.run(command, home).splitlines()
        exported = dict(shlex.split(line)[1].split("=", 1) for line in lines)
        # By itself it asks the network for plugins, and where there is none it waits seconds for that: nothing of ours is to be measured by it.
        offline = {"PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true"}
        self._variables = {**exported, **offline, **(variables or {})}
        (self._project / "stacks").mkdir(parents=True)
        for file in ("Pulumi.yaml", os.path.join("stacks", "__main__.py")):  # noqa: PTH118
            shutil.copy(place.ROOT / file, self._project / file)
        self._run("stack", "init", "bench")
        for name, value in settings.items():
            self._run("config", "set", f"dayfly:{name}", value)

    def preview(self) -> float:
        """What a preview takes, in seconds."""
        return self._run("preview")

    def up(self) -> float:
        """What an `up` takes without the preview before it, likewise."""
        return self._run("up", "--yes", "--skip-preview")

    def destroy(self) -> None:
        """Ends what `up` has made."""
        self._run("destroy", "--yes", "--skip-preview")

    def _run(self, *arguments: str) -> float:
        began = time.perf_counter()
        command = ("pulumi", *arguments, "--non-interactive")
        place.run(command, self._home, self._variables, self._project)
        return time.perf_counter() - began
