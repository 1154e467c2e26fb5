"""The GPUs that are there, and whether each can be used."""

from __future__ import annotations

import os
import sys
import time

from .asked import Asked
from .json_text import loads
from .processes import launch_command
from .refusal import TEXT_CHARACTERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def smi_command(fields: str) -> list[str]:
    """Give the command that asks nvidia-smi; empty where there is none."""
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        tool = os.path.join(folder, "nvidia-smi")
        if folder and os.access(tool, os.X_OK):
            return [tool, "--query-gpu=" + fields, "--format=csv,noheader,nounits"]
    return []


def _smi(fields: str) -> Asked | None:
    """Ask nvidia-smi, where there is one, while something else goes on: it may take seconds to answer."""
    command = smi_command(fields)
    return Asked(command) if command else None


class GpuQuery:
    """The names of the GPUs, for whoever wants to know and does not depend on it."""

    def __init__(self) -> None:
        self._asked = _smi("name,driver_version")

    def answer(self, timeout_s: float = 5.0) -> tuple[list[str], str]:
        """Give the names of the GPUs and the driver's version; nothing where the tool fails or is late."""
        if self._asked is None or self._asked.wait(timeout_s).code != 0:
            return [], ""
        rows = [line.rsplit(",", 1) for line in self._asked.words.splitlines() if "," in line]
        return [row[0].strip() for row in rows], rows[0][1].strip() if rows else ""


def gpu_findings(seconds: float) -> dict[str, Any]:
    """Give what nvidia-smi lists and what the driver can do with each GPU, as the fields of GpuFindings.

    Both are asked at once and awaited for `seconds`. What is missing, late or broken is told, never raised:
    the client knows what was paid for.
    """
    smi = _smi("name,memory.total,uuid,driver_version")
    # A variable that hides GPUs from programs must not hide them from the check.
    environment = {n: v for n, v in os.environ.items() if not n.startswith("CUDA_")}
    driver = Asked(launch_command(sys.executable, ("-I", "-S"), "gpu", "all"), environment)
    over = time.monotonic() + seconds
    listed = _listed_gpus(smi, seconds)
    used = _used_gpus(driver.wait(max(0.1, over - time.monotonic())), seconds)
    return {**listed, **used, "starting": bool(used["driver_failure"]) and _fabric_is_starting()}


def _listed_gpus(smi: Asked | None, seconds: float) -> dict[str, Any]:
    failure = ""
    if smi is None:
        failure = "there is no nvidia-smi on the machine"
    elif smi.wait(seconds).code is None:
        failure = smi.complaint or f"nvidia-smi did not answer in {seconds:g} s"
    elif smi.code:
        failure = f"nvidia-smi exited {smi.code}: {(smi.words + smi.complaint)[:TEXT_CHARACTERS]}"
    if smi is None or failure:
        return {"listed": [], "driver": "", "smi_failure": failure}
    rows = [[part.strip() for part in line.rsplit(",", 3)] for line in smi.words.splitlines()]
    rows = [row for row in rows if len(row) == 4]
    listed = [
        # Where the GPU shares the processor's memory the tool says "[N/A]".
        {"name": name, "memory_bytes": int(mib) << 20 if mib.isdigit() else 0, "uuid": uuid}
        for name, mib, uuid, _ in rows
    ]
    return {"listed": listed, "driver": rows[0][3] if rows else "", "smi_failure": ""}


def _used_gpus(driver: Asked, seconds: float) -> dict[str, Any]:
    """Take what the child has said last: it ends in the middle of its step where the driver hangs or crashes."""
    told: dict[str, Any] = {"step": "start"}
    for line in driver.words.splitlines():
        try:
            told = loads(line)
        except ValueError:
            continue  # The library's own words.
    if driver.code == 0 and "devices" in told:
        return {"usable": told["devices"], "driver_failure": ""}
    if "failure" in told:
        failure = told["failure"]
    elif driver.code is None:
        failure = f"{told['step']}: no answer in {seconds:g} s"
    else:
        ended = f"by signal {-driver.code}" if driver.code < 0 else f"with {driver.code}"
        failure = f"{told['step']}: the process ended {ended}: {driver.complaint[-300:]}"
    return {"usable": [], "driver_failure": failure}


def _fabric_is_starting() -> bool:
    """Tell whether the GPUs wait for their switches, which takes a minute or two after a boot and ends by itself."""
    asked = Asked(["systemctl", "is-active", "nvidia-fabricmanager.service"])
    return asked.wait(5.0).words == "activating"
