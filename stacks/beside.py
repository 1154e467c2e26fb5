"""Beside: what another computer needs to take a run in hand, kept beside the state as the one secret output of a small stack.

The engine encrypts it with the run's secrets provider. The stack holds no resource, so that nothing is ever created, changed or
destroyed through it, and the run's own state is left alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dayfly.errors import BackendFailed, ConfigurationError, DayflyError, EngineMissing, UnknownRun
from dayfly.infra import fence
from dayfly.stacks import file_lock, isolated, journal, state, vault
from dayfly.stacks.engine import Engine
from dayfly.stacks.journal import History
from dayfly.stacks.workspace import PROJECT, Workspace, folder_url

_SUFFIX = "-session"
_LOCK = "session.lock"
# In the run's directory, or, where there is none yet, in the folder for what is being made.
_ASIDE = "session-"
_CLI_TIMEOUT_S = 120.0
_SLOT_WAIT_S = 30.0
# Another computer may be writing in the same second; an engine that was killed leaves its lock.
_LOCK_TRIES, _LOCK_PAUSE_S = 5, 1.0
_LOCKED = "currently locked"
# An engine that this computer's other process has started, which may outlive it.
_LOCK_WAIT_S = 180.0


def stack_of(run_id: str) -> str:
    """Name of the stack that keeps a run's session."""
    return f"{run_id}{_SUFFIX}"


def is_wanted(history: History) -> bool:
    """Whether a run can be taken in hand by another computer: its state is where others reach it, and it is one call on a
    machine that ends with it, neither a session, whose client is its purpose, nor a call with `keep=`."""
    intent = history.intent
    # Machines that may be kept for a next call have a fingerprint.
    on_its_own = not (intent.get("warm") or intent.get("fingerprint") or history.plain)
    # Written down only where the state is kept remotely.
    return bool(intent.get("home")) and on_its_own


