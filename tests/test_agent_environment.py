"""The environment on the machine, where its making is interrupted or comes upon another one's."""

from __future__ import annotations

import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dayfly.errors import InstanceLost
from dayfly.runtime.agent import environment as agent_environment
from dayfly.runtime.agent import files
from dayfly.runtime.agent.digests import digest_of
from dayfly.runtime.agent.environment import Environment
from dayfly.runtime.agent.refusal import Refusal
from dayfly.runtime.agent.store import Store
from tests.test_session import Runs, pickler, python_on_path, recipe, wheel

__all__ = ["pickler", "python_on_path"]  # fixtures

WAIT_S = 60.0
RUN = "e" * 32
REQUIREMENTS = "# --index-url https://me:pa55word@example.org/simple\n"


def environment(cache: Path, name: str = "environment", **request: Any) -> Environment:
    """One that is to be made in a folder."""
    usual: dict[str, Any] = {
        "digest": name,
        "python": "3.11",
        "requirements": REQUIREMENTS,
        "constraints": "",
        "variables": {},
        "checks": [],
        "torch_builds": {},
        "jax_extra": "",
        "wheels": [],
        "uv": "uv",
    }
    return Environment(str(cache), RUN, Store(str(cache), RUN), set(), {**usual, **request})


def listings(cache: Path) -> list[str]:
    """What is left of the files that may hold passwords, whole or in part."""
    found = [*cache.rglob("requirements.txt*"), *cache.rglob("constraints.txt*")]
    return sorted(path.name for path in found)


@pytest.mark.sshd
def test_a_connection_that_ends_while_it_is_made_leaves_no_password(python_on_path: Runs) -> None:
    """What it is made of is in the machine's cache, which stays."""
    runs, cache = python_on_path, python_on_path.server.home.parent / "cache"
    wanted = recipe(
        requirements=REQUIREMENTS,
        wheels=(wheel(runs.folder, "first"),),
        checks=("import pathlib, time; pathlib.Path('checking').touch(); time.sleep(600)",),
    )
    folder = cache / "environments" / wanted.digest
    until = time.monotonic() + WAIT_S
    with runs.session() as session, ThreadPoolExecutor(1) as pool:
        made = pool.submit(session.build_environment, wanted, lambda _: None)
        while not (folder / "checking").exists():
            assert not made.done(), made.exception()
            assert time.monotonic() < until
            time.sleep(0.01)
        assert listings(cache) == ["constraints.txt", "requirements.txt"]
        session.close()
        assert isinstance(made.exception(WAIT_S), InstanceLost)
    while listings(cache):
        assert time.monotonic() < until, listings(cache)
        time.sleep(0.01)


@pytest.mark.sshd
@pytest.mark.parametrize(
    ("torch", "plugin", "backend", "said"),
    [
        ("2.4.0", "", "cu124", ["torch 2.4.0 comes along", "jax 0.6 comes along"]),
        ("2.11.0", "", "auto", ["torch 2.11.0 comes along", "jax 0.6 comes along"]),
        ("2.4.0+cu118", "jax_cuda12_plugin", "None", []),
    ],
    ids=["a release that is known", "one that is not", "both are chosen"],
)
def test_what_comes_along_unnamed_gets_the_build_for_the_gpus(
    python_on_path: Runs, torch: str, plugin: str, backend: str, said: list[str]
) -> None:
    """As uv resolves it there; what has its build, or its plugin, is left as it is."""
    runs, cache = python_on_path, python_on_path.server.home.parent / "cache"
    (links := runs.folder / "links").mkdir()
    plugins = "Provides-Extra: cuda12\nRequires-Dist: jax_cuda12_plugin; extra == 'cuda12'\n"
    wheel(links, "torch", torch)
    wheel(links, "lightning", more="Requires-Dist: torch\n")
    wheel(links, "flax", more="Requires-Dist: jax\n")
    wheel(links, "jax", "0.6", more=plugins)
    wheel(links, "jax_cuda12_plugin", "0.6")
    wanted = recipe(
        requirements=f"--no-index\n--find-links {links}\nlightning\nflax\n{plugin}\n",
        torch_builds={"2.4": "cu124"},
        jax_extra="cuda12",
        checks=(
            "import os, jax_cuda12_plugin; print('backend', os.environ.get('UV_TORCH_BACKEND'))",
        ),
    )
    lines: list[str] = []
    with runs.session() as session:
        session.build_environment(wanted, lines.append)
    assert [line.partition(":")[0] for line in lines if "comes along" in line] == said
    assert f"backend {backend}" in lines
    assert not list(cache.rglob("resolved.txt"))


