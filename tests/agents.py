"""The agent as a machine has it that was logged in to before: there, and compiled by this computer's Pythons.

A new machine is brought it at its first login, and compiles it then, which takes longer than most of what is tried there.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from dayfly.runtime.ssh import bootstrap


def bring(cache: Path) -> None:
    """Puts it into the cache of a machine, which is made for it; one of another hash would be left alone there."""
    (agents := cache / "agents").mkdir(mode=0o700, parents=True)
    cache.chmod(0o700)
    made = _made()
    shutil.copytree(made, agents / made.name, copy_function=_linked)


@functools.cache
def _made() -> Path:
    """One for this process."""
    folder = Path(tempfile.mkdtemp(prefix="dayfly-agent-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (made := folder / bootstrap.agent_digest()).mkdir(mode=0o700)
    for name, text in json.loads(bootstrap.agent_text()).items():
        (made / name).touch(mode=0o600)
        (made / name).write_bytes(text.encode())
    # Under the first the agent runs, under the other what it starts.
    for python in ("/usr/bin/python3", os.path.realpath(sys.executable)):
        if os.access(python, os.X_OK):
            command = [python, "-I", "-S", "-m", "compileall", "-q", str(made)]
            subprocess.run(command, check=False, capture_output=True, umask=0o077)
    return made


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # On another file system.
        shutil.copy2(source, target)
