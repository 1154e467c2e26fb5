"""The stand-in GPU answers as the real programs do, and each of its lies can be seen."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.emulators.gpu import LIES, Gpu, furnish

pytestmark = pytest.mark.process
A100 = Gpu("NVIDIA A100-SXM4-40GB", 2, 40960)
# What a child prints that asks the driver: the code of cuInit, the number of GPUs, name and memory of the first.
ASK = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
count, size, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(96)
code = cuda.cuInit(0)
cuda.cuDeviceGetCount(ctypes.byref(count))
cuda.cuDeviceGetName(name, 96, 0)
cuda.cuDeviceTotalMem_v2(ctypes.byref(size), 0)
print(code, count.value, name.value.decode(), size.value >> 20, sep="|")
"""


def smi(folder: Path, *arguments: str, timeout: float = 10) -> tuple[int, list[str]]:
    """Exit code and lines of the stand-in tool."""
    done = subprocess.run(
        [folder / "bin/nvidia-smi", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


def driver(folder: Path, timeout: float = 10) -> str:
    """What a program finds that loads the driver's library by its name."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder / "lib")}
    command = [sys.executable, "-c", ASK]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, check=False, env=environment
    )
    return done.stdout.strip() or f"exit {done.returncode}"


def test_the_tool_and_the_driver_tell_the_same(tmp_path: Path) -> None:
    """Model, number, memory and driver version, in the words of the real ones."""
    furnish(tmp_path, A100)
    query = "--query-gpu=index,name,memory.total,driver_version"
    assert smi(tmp_path, query, "--format=csv,noheader") == (
        0,
        [f"{index}, NVIDIA A100-SXM4-40GB, 40960 MiB, 570.148.08" for index in (0, 1)],
    )
    assert smi(tmp_path, "--query-gpu=memory.total,name", "--format=csv,nounits")[1][:2] == [
        "memory.total, name",
        "40960, NVIDIA A100-SXM4-40GB",
    ]
    assert smi(tmp_path, "--query-gpu=memory.total", "--format=csv")[1][0] == "memory.total [MiB]"
    assert driver(tmp_path) == "0|2|NVIDIA A100-SXM4-40GB|40960"
    uuids = smi(tmp_path, "--query-gpu=uuid", "--format=csv,noheader")[1]
    assert len(set(uuids)) == 2
    assert [line.rpartition("UUID: ")[2].rstrip(")") for line in smi(tmp_path, "-L")[1]] == uuids


def test_what_the_tool_does_not_know_it_refuses(tmp_path: Path) -> None:
    """A wrong query fails here as it would there."""
    furnish(tmp_path, A100)
    assert smi(tmp_path, "--query-gpu=nmae", "--format=csv") == (
        2,
        ['Field "nmae" is not a valid field to query.', ""],
    )
    assert smi(tmp_path, "--query-gpu=name")[0] == 2
    assert smi(tmp_path, "--reboot")[0] == 2


@pytest.mark.parametrize(
    ("lie", "shown"),
    [
        ("model", "0|2|Tesla K80|40960"),
        ("count", "0|1|NVIDIA A100-SXM4-40GB|40960"),
        ("memory", "0|2|NVIDIA A100-SXM4-40GB|20480"),
        ("smi_missing", "0|2|NVIDIA A100-SXM4-40GB|40960"),
        ("smi_fails", "0|2|NVIDIA A100-SXM4-40GB|40960"),
        ("driver_missing", "exit 1"),
        ("driver_count", "0|1|NVIDIA A100-SXM4-40GB|40960"),
        ("init", "802|0||0"),
        ("init_crashes", "exit -11"),
    ],
)
def test_a_lie_shows_in_the_driver(tmp_path: Path, lie: str, shown: str) -> None:
    """Each lie changes what it says it changes, on a machine that told the truth before, and no more."""
    furnish(tmp_path, A100)
    furnish(tmp_path, A100, lie)
    assert driver(tmp_path) == shown


@pytest.mark.parametrize(
    ("lie", "shown"),
    [
        ("model", (0, ["Tesla K80, 40960 MiB"] * 2)),
        ("count", (0, ["NVIDIA A100-SXM4-40GB, 40960 MiB"])),
        ("memory", (0, ["NVIDIA A100-SXM4-40GB, 20480 MiB"] * 2)),
        ("driver_count", (0, ["NVIDIA A100-SXM4-40GB, 40960 MiB"] * 2)),
        ("init", (0, ["NVIDIA A100-SXM4-40GB, 40960 MiB"] * 2)),
    ],
)
def test_a_lie_shows_in_the_tool(tmp_path: Path, lie: str, shown: tuple[int, list[str]]) -> None:
    """The tool and the driver may tell different things, as on real machines."""
    furnish(tmp_path, A100, lie)
    assert smi(tmp_path, "--query-gpu=name,memory.total", "--format=csv,noheader") == shown


def test_a_tool_that_fails_or_hangs(tmp_path: Path) -> None:
    """It exits 9 with the real words, or never."""
    furnish(tmp_path, A100, "smi_fails")
    code, lines = smi(tmp_path, "-L")
    assert code == 9
    assert "couldn't communicate with the NVIDIA driver" in lines[0]
    furnish(tmp_path, A100, "smi_hangs")
    with pytest.raises(subprocess.TimeoutExpired):
        smi(tmp_path, "-L", timeout=0.3)
    furnish(tmp_path, A100, "init_hangs")
    with pytest.raises(subprocess.TimeoutExpired):
        driver(tmp_path, timeout=0.3)


@pytest.mark.parametrize("lie", ["", "context", "allocation", "corrupt"])
def test_memory_is_written_and_read_back(tmp_path: Path, lie: str) -> None:
    """What goes to the device comes back, unless the lie is about just that."""
    furnish(tmp_path, A100, lie)
    cuda = ctypes.CDLL(str(tmp_path / "lib/libcuda.so.1"))
    context, pointer = ctypes.c_void_p(), ctypes.c_uint64()
    assert cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(64)) != 0
    assert cuda.cuInit(0) == 0
    retained = cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
    assert retained == (46 if lie == "context" else 0)
    if retained:
        return
    assert cuda.cuCtxSetCurrent(context) == 0
    allocated = cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(64))
    assert allocated == (2 if lie == "allocation" else 0)
    if allocated:
        return
    back = ctypes.create_string_buffer(64)
    assert cuda.cuMemcpyHtoD_v2(pointer, b"d" * 64, ctypes.c_size_t(64)) == 0
    assert cuda.cuMemcpyDtoH_v2(back, pointer, ctypes.c_size_t(64)) == 0
    assert (back.raw == b"d" * 64) is (lie != "corrupt")
    assert cuda.cuMemFree_v2(pointer) == 0


def test_an_unknown_lie_is_refused(tmp_path: Path) -> None:
    """A typing error must not make a machine honest."""
    with pytest.raises(ValueError, match="one of allocation, "):
        furnish(tmp_path, A100, "modle")
    assert "init" in LIES