@dataclass(frozen=True)
class Beside:
    """The sessions that are kept beside the state of one backend.

    Attributes:
        workspace: with the backend and the secrets provider.
        engine: the Pulumi CLI; None where there is none, and nothing can be asked.
        sleep: time, so that tests need not wait for it.
    """

    workspace: Workspace
    engine: Engine | None
    sleep: Callable[[float], None] = time.sleep

    def keep(self, directory: Path, *, unless: Callable[[], bool] = lambda: False) -> bool:
        """Puts what is there of a run now beside its state, in the place of what was there before.

        Args:
            directory: the run's own.
            unless: asked before each step.

        Returns:
            False where the run is being closed, or `unless` said so: closing it removes what there is.

        Raises:
            BackendFailed: the backend cannot be asked, or its stack was edited.
            ConfigurationError: the passphrase is another than the one that it was made with.
            EngineMissing: there is no CLI.
        """
        stack = stack_of(directory.name)
        with _alone(directory) as lock:

            def is_moot() -> bool:
                return unless() or fence.is_shut(directory) or journal.is_closed(directory)

            if is_moot():
                return False
            history = journal.read(directory)
            fresh = history.last("session_keeping") is None
            if fresh:
                # Before there is anything, so that whoever closes the run knows to remove it.
                journal.append(directory, "session_keeping", stack=stack)
            with self._folder(directory, lock) as cli:
                if fresh:
                    cli.make(stack)
                exported = None if is_moot() else cli.exported(stack)
                if exported is None and not is_moot():
                    cli.make(stack)
                    exported = cli.exported(stack)
                if exported is None or is_moot():
                    return False
                provider = self.workspace.secrets_provider
                filled = vault.filled(exported, stack, vault.packed(directory), provider)
                cli.take_in(stack, filled)
        journal.append(directory, "session_kept", stack=stack)
        return True

    def fetch(self, run_id: str) -> Mapping[str, bytes]:
        """What is kept of a run: the content of files of its directory, by name.

        Raises:
            UnknownRun: nothing is.
            ConfigurationError: the passphrase of this computer, or its secrets provider, is another.
            BackendFailed: the backend cannot be asked, or what it holds was edited.
            EngineMissing: there is no CLI.
        """
        self.check_passphrase()
        stack = stack_of(run_id)
        with self._folder(self.workspace.home / "making") as cli:
            exported = cli.exported(stack)
            if exported is None:
                raise UnknownRun(
                    f"nothing of run {run_id} is kept in {self.workspace.backend_name}"
                )
            # What is decrypted is what was looked at: another look at the backend might find something else.
            sealed = vault.sealed(exported, stack, self.workspace.secrets_provider)
            return vault.unpacked(cli.opened(stack, sealed), run_id)

    def hand(self, directory: Path) -> Mapping[str, Any] | None:
        """Who has a run in hand by what was kept of it last: the home and the client; None where that is not said.

        Raises:
            UnknownRun, ConfigurationError, BackendFailed, EngineMissing: as of `fetch`.
        """
        lines = self.fetch(directory.name)[journal.FILE].splitlines()
        history = History(directory.name, directory, tuple(journal.events(lines)))
        last = history.last("attached", "intent")
        return None if last is None or not last.fields.get("home") else last.fields

    def runs(self) -> list[str]:
        """Ids of all runs of which something is kept.

        Raises:
            BackendFailed: they cannot be listed.
        """
        if self.engine is None:
            raise _no_engine()
        try:
            names = state.names(self.workspace, self.engine)
        except state.StateUnusable as error:
            raise BackendFailed(
                f"{self.workspace.backend_name} cannot be listed: {error}"
            ) from error
        return state.ids(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))

    def remove(self, directory: Path) -> None:
        """Removes what is kept of a run, with every earlier version of it. Gone already is success.

        Raises:
            BackendFailed: it may still be there; the message has the command.
            EngineMissing: there is no CLI.
        """
        stack = stack_of(directory.name)
        with _alone(directory) as lock, self._folder(directory, lock) as cli:
            cli.remove(stack)

    def check_passphrase(self) -> None:
        """Refuses to make a passphrase in the place of one that has to be brought here.

        Raises:
            ConfigurationError: there is none on this computer.
        """
        file = self.workspace.home / "passphrase"
        if self.workspace.secrets_provider == "passphrase" and not file.exists():
            raise ConfigurationError(f"there is no {file}: {_bring_passphrase(file)}")

    @contextlib.contextmanager
    def _folder(self, where: Path, lock: int | None = None) -> Iterator[_Cli]:
        """The CLI in a folder of its own, which is gone afterwards with all that it was given and has said."""
        if self.engine is None:
            raise _no_engine()
        folder = Path(tempfile.mkdtemp(dir=where, prefix=_ASIDE))
        try:
            (folder / "Pulumi.yaml").write_text(f"name: {PROJECT}\nruntime: python\n")
            yield _Cli(self.workspace, self.engine, folder, lock, self.sleep)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class _Cli:
    """The CLI, in a folder that is a project; a lock that is held is held by it, too, also when this process dies."""

    workspace: Workspace
    engine: Engine
    folder: Path
    lock: int | None
    sleep: Callable[[float], None]

    def make(self, stack: str) -> None:
        provider = self.workspace.secrets_provider
        done = self._run(
            stack, "stack", "init", stack, "--no-select", "--secrets-provider", provider
        )
        if done.code and "already exists" not in done.stderr:
            raise self._failure("stack init", done)

    def exported(self, stack: str) -> str | None:
        """Its deployment as it lies there, with ciphertext; None where there is no such stack."""
        done = self._run(stack, "stack", "export", "--stack", stack)
        if done.code and "no stack named" in done.stderr:
            return None
        if done.code:
            raise self._failure("stack export", done)
        return done.stdout

    def take_in(self, stack: str, deployment: str) -> None:
        """Has the engine encrypt a deployment, and put it in the place of the one before."""
        file = self.folder / "deployment.json"
        _write_private(file, deployment)
        done = self._unlocked(stack, "stack", "import", "--stack", stack, "--file", str(file))
        if done.code:
            raise self._failure("stack import", done)

    def opened(self, stack: str, checkpoint: str) -> str:
        """Has the engine decrypt a checkpoint, in a state of its own that is thrown away."""
        root, file = self.folder / "state", self.folder / "opened.json"
        place = root / ".pulumi" / "stacks" / PROJECT
        place.mkdir(parents=True, mode=0o700)
        _write_private(place / f"{stack}.json", checkpoint)
        done = self._run(
            stack,
            *("stack", "export", "--stack", stack, "--show-secrets", "--file", str(file)),
            backend=folder_url(root),
        )
        if done.code:
            raise self._failure("stack export --show-secrets", done)
        return file.read_text()

    def remove(self, stack: str) -> None:
        arguments = ("stack", "rm", "--yes", "--force", "--remove-backups", "--stack", stack)
        done = self._unlocked(stack, *arguments)
        if done.code and _LOCKED in done.stderr:
            # Nobody writes it any more; whoever had begun has been waited for.
            self._run(stack, "cancel", "--yes", "--stack", stack)
            done = self._run(stack, *arguments)
        if done.code and "no stack named" not in done.stderr:
            raise self._failure("stack rm", done)

    def _unlocked(self, stack: str, *arguments: str) -> isolated.Completed:
        done = self._run(stack, *arguments)
        for _ in range(_LOCK_TRIES):
            if not (done.code and _LOCKED in done.stderr):
                break
            self.sleep(_LOCK_PAUSE_S)
            done = self._run(stack, *arguments)
        return done

    def _run(self, stack: str, *arguments: str, backend: str = "") -> isolated.Completed:
        environment = self.workspace.environment(self.engine, stack)
        if backend:
            environment["PULUMI_BACKEND_URL"] = backend
        closing = arguments[1] == "rm"
        with self.workspace.operation_slot(wait_s=_SLOT_WAIT_S, teardown=closing) as slot:
            held = [each for each in (slot, self.lock) if each is not None]
            return isolated.run(
                [str(self.engine.path), *arguments, "--non-interactive"],
                cwd=self.folder,
                log=self.folder / "engine.log",
                environment=environment,
                timeout_s=_CLI_TIMEOUT_S,
                pass_fds=held,
            )

    def _failure(self, what: str, done: isolated.Completed) -> DayflyError:
        said = (done.stderr or done.stdout).strip()[-1000:]
        if "incorrect passphrase" in said:
            file = self.workspace.home / "passphrase"
            return ConfigurationError(
                f"{file} is not the passphrase that the run was started with: {_bring_passphrase(file)}"
            )
        return BackendFailed(
            f"{self.workspace.backend_name} cannot be used: pulumi {what}: {said or f'exit code {done.code}'}. Check"
            " `backend` and its credentials: `dayfly doctor` shows where they come from; then try again"
        )


def _alone(directory: Path) -> AbstractContextManager[int]:
    """Holds what is kept of a run for this process, and for the engine that it starts, until both are through."""
    busy = BackendFailed(
        f"another process has been writing what is kept of the run for {_LOCK_WAIT_S:.0f} s"
    )
    return file_lock.held(directory / _LOCK, _LOCK_WAIT_S, lambda _: busy)


def _write_private(file: Path, text: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as output:
        output.write(text)


def _bring_passphrase(file: Path) -> str:
    return (
        f"copy it from DAYFLY_HOME of the computer that started the run (chmod 600 {file}), while no other run is open here"
        " (dayfly ps), or give all computers one secrets_provider: awskms://, gcpkms://, azurekeyvault:// or hashivault://"
    )


def _no_engine() -> EngineMissing:
    return EngineMissing(
        "what is kept beside the state is read through the Pulumi CLI, and there is none on this computer:"
        " dayfly engine install"
    )
