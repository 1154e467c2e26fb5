"""Elsewhere: runs that other computers have started, found beside the state that this one shares with them."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dayfly.errors import ConfigurationError, RunFailed, UnknownRun
from dayfly.infra import providers
from dayfly.infra.found import GONE
from dayfly.infra.run import is_id
from dayfly.runtime.context import Context
from dayfly.stacks import account, hands, journal
from dayfly.stacks.beside import Beside
from dayfly.stacks.journal import History
from dayfly.stacks.workspace import Workspace, explained

# What was brought so lately need not be looked for again.
_FRESH_S = 30.0


def find(
    context: Context,
    run: str,
    report: Callable[[str], None] = lambda _: None,
    *,
    attaching: bool = False,
) -> History:
    """The run of that id, or of the id that begins so: one of this computer's, else one that is kept beside the state,
    which gets a directory here and is left in the hands that it is in.

    Args:
        context: of this computer.
        run: the id, or the beginning of it.
        report: told that other computers' runs are looked through, which takes some seconds.
        attaching: whether it is to be attached: where only this computer's runs can be, the message says so.

    Raises:
        UnknownRun: none fits, or several do.
        ConfigurationError: this computer's passphrase or secrets provider is another.
        BackendFailed: the state backend cannot be asked, or what it holds was edited.
        EngineMissing: there is no Pulumi CLI to ask it with.
    """
    runs = context.workspace.runs
    if not run.isalnum() or any(entry.name.startswith(run) for entry in runs.iterdir()):
        return journal.find(runs, run)
    if not context.workspace.is_remote and attaching:
        raise UnknownRun(
            f"no run begins with {run!r}; `dayfly ps --all` lists them. The state is kept in a folder, so that a run is"
            " attached on the computer that started it, and from its DAYFLY_HOME; for attaching from elsewhere set"
            " `backend` to s3://, gs://, azblob:// or Pulumi Cloud on all of them"
        )
    if not context.workspace.is_remote:
        return journal.find(runs, run)
    beside = Beside(context.workspace, context.engine_or_none())
    try:
        beside.check_passphrase()
    except ConfigurationError as missing:
        raise ConfigurationError(
            f"no run of this computer begins with {run!r}, and those of others cannot be read here: {missing}"
        ) from None
    report(
        f"no run of this computer begins with {run!r}: looking beside the state in {context.workspace.backend_name}"
    )
    run_id = run if is_id(run) else _only_one(beside.runs(), run, context.workspace)
    try:
        files = beside.fetch(run_id)
    except UnknownRun:
        raise _gone(run, context.workspace) from None
    return bring(context.workspace, run_id, files)


def check_open(context: Context, history: History) -> None:
    """Refuses what another computer had in hand and has closed since: nothing of it is kept, and its machine is gone.

    Raises:
        RunFailed: it is over.
        BackendFailed, ConfigurationError, EngineMissing: as of `find`.
    """
    brought = history.last("brought")
    if brought is not None and 0 <= time.time() - brought.time < _FRESH_S:
        return
    try:
        Beside(context.workspace, context.engine_or_none()).fetch(history.id)
    except UnknownRun:
        if not _is_gone(history):
            return
        # The keeper closes it here, too.
        hands.note(history.directory, _hand_of(history), closed=True)
        client = (_hand_of(history) or {}).get("client") or {}
        raise RunFailed(
            f"run {history.id} is over: nothing of it is kept beside the state any more. The computer"
            f" {client.get('host')} had it in hand last, and has its log and its value: `dayfly result {history.id[:12]}`"
            " there"
        ) from None


def _is_gone(history: History) -> bool:
    """Whether its provider knows of no machine of it that lives.

    Raises:
        DayflyError: the provider cannot be asked.
    """
    account.check(history)
    states = [providers.load(each.provider).instance_state(each.id) for each in history.machines]
    return all(state in (*GONE, "unknown") for state in states)


def _hand_of(history: History) -> Mapping[str, Any] | None:
    last = history.last("attached", "intent")
    return None if last is None else last.fields


def bring(workspace: Workspace, run_id: str, files: Mapping[str, bytes]) -> History:
    """Makes the directory of a run that another computer has started, with nothing but what was kept of it.

    Raises:
        ConfigurationError: the disk is full.
    """
    directory = workspace.directory(run_id)
    with explained(workspace.home):
        aside = Path(tempfile.mkdtemp(dir=workspace.home / "making", prefix=f"{run_id}-"))
        try:
            for name, content in files.items():
                _write_private(aside / name, content)
            # How this computer reaches the backend, which is for its keeper, too: that one has no settings of a project's.
            how = {name: getattr(workspace, name) for name in ("backend", "secrets_provider")}
            whose = {"home": workspace.identity, "by": journal.myself()}
            journal.append(aside, "brought", **whose, **how)
            _put(aside, directory)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return journal.read(directory)


def _put(aside: Path, directory: Path) -> None:
    try:
        aside.rename(directory)
    except OSError as error:
        # Of two commands at once one is first, and its directory, which is not empty, stays as it is.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _only_one(ids: list[str], prefix: str, workspace: Workspace) -> str:
    fitting = [each for each in ids if each.startswith(prefix)]
    if len(fitting) > 1:
        raise UnknownRun(
            f"{len(fitting)} runs beside the state in {workspace.backend_name} begin with {prefix!r}; write more of the one"
        )
    if not fitting:
        raise _gone(prefix, workspace)
    return fitting[0]


def _gone(run: str, workspace: Workspace) -> UnknownRun:
    return UnknownRun(
        f"no run begins with {run!r} here, nor beside the state in {workspace.backend_name}: it is over, and its log and"
        " value are on the computer that saw its end (`dayfly result` there); or its function has not started; or it is a"
        " session, or on a machine that was kept, or was started with another `backend`, and is attached where it was started"
    )


def _write_private(file: Path, content: bytes) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as output:
        output.write(content)
        output.flush()
        os.fsync(output.fileno())
