"""The GPUs of this computer, as their driver tells of them."""

from __future__ import annotations

import shutil
import subprocess

from dayfly.errors import ConfigurationError
from dayfly.infra.gpu_request import DriverGpu

_SMI_S = 20.0


def found() -> list[DriverGpu]:
    """None where there is no driver, or it does not answer as documented.

    Raises:
        ConfigurationError: it hangs.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        answer = subprocess.run(
            [tool, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=_SMI_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConfigurationError(
            f"{tool} has not told in {_SMI_S:.0f} s which GPUs this computer has: see why it hangs, or take it off PATH"
        ) from None
    lines = answer.stdout.split("\n")[:-1] if answer.returncode == 0 else []
    return [DriverGpu.of(line) for line in lines]