def test_one_that_cannot_be_begun_leaves_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the disk is full before the second of its files is there."""
    (tmp_path / "uv").mkdir()
    (tmp_path / "uv" / "uv").touch()
    (tmp_path / "environments").mkdir()

    def write_file(path: str, data: bytes) -> None:
        if path.endswith("constraints.txt"):
            Path(path + ".1-2.tmp").touch()
            raise OSError("no room")
        files.write_file(path, data)

    monkeypatch.setattr(agent_environment, "write_file", write_file)
    with pytest.raises(OSError, match="no room"):
        environment(tmp_path).build(pytest.fail)
    assert listings(tmp_path) == []


def test_one_that_nobody_waits_for_any_more_writes_none(tmp_path: Path) -> None:
    """Its thread may be there a moment longer than its connection."""
    (tmp_path / "uv").mkdir()
    (tmp_path / "uv" / "uv").touch()
    left = environment(tmp_path)
    left.leave()
    with pytest.raises(Refusal, match="nobody waits"):
        left.build(pytest.fail)
    assert listings(tmp_path) == []


@pytest.mark.parametrize("links", [True, False])
def test_two_environments_bring_uv_into_place_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Both have seen that it is not there; it stays what was sent, too, so that no third one has it sent again."""
    if not links:
        monkeypatch.setattr(os, "link", _no_links)
    made = environment(tmp_path), environment(tmp_path, "other")
    blob = Path(Store(str(tmp_path), RUN).path("uv"))
    blob.write_bytes(b"#!/bin/sh\nexit 3\n")
    blob.chmod(0o400)
    there = os.path.exists
    place = str(tmp_path / "uv" / "uv")
    monkeypatch.setattr(os.path, "exists", lambda path: path != place and there(path))
    assert [each._uv() for each in made] == [place, place]
    assert subprocess.run([place], check=False).returncode == 3
    assert [path.name for path in (tmp_path / "uv").iterdir()] == ["uv"]
    assert [path.name for path in blob.parent.iterdir()] == ["uv"]


def test_wheels_are_there_also_on_a_disk_without_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As copies."""
    monkeypatch.setattr(os, "link", _no_links)
    (folder := tmp_path / "environments" / "environment").mkdir(parents=True)
    store = Store(str(tmp_path), RUN)
    store.take(digest_of(b"wheel"), b"wheel")
    wheels = [["own-1.0-py3-none-any.whl", digest_of(b"wheel")]]
    environment(tmp_path, wheels=wheels, requirements="numpy\n")._place_files()
    assert (folder / "own-1.0-py3-none-any.whl").read_bytes() == b"wheel"
    assert (folder / "requirements.txt").read_text() == "numpy\n./own-1.0-py3-none-any.whl\n"


def _no_links(*_: object) -> None:
    raise PermissionError("a disk without links")


def test_the_files_of_whoever_makes_it_now_stay(tmp_path: Path) -> None:
    """Another that waited for its turn has gone."""
    (tmp_path / "environments" / "environment").mkdir(parents=True)
    maker, waiting = environment(tmp_path), environment(tmp_path)
    maker._place_files()
    waiting.leave()
    assert listings(tmp_path) == ["constraints.txt", "requirements.txt"]
    maker.leave()
    assert listings(tmp_path) == []
