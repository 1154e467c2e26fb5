"""Each part of the agent is loaded when it is asked for, and none is forgotten."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from dayfly.runtime import agent
from dayfly.runtime.agent import answers
from dayfly.runtime.agent.channel import Channel

# A package by another name than on the machine, as there without `dayfly`; says which modules it takes to tell where a job stands.
_STATUS = """
import sys
sys.path.insert(0, sys.argv[1])
from agent.answers import Answers
from agent.channel import Channel
channel = Channel(sys.argv[2], bytes(32), bytes(16))
print(Answers(channel, sys.argv[3]).to("stat")({}, b"")["state"])
print(*sys.modules)
"""


def test_the_parts_answer_what_the_table_says() -> None:
    """Whatever is called on_something in them, and nothing twice."""
    told = {}
    for name in answers.PARTS:
        module = import_module(f"{agent.__name__}.{name}_answers")
        (part,) = (
            each
            for each in vars(module).values()
            if inspect.isclass(each) and each.__module__ == module.__name__
        )
        told[name] = {op.removeprefix("on_") for op in dir(part) if op.startswith("on_")}
    assert told == {name: set(ops) for name, ops in answers.PARTS.items()}
    assert len({op for ops in answers.PARTS.values() for op in ops}) == sum(
        map(len, answers.PARTS.values())
    )
    folder = Path(agent.__file__).parent
    assert {path.name for path in folder.glob("*_answers.py")} == {
        f"{name}_answers.py" for name in told
    }


def test_each_part_is_made_once_and_unknown_requests_have_none(tmp_path: Path) -> None:
    """Whoever asks: a part may hold what is open."""
    channel = Channel("0" * 32, bytes(32), bytes(16))
    known = answers.Answers(channel, str(tmp_path))
    for ops in answers.PARTS.values():
        parts = [getattr(known.to(op), "__self__", None) for op in ops]
        assert parts[0] is not None
        assert all(part is parts[0] for part in parts)
    assert known.to("nonsense") is None
    known.close()


def test_a_session_s_first_answer_loads_little(tmp_path: Path) -> None:
    """Each login waits for it: `json` brings `re`, `threading` brings `functools`, hashes bring OpenSSL."""
    folder = Path(agent.__file__).resolve().parent
    (place := tmp_path / "agent").symlink_to(folder)
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        _STATUS,
        str(place.parent),
        "0" * 32,
        str(tmp_path),
    ]
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    state, modules = done.stdout.splitlines()
    assert state == "absent"
    slow = {
        "json",
        "re",
        "enum",
        "threading",
        "hashlib",
        "_hashlib",
        "hmac",
        "functools",
        "pathlib",
    }
    assert not slow & set(modules.split())
