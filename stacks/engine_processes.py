"""The processes that work for a run's stack: the CLI, its plugins, and the program that holds Pulumi."""

from __future__ import annotations

import os

import psutil


def of(run_id: str) -> list[psutil.Process]:
    """The CLI, provider and program processes that work for a run, this one apart."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.uids().real != os.getuid() or process.pid == os.getpid():
                continue
            if (
                process.environ().get("DAYFLY_STACK") == run_id
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
        except psutil.Error:
            continue
    return found


def is_cli(process: psutil.Process) -> bool:
    """The CLI or our program: either may still record something. A provider process alone records nothing."""
    try:
        return process.name() == "pulumi" or "dayfly.stacks.program" in process.cmdline()
    except psutil.Error:
        return False
