"""What the engine still holds of a run: its processes, its stack, its locks; taken down as far as it can be trusted."""

from __future__ import annotations

import contextlib
import math
import re
import socket
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import psutil

from dayfly.errors import ConfigurationError, DayflyError
from dayfly.infra import creations, providers
from dayfly.stacks import engine_processes, isolated, journal, state
from dayfly.stacks.beside import Beside, stack_of
from dayfly.stacks.engine import Engine
from dayfly.stacks.journal import History
from dayfly.stacks.owned import Owned
from dayfly.stacks.state import State
from dayfly.stacks.workspace import PROJECT, Workspace

_DESTROY_TIMEOUT_S = 1800.0
_ENGINE_WAIT_S = 90.0
_KILL_ROUNDS = 40
# A teardown does not queue behind creations for longer than this.
_SLOT_WAIT_S = 30.0
_UP_IS_OVER = ("up_ended", "up_failed", "engine_ended")
_LOCKED_BY = re.compile(
    r"created by (?P<user>\S+)@(?P<host>\S+) \(pid (?P<pid>\d+)\)(?: at (?P<at>\S+))?"
)
# A lock's time has whole seconds.
_LOCK_TIME_S = 2.0


class EngineFailed(Exception):
    """The engine's own teardown did not work; the provider's API has to do it."""


