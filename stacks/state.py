"""The engine's state of one run, read with suspicion: whoever can edit it could otherwise run code here."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from dayfly.infra import providers
from dayfly.infra.run import is_id
from dayfly.stacks import isolated
from dayfly.stacks.engine import Engine
from dayfly.stacks.workspace import PROJECT, Workspace, folder_url

_EXPORT_TIMEOUT_S = 120.0


class StateUnusable(Exception):
    """The state cannot be read, or must not be given to the engine."""


@dataclass(frozen=True)
class State:
    """One stack's checkpoint.

    Attributes:
        resources: as the engine keeps them, the stack itself included.
        pending: operations that were begun and never ended.
    """

    resources: tuple[dict[str, Any], ...]
    pending: tuple[dict[str, Any], ...]

    @property
    def custom_resources(self) -> tuple[dict[str, Any], ...]:
        """The resources that stand for something outside, providers apart."""
        return tuple(
            resource
            for resource in self.resources
            if resource.get("custom") and not _is_provider(resource)
        )

    @property
    def held(self) -> list[dict[str, Any]]:
        """Everything that it names, also in operations that never ended."""
        return [*self.resources, *(operation.get("resource", {}) for operation in self.pending)]

    def check_ownership(self, run: str, known: Collection[str] | None) -> None:
        """Refuses a state that names what is not this run's: the engine would delete it.

        Args:
            run: whose state it is.
            known: ids of everything that the run has made; None where its provider keeps no record, and goes by the run.

        Raises:
            StateUnusable: it names another run, a folder that is none of its own, or an id that nobody was answered.
        """
        for resource in self.held:
            _check_places(resource, run)
            id = str(resource.get("id") or "")
            is_derived = not id or id.endswith(run) or _is_provider(resource)
            if known is not None and resource.get("custom") and not is_derived and id not in known:
                raise StateUnusable(
                    f"the state of {resource.get('urn')} has the id {id}, which no request of this run was answered with;"
                    " it was not given to the engine"
                )

    def check_providers(self) -> None:
        """Refuses a state whose dynamic resources refer to anything but the classes of our own providers.

        Raises:
            StateUnusable: the engine would unpickle something that we did not write.
        """
        pinned = {
            cls.reference() for name in providers.names() for cls in providers.load(name).dynamic()
        }
        for resource in self.held:
            for side in ("inputs", "outputs"):
                value = resource.get(side, {}).get("__provider")
                # Edited, it may be anything, also something that cannot be looked up in a set.
                if value is not None and not (isinstance(value, str) and value in pinned):
                    raise StateUnusable(
                        f"the state of {resource.get('urn')} was edited: its __provider is not Dayfly's, and the engine"
                        " would run it; it was not given to the engine"
                    )


def _check_places(resource: Mapping[str, Any], run: str) -> None:
    for values in (resource.get("inputs", {}), resource.get("outputs", {})):
        folder = Path(str(values.get("directory", run))).parts
        if values.get("run", run) != run or run not in folder or ".." in folder:
            raise StateUnusable(
                f"the state of {resource.get('urn')} was edited: it names another run, or another's folder; it was not"
                " given to the engine"
            )


def _is_provider(resource: Mapping[str, Any]) -> bool:
    return str(resource.get("type", "")).startswith("pulumi:providers:")


def file_of(workspace: Workspace, stack: str) -> Path | None:
    """The state's file where the backend is a folder of this computer."""
    backend = urlsplit(workspace.backend)
    if backend.scheme != "file":
        return None
    # In file://~/state the engine takes what is a URL's host for the beginning of the path.
    root = Path(unquote(backend.netloc + backend.path)).expanduser()
    return root / ".pulumi" / "stacks" / PROJECT / f"{stack}.json"


def forget_locks(workspace: Workspace, stack: str) -> None:
    """Removes the locks of a stack that is gone: the engine, if it is killed then, leaves its own behind the stack."""
    file = file_of(workspace, stack)
    if file is None:
        return
    locks = file.parents[2] / "locks" / "organization" / PROJECT / stack
    for lock in locks.glob("*"):
        lock.unlink(missing_ok=True)


