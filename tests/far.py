"""A stand-in for the machine: a fresh interpreter that has cloudpickle on its path, and no project and no Dayfly."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dayfly.runtime import payload
from dayfly.runtime.parts import Parts

_PROGRAM = """
import json, linecache, sys, traceback
sys.path.insert(0, sys.argv[1])
import cloudpickle, pickle
head, _, body = sys.stdin.buffer.read().partition(b"\\n")
for name, text in json.loads(head)["sources"].items():
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
function, args, kwargs = pickle.loads(body)
result = {"text": "", "traceback": "", "modules": [], "outcome": "value"}
try:
    value = function(*args, **kwargs)
except Exception as error:
    value, result["outcome"], result["traceback"] = error, "raised", traceback.format_exc()
result["type"] = type(value).__name__
assert not [name for name in sys.modules if name.partition(".")[0] == "dayfly"], "it needs dayfly"
sys.stdout.buffer.write(json.dumps(result).encode() + b"\\n" + cloudpickle.dumps(value))
"""


def header(task: Parts) -> dict[str, Any]:
    """The first line of a task."""
    made: dict[str, Any] = json.loads(bytes(task).partition(b"\n")[0])
    return made


def run(task: Parts | bytes, folder: Path) -> bytes:
    """Run a task as the machine would, and give the unsealed result."""
    command = [sys.executable, "-I", "-S", "-c", _PROGRAM, str(payload.pickler_zip(folder))]
    done = subprocess.run(command, input=bytes(task), capture_output=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def call(folder: Path, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Pack a call, run it far away, and unpack what came of it."""
    packed = payload.pack(function, args, kwargs)
    return payload.unpack(run(packed.task, folder), run_id="f" * 32)