class EngineTeardown:
    """The engine's part in closing one run.

    Args:
        workspace: where the run is kept.
        engine: the Pulumi CLI; None when there is none.
        report: told each step in a sentence.
        notes: takes what was out of the ordinary.
        now, sleep: time, so that tests need not wait for it.
    """

    def __init__(
        self,
        workspace: Workspace,
        engine: Engine | None,
        report: Callable[[str], None],
        notes: list[str],
        *,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._workspace = workspace
        self._engine = engine
        self._report = report
        self._notes = notes
        self._now = now
        self._sleep = sleep

    def end_processes(self, history: History) -> None:
        """Lets an operation in flight finish and be recorded, then ends what is left of the engine for this run."""
        until = self._now() + _ENGINE_WAIT_S
        said, kills = False, 0
        while (processes := engine_processes.of(history.id)) and kills < _KILL_ROUNDS:
            if self._now() > until or not any(
                engine_processes.is_cli(process) for process in processes
            ):
                kills += 1
                for process in processes:
                    with contextlib.suppress(psutil.Error):
                        process.kill()
            elif not said:
                said = True
                self._report("waiting for the engine's operation in flight to be recorded")
            self._sleep(0.05)
        if not processes:
            self._note_end(history)

    def _note_end(self, history: History) -> None:
        """The last moment at which the engine can have asked for anything, where it has not said so itself."""
        with contextlib.suppress(OSError):
            last = journal.read(history.directory).last("up_started", *_UP_IS_OVER)
            if last is not None and last.name not in _UP_IS_OVER:
                journal.append(history.directory, "engine_ended")

    def destroy(self, history: History) -> tuple[str, int, int]:
        """The stack's own destroy, as far as its state can be trusted.

        Returns:
            "pulumi" or "provider", resources that the stack declared, resources that it destroyed.
        """
        listed = history.field("resources", "resources", [])
        # A provider's settings stand for nothing outside, and nothing is destroyed with them.
        declared = sum(not str(each["type"]).startswith("pulumi:providers:") for each in listed)
        if history.last("up_started") is None and not history.plain:
            return "pulumi", declared, 0
        try:
            found = state.read(self._workspace, self._engine, history.id, history.stack)
            if found is None:
                self._note_machines(history, 0)
                return "pulumi", declared, 0
            found.check_providers()
            found.check_ownership(history.id, _known_ids(history))
            owned = Owned(history, str(history.intent.get("owner", self._workspace.owner)))
            owned.check(found)
            count = len(found.custom_resources)
            more = self._end_unrecorded(history, owned, found)
            self._note_machines(history, owned.machines(found) + more)
            if count == 0 and not found.pending:
                return "pulumi", declared, 0
            self._report(f"destroying {count} resources")
            self._destroy(history)
        except (state.StateUnusable, EngineFailed) as reason:
            self._notes.append(str(reason))
            journal.append(history.directory, "engine_teardown_failed", message=str(reason))
            return "provider", declared, 0
        return "pulumi", declared or count, count + more

    def _end_unrecorded(self, history: History, owned: Owned, found: State) -> int:
        """The engine would wait for a quarter of an hour to delete what a machine uses that it knows nothing of.

        Returns:
            How many machines were ended here.
        """
        ended = 0
        # What does not work here is done, and all of it proved, afterwards.
        with contextlib.suppress(DayflyError, OSError):
            for machine in owned.unrecorded(found):
                journal.append(history.directory, "terminating", kind=machine.kind, id=machine.id)
                providers.load(history.provider).terminate(machine)
                self._notes.append(f"{machine.id}, which its state had not, was found by tag")
                ended += 1
        return ended

    def _note_machines(self, history: History, machines: int) -> None:
        """Whether a refusal was one of the machine shows in what there is before it is taken down."""
        with contextlib.suppress(OSError):
            journal.append(history.directory, "state_read", machines=machines)

    def _destroy(self, history: History) -> None:
        """Outside of any project where that can be.

        In one the engine first has the language host list the packages of this interpreter, which takes half of all the
        time of a teardown and serves for nothing here: the state says which providers are needed.
        """
        where, stack = self._workspace.project_directory(history.id), history.stack
        outside = history.directory.resolve()
        if state.file_of(self._workspace, stack) and not _in_a_project(outside):
            where, stack = outside, f"organization/{PROJECT}/{stack}"
        self._pulumi(history, "destroy", "--yes", "--skip-preview", "--stack", stack, where=where)

    def remove(self, history: History, *, forced: bool) -> None:
        """Forgets the stack. Only ever called after the proof, so that a pending operation has been resolved by it."""
        if history.plain and not forced:
            return
        try:
            if state.read(self._workspace, self._engine, history.id, history.stack) is None:
                state.forget_locks(self._workspace, history.stack)
                return
            options = ["--force"] if forced else []
            self._pulumi(
                history,
                "stack",
                "rm",
                "--yes",
                "--remove-backups",
                *options,
                "--stack",
                history.stack,
            )
        except (state.StateUnusable, EngineFailed) as reason:
            kept = state.quarantine(self._workspace, history.id, history.stack)
            state.forget_locks(self._workspace, history.stack)
            self._notes.append(
                f"its state could not be removed by the engine and was set aside in {kept}"
                if kept
                else str(reason)
            )

    def remove_session(self, history: History) -> None:
        """Removes what was kept for other computers beside the state, where anything was."""
        if history.last("session_keeping") is None:
            return
        try:
            Beside(self._workspace, self._engine).remove(history.directory)
        except (DayflyError, OSError) as reason:
            stack = stack_of(history.id)
            self._notes.append(
                f"what was kept for other computers, encrypted, could not be removed ({reason}); from any checkout:"
                f" pulumi stack rm --force --yes --remove-backups {stack}"
            )

    def _pulumi(self, history: History, *arguments: str, where: Path | None = None) -> None:
        """One CLI operation, in the run's own project if nothing else is said; a lock whose holder is dead is broken, a living one is waited for.

        Raises:
            EngineFailed: with the engine's own words.
        """
        until = self._now() + _ENGINE_WAIT_S
        done = self._cli(history, *arguments, where=where)
        while done.code and (holder := _LOCKED_BY.search(done.stderr + done.stdout)):
            if self._now() > until:
                break
            self._unlock(history, holder["host"], int(holder["pid"]), holder["at"])
            done = self._cli(history, *arguments, where=where)
        if done.code:
            raise EngineFailed(
                f"pulumi {' '.join(arguments[:2])} failed: {(done.stderr or done.stdout).strip()[-1500:]}"
            )

    def _unlock(self, history: History, host: str, pid: int, at: str | None) -> None:
        if not _is_dead(host, pid, at):
            self._report(f"waiting for process {pid} on {host}, which has the stack locked")
            self._sleep(1.0)
            return
        self._notes.append(f"a stale lock of pid {pid} was broken")
        self._cli(history, "cancel", "--yes", "--stack", history.stack)

    def _cli(
        self, history: History, *arguments: str, where: Path | None = None
    ) -> isolated.Completed:
        """Whatever stands in the engine's way on this computer must not stand in the teardown's."""
        try:
            return self._run(history, *arguments, where=where)
        except (ConfigurationError, OSError) as reason:
            raise EngineFailed(str(reason)) from reason

    def _run(self, history: History, *arguments: str, where: Path | None) -> isolated.Completed:
        if self._engine is None:
            raise EngineFailed("there is no Pulumi CLI on this computer")
        provider = providers.load(history.provider) if history.provider else None
        with self._workspace.operation_slot(wait_s=_SLOT_WAIT_S, teardown=True) as slot:
            return isolated.run(
                [str(self._engine.path), *arguments, "--non-interactive"],
                cwd=where or self._workspace.project_directory(history.id),
                log=history.directory / "engine.log",
                environment=self._workspace.environment(self._engine, history.id, provider),
                timeout_s=_DESTROY_TIMEOUT_S,
                pass_fds=() if slot is None else (slot,),
            )


def _known_ids(history: History) -> set[str] | None:
    """Ids of all that a run has asked for; None where its provider keeps no record of that.

    Raises:
        StateUnusable: the record cannot be read now, so that the state cannot be held against it.
    """
    if history.provider not in providers.names():
        return None
    if not providers.load(history.provider).keeps_creations:
        return None
    try:
        return {creation.id for creation in creations.read(history.directory)}
    except OSError as trouble:
        raise state.StateUnusable(
            f"the record of its requests cannot be read: {trouble}"
        ) from trouble


def _in_a_project(folder: Path) -> bool:
    """Whether the engine would find a project from here: it looks upwards, as far as the root."""
    return any(
        (above / f"Pulumi{suffix}").exists()
        for above in (folder, *folder.parents)
        for suffix in (".yaml", ".yml", ".json")
    )


def _is_dead(host: str, pid: int, at: str | None) -> bool:
    """Whether the process that made a lock has ended, also where another has its number by now."""
    if host != socket.gethostname():
        return False
    try:
        process = psutil.Process(pid)
        made = datetime.fromisoformat(at).timestamp() if at else math.inf
        # The name too, since a clock that was set moves what is told of a process's start.
        return process.create_time() > made + _LOCK_TIME_S and process.name() != "pulumi"
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, ValueError):
        return False