def is_own(workspace: Workspace) -> bool:
    """Whether the backend is the folder of this home, which nobody else puts stacks in."""
    return workspace.backend == folder_url(workspace.home / "state")


def stacks(workspace: Workspace, engine: Engine | None) -> list[str]:
    """Names of all stacks of the backend that are named as runs are.

    Raises:
        StateUnusable: they cannot be listed.
    """
    return ids(names(workspace, engine))


def ids(named: Iterable[str]) -> list[str]:
    """Those of some names that are those of runs, in their order."""
    return sorted(name for name in named if is_id(name))


def names(workspace: Workspace, engine: Engine | None) -> list[str]:
    """Names of all stacks of the backend.

    Raises:
        StateUnusable: they cannot be listed.
    """
    file = file_of(workspace, "any")
    if file is None:
        return _listed(workspace, engine)
    return [path.stem for path in file.parent.glob("*.json")]


def _listed(workspace: Workspace, engine: Engine | None) -> list[str]:
    if engine is None:
        raise StateUnusable("there is no Pulumi CLI on this computer")
    done = isolated.run(
        [str(engine.path), "stack", "ls", "--project", PROJECT, "--json", "--non-interactive"],
        cwd=workspace.home,
        log=workspace.home / "stacks.log",
        environment=workspace.environment(engine, ""),
        timeout_s=_EXPORT_TIMEOUT_S,
    )
    try:
        if done.code:
            raise ValueError(done.stderr.strip())
        # A backend that serves an organisation puts that, and the project, before the name.
        return [str(stack["name"]).rpartition("/")[2] for stack in json.loads(done.stdout)]
    except (ValueError, KeyError, TypeError) as error:
        raise StateUnusable(f"pulumi stack ls: {error}") from error


def read(workspace: Workspace, engine: Engine | None, run_id: str, stack: str) -> State | None:
    """The state of a run; None where there is no such stack.

    Raises:
        StateUnusable: it is there and cannot be read.
    """
    file = file_of(workspace, stack)
    if file is None:
        return _parsed(_exported(workspace, engine, run_id, stack), "deployment")
    try:
        text = file.read_text()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise StateUnusable(f"the state of run {run_id} cannot be read: {error}") from error
    return _parsed(text, "checkpoint")


def _exported(workspace: Workspace, engine: Engine | None, run_id: str, stack: str) -> str | None:
    if engine is None:
        raise StateUnusable("there is no Pulumi CLI on this computer")
    done = isolated.run(
        [str(engine.path), "stack", "export", "--stack", stack, "--non-interactive"],
        cwd=workspace.project_directory(run_id),
        log=workspace.directory(run_id) / "export.log",
        environment=workspace.environment(engine, run_id),
        timeout_s=_EXPORT_TIMEOUT_S,
    )
    if done.code == 0:
        return done.stdout
    if "no stack named" in done.stderr:
        return None
    raise StateUnusable(f"the state of run {run_id} cannot be read: {done.stderr.strip()}")


def _parsed(text: str | None, key: str) -> State | None:
    if text is None:
        return None
    try:
        held = json.loads(text)[key]
        latest = (held.get("latest") or {}) if key == "checkpoint" else held
        resources = tuple(latest.get("resources") or ())
        pending = tuple(latest.get("pending_operations") or ())
        for resource in (*resources, *(operation["resource"] for operation in pending)):
            for side in ("inputs", "outputs"):
                resource.get(side, {}).get("__provider")
        return State(resources, pending)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateUnusable(f"the state is not readable as one of Pulumi's: {error}") from error


def quarantine(workspace: Workspace, run_id: str, stack: str) -> Path | None:
    """Sets an unreadable state aside in the run's directory, so that nothing trips over it again."""
    file = file_of(workspace, stack)
    if file is None or not file.exists():
        return None
    kept = workspace.directory(run_id) / "state.unusable.json"
    file.replace(kept)
    for backup in file.parent.glob(f"{stack}.json.*"):
        backup.unlink()
    return kept
