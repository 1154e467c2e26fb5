"""GPUs for a machine that has none: a stand-in `nvidia-smi` and a stand-in `libcuda.so.1` that may be made to lie.

Put `FOLDER/bin` on the machine's PATH and `FOLDER/lib` on its LD_LIBRARY_PATH. Both read `FOLDER/gpu.conf` each time,
so another call of `furnish` changes what a running machine shows.

Left out: everything that computes (no kernel, module, stream, event or graph), peers and managed memory, NVML, MIG,
and of `nvidia-smi` its tables, XML and settings: an option or a field that it does not know is refused as the
real one refuses it. Memory on the device is the process's own, so more of it can be asked for than would fit together.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).parent

LIES = {
    "model": "both name another GPU than the one that was paid for",
    "count": "both see one GPU fewer",
    "memory": "both see half of the memory",
    "smi_missing": "there is no nvidia-smi",
    "smi_fails": "nvidia-smi cannot talk to the driver and exits 9",
    "smi_hangs": "nvidia-smi never answers",
    "driver_missing": "there is no libcuda.so.1",
    "driver_count": "nvidia-smi sees all GPUs, the driver one fewer",
    "init": "cuInit answers 802, system not yet initialized, while nvidia-smi is fine",
    "init_hangs": "cuInit never returns",
    "init_crashes": "cuInit ends the process by SIGSEGV",
    "context": "no context can be made: 46, the device is busy or unavailable",
    "allocation": "not one byte can be allocated: 2, out of memory",
    "corrupt": "device memory gives back other bytes than were written",
}
"""What `lie` may be, and what it does."""


@dataclass(frozen=True)
class Gpu:
    """What a machine shows of its GPUs.

    Attributes:
        model: the name, as nvidia-smi and the driver give it: "NVIDIA A100-SXM4-40GB".
        count: how many of them.
        memory_mib: memory of each.
        driver: version of the driver.
        percents: how much each is in use, as nvidia-smi tells it: a number, or "[N/A]"; the last stands for the rest.
        used_mib: memory in use of each.
    """

    model: str
    count: int
    memory_mib: int
    driver: str = "570.148.08"
    percents: tuple[int | str, ...] = (0,)
    used_mib: int = 1


def furnish(folder: Path, gpu: Gpu, lie: str = "", *, python: str = sys.executable) -> None:
    """Write `bin/nvidia-smi` and `lib/libcuda.so.1` into `folder`, or change what those there show.

    Args:
        folder: of one machine; made where it does not exist.
        gpu: the truth.
        lie: one of LIES, or "" for none.
        python: the interpreter that the machine runs `nvidia-smi` with.

    Raises:
        ValueError: no such lie.
    """
    if lie and lie not in LIES:
        raise ValueError(f"lie={lie!r}: one of {', '.join(sorted(LIES))}")
    _write(folder / "gpu.conf", _shown(folder, gpu, lie).encode(), 0o644)
    tool, library = folder / "bin/nvidia-smi", folder / "lib/libcuda.so.1"
    source = (_HERE / "nvidia_smi.py").read_bytes()
    _place(tool, f"#!{python} -IS\n".encode() + source, wanted=lie != "smi_missing")
    _place(library, _library().read_bytes(), wanted=lie != "driver_missing")


def _shown(folder: Path, gpu: Gpu, lie: str) -> str:
    other = "Tesla K80" if "K80" not in gpu.model else "Tesla P4"
    values = {
        "model": other if lie == "model" else gpu.model,
        "count": gpu.count - 1 if lie == "count" else gpu.count,
        "memory_mib": gpu.memory_mib // 2 if lie == "memory" else gpu.memory_mib,
        "driver": gpu.driver,
        "percents": ",".join(
            str(gpu.percents[min(n, len(gpu.percents) - 1)]) for n in range(gpu.count)
        ),
        "used_mib": gpu.used_mib,
        "lie": lie,
        # A machine may see the folder under a name that another has too; its GPUs are its own all the same.
        "machine": str(folder.resolve()),
    }
    return "".join(f"{name}={value}\n" for name, value in values.items())


def _place(path: Path, content: bytes, *, wanted: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if wanted:
        _write(path, content, 0o755)
    else:
        path.unlink(missing_ok=True)


def _write(path: Path, content: bytes, mode: int) -> None:
    """Aside and renamed: what runs or is loaded at this moment keeps the file that it has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, aside = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    Path(aside).chmod(mode)
    Path(aside).rename(path)


@functools.cache
def _library() -> Path:
    """The compiled library, made once a process."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise RuntimeError("no C compiler `cc` on PATH, which makes the stand-in libcuda.so.1")
    folder = Path(tempfile.mkdtemp(prefix="dayfly-libcuda-"))
    made = folder / "libcuda.so.1"
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-Wl,-soname,libcuda.so.1"]
    subprocess.run(
        [compiler, *flags, "-o", made, _HERE / "libcuda.c", "-ldl"], check=True, timeout=120
    )
    return made
