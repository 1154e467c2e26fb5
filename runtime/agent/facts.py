"""What the machine is."""

from __future__ import annotations

import os
import sys

from . import loopback
from .files import home_folder
from .gpus import GpuQuery
from .refusal import Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def interpreters(cache: str) -> dict[str, str]:
    """Find the Pythons of the machine, "3.11" -> path, without starting any of them."""
    found = {"%d.%d" % sys.version_info[:2]: os.path.realpath(sys.executable)}  # noqa: UP031
    for folder in _interpreter_folders(cache):
        try:
            names = [name for name in os.listdir(folder) if name.startswith("python3.")]
        except OSError:
            continue
        for name in names:
            if name[8:].isdigit():
                # Resolved, a virtual environment's link is the interpreter under it.
                path = os.path.realpath(os.path.join(folder, name))
                if name[6:] not in found and _is_interpreter(path):
                    found[name[6:]] = path
    return found


def interpreter_at(wanted: str, cache: str) -> str:
    """Give the path of an interpreter that is named by its path, or by its minor.

    Raises:
        Refusal: the machine has none.
    """
    if os.path.sep in wanted:
        return os.path.expanduser(wanted)
    found = interpreters(cache).get(wanted)
    if found is None:
        raise Refusal("environment", f"the machine has no Python {wanted}")
    return found


def _interpreter_folders(cache: str) -> list[str]:
    folders: list[str] = []
    stores = [
        os.path.join(home_folder(), ".pyenv/versions"),
        os.path.join(home_folder(), ".local/share/uv/python"),
    ]
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        if os.path.basename(folder) == "shims":
            stores.append(os.path.join(os.path.dirname(folder), "versions"))
        elif folder:
            folders.append(folder)
    folders += ["/usr/local/bin", "/usr/bin", "/opt/homebrew/bin"]
    for store in [*stores, os.path.join(cache, "python")]:
        if os.path.isdir(store):
            folders += [os.path.join(store, name, "bin") for name in sorted(os.listdir(store))]
    return folders


def _is_interpreter(path: str) -> bool:
    """Tell a binary from a script that chooses one, and from a virtual environment's copy."""
    try:
        with open(path, "rb") as file:
            script = file.read(2) == b"#!"
    except OSError:
        return False
    environment = os.path.join(os.path.dirname(os.path.dirname(path)), "pyvenv.cfg")
    return not script and os.access(path, os.X_OK) and not os.path.exists(environment)


def machine_facts(cache: str) -> dict[str, Any]:
    """Give what the client wants to know of the machine, as the fields of its Facts."""
    gpus, driver = GpuQuery().answer()
    system = os.uname()
    statistics = os.statvfs(home_folder())
    pythons = sorted(interpreters(cache), key=lambda minor: int(minor[2:]))
    return {
        "hostname": system.nodename,
        "platform": f"{system.sysname.lower()}-{system.machine}",
        "libc": _libc(),
        "pythons": pythons,
        "cores": core_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "free_disk_bytes": statistics.f_bavail * statistics.f_frsize,
        "agent_pid": os.getpid(),
        "gpus": gpus,
        "devices": devices(len(gpus)),
        "driver": driver,
        "loopback": loopback.name(),
    }


def devices(gpus: int) -> list[str]:
    """Give the GPUs that calls can have, in the words of the variable that may leave some of the machine's out."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(number) for number in range(gpus)]
    return [name for name in visible.split(",") if name]


def core_count() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _libc() -> str:
    if sys.platform == "darwin":
        return ""
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").replace(" ", "")
    except (OSError, ValueError):
        return "musl"
