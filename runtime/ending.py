"""How a job ended, as the value or the error that its caller gets."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from dayfly.errors import (
    DayflyError,
    DeadlineReached,
    Forged,
    GpuIdle,
    JobExited,
    JobKilled,
    JobStopped,
    RunFailed,
)
from dayfly.runtime import ranks, stored
from dayfly.runtime.records import JobEnd
from dayfly.runtime.run_log import tail
from dayfly.stacks.journal import History


def value(
    directory: Path, end: JobEnd | None, rank: int | None = None, *, nested: bool = False
) -> Any:
    """The value that a job's result on this computer holds.

    Args:
        directory: of the run.
        end: how the job has ended, as far as that is known.
        rank: whose result it is, where there are several.
        nested: as of `outcome.unpack`.

    Raises:
        Forged: as of `stored.value`.
        DeadlineReached, GpuIdle: the function was asked to end for that, and has not returned; what it has made of it, an
            exit or an exception of its own, is the cause. Another attempt would end as this one did.
        Exception: the function's own.
    """
    try:
        return stored.value(directory, named(directory.name, rank), nested=nested)
    except Forged:
        raise
    except BaseException as own:
        # What was returned there, and cannot be loaded here, is trouble of another kind.
        if end is None or not end.cue or stored.summary(directory).get("outcome") == "value":
            raise
        raise failure(directory, end, rank) from own


def value_of(history: History) -> Any:
    """As `value`, of a run whose result is here, by its journal."""
    rank, nested = rank_of(history), history.is_shared_out
    return value(history.directory, known(history), rank, nested=nested)


def failure(directory: Path, end: JobEnd, rank: int | None = None) -> DayflyError:
    """The error for an end without a result, or for one that came before its time.

    Args:
        directory: of the run.
        end: how the job has ended; the cue of one that has finished is what the error tells.
        rank: whose end that is, where there are several.
    """
    run, words = (
        named(directory.name, rank),
        tail(ranks.log_folder(directory, rank or 0) / "stderr.log"),
    )
    how = end.cue or end.how
    if how == "stopped":
        return JobStopped(f"run {run} was stopped on request")
    if how == "deadline":
        return DeadlineReached(
            f"run {run}: the function was ended at the deadline; raise max_runtime or max_cost{words}"
        )
    if how == "idle":
        return GpuIdle(
            f"run {run}: {end.detail}; the machine has ended it, as min_gpu_utilization asked:"
            f" `dayfly show {directory.name[:12]}` has its use, `dayfly logs {directory.name[:12]}` its words"
        )
    if how == "vanished":
        return RunFailed(
            f"run {run}: the job's folder on the machine is gone with all that was in it: the function, or what it"
            f" started, has deleted its own home folder{words}"
        )
    if how == "killed":
        why = (
            "the kernel's out-of-memory killer ended it: ask for more memory"
            if end.out_of_memory
            else f"signal {end.signal} ended it"
        )
        return JobKilled(
            f"run {run}: the function's process was killed: {why}{words}",
            end.signal,
            end.out_of_memory,
        )
    return JobExited(
        f"run {run}: the function's process exited with code {end.code} and left no result{words}",
        end.code,
    )


def named(run_id: str, rank: int | None) -> str:
    """A run, and the rank that is meant, as messages name it."""
    return run_id if rank is None else f"{run_id}, rank {rank}"


def rank_of(history: History) -> int | None:
    """Whose end was that of the job; None where there are no ranks."""
    found = history.field("job_ended", "rank")
    return None if found is None else int(found)


def known(history: History) -> JobEnd | None:
    """How the job of a run ended, as its journal has it."""
    event = history.last("job_ended")
    if event is None:
        return None
    names = {field.name for field in dataclasses.fields(JobEnd)}
    try:
        return JobEnd(**{name: value for name, value in event.fields.items() if name in names})
    except TypeError:
        return None
