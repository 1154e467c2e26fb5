"""Whether a test may have mounts of its own here: root may, unless its container has taken that right away."""

from __future__ import annotations

import functools
import os
import subprocess

_PROBE = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]


@functools.cache
def refusal() -> str:
    """Why there can be no mount namespace here; "" where there can."""
    if os.getuid() != 0:
        return "mounts of its own take root"
    try:
        done = subprocess.run(_PROBE, capture_output=True, text=True, timeout=30, check=False)
    except OSError as error:
        return f"mounts of its own take unshare: {error}"
    return f"no mounts of its own: {done.stderr.strip()}" if done.returncode else ""
