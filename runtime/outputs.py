"""Outputs: what a function has left in DAYFLY_OUTPUT_DIR, brought to this computer before its machine ends."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dayfly.errors import DayflyError, JobStopped, OutputsFailed, SpecError
from dayfly.infra.units import human_bytes
from dayfly.runtime.homecoming import Homecoming
from dayfly.stacks.journal import History

if TYPE_CHECKING:
    from dayfly.runtime.attend import Attendance
    from dayfly.runtime.session import Session

MANIFEST = "outputs.jsonl"
_TOLD = 5


def folder_of(history: History, node: int = 0) -> Path:
    """Where the outputs of a run are, or are going to be: `outputs/` of its directory, or a folder of its own in `outputs=`.

    Those of another machine than the first are beside it, in a folder with its number. The folder that was named is one of
    the computer that started the run.
    """
    brought = history.last("brought") is not None
    elsewhere = None if brought else history.intent.get("spec", {}).get("outputs")
    first = Path(elsewhere) / history.id[:12] if elsewhere else history.directory / "outputs"
    return first.with_name(f"{first.name}-{node}") if node else first


def check_folder(folder: str | os.PathLike[str] | None) -> None:
    """Refuses a folder in which nothing can be made, before there is anything to put into it.

    Raises:
        SpecError: names what cannot be written.
    """
    if folder is None:
        return
    place = Path(folder)
    there = next(path for path in (place, *place.parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise SpecError(
            f"outputs={folder!r}: nothing can be written into {there}; name another folder"
        )


def are_home(history: History, node: int = 0) -> bool:
    """Whether all of one machine's are here; a run that was acknowledged, or held by the keeper, has none that are not."""
    brought = [number for number, e in enumerate(history.events) if e.name == "brought"]
    # What another computer has brought home is there.
    events = history.events[brought[-1] if brought else 0 :]
    if any(e.name in ("held", "acknowledged") for e in events):
        return True
    told = [e for e in events if e.name == _event(node) and e.fields.get("node", 0) == node]
    return bool(told and told[-1].fields.get("complete"))


def _event(node: int) -> str:
    # What is told of a run's outputs is told of the first machine's.
    return "outputs_of_other" if node else "outputs"


def bring(attendance: Attendance, session: Session, node: int = 0) -> None:
    """Brings them home, unless they are; the journal has what came, also where not all of it did.

    Raises:
        OutputsFailed: the machine went before all of it was here; the result is.
        OSError: this computer has no room for it.
        JobStopped: a stop was asked for meanwhile.
        DayflyError: the machine lives, and cannot be reached.
    """
    if are_home(attendance.history, node):
        return
    arriving, which = _homecoming(attendance, node), {"node": node} if node else {}
    try:
        arriving.run(session)
    except (DayflyError, OSError) as trouble:
        attendance.record(_event(node), **arriving.summary(), **which, reason=str(trouble))
        if isinstance(trouble, OSError) or attendance.stopping or attendance.machine_runs():
            raise
        raise _lost(attendance, arriving, trouble) from trouble
    if not arriving.empty:
        told = arriving.summary()
        attendance.record(_event(node), **told, **which)
        _tell(attendance, told)


def _homecoming(attendance: Attendance, node: int) -> Homecoming:
    stopped_before, display = attendance.stopping, attendance.display

    def aborted() -> None:
        if attendance.stopping and not stopped_before:
            raise JobStopped("stopped while its outputs were coming")

    def progress(have: int, total: int) -> None:
        if attendance.phase != "outputs":
            attendance.step("outputs")
        display.detail(f"{human_bytes(have)} of {human_bytes(total)}")

    folder = folder_of(attendance.history, node)
    manifest = attendance.directory / (f"outputs-{node}.jsonl" if node else MANIFEST)
    return Homecoming(folder, manifest, progress=progress, aborted=aborted)


def _lost(attendance: Attendance, arriving: Homecoming, trouble: Exception) -> OutputsFailed:
    run, home = attendance.directory.name, arriving.summary()
    came = f"{home['count']} of {home['expected']} files came, and are in {home['folder']}"
    return OutputsFailed(
        f"run {run}: its function has ended, and its machine was lost before all that it had left in DAYFLY_OUTPUT_DIR"
        f" was here ({came if home['expected'] else 'none came'}): {trouble}. What the function has given back is here:"
        f" dayfly result {run[:12]}"
    )


def _tell(attendance: Attendance, told: dict[str, Any]) -> None:
    if attendance.phase != "outputs":
        attendance.step("outputs")
    attendance.display.done(described(told))
    for line in told["left_out"][:_TOLD]:
        attendance.display.note(f"left out of the outputs: {line}")
    if told["left_out_count"] > _TOLD:
        run = attendance.directory.name[:12]
        attendance.display.note(
            f"left out of the outputs: {told['left_out_count'] - _TOLD} more; `dayfly show {run}` names them"
        )


def described(told: Mapping[str, Any]) -> str:
    """Outputs in one line, from their event in the journal."""
    count, some = int(told["count"]), "" if told["complete"] else f" of {told['expected']}"
    noun = "file" if count == 1 and not some else "files"
    return f"{count}{some} {noun}, {human_bytes(told['bytes'])}, in {told['folder']}"
