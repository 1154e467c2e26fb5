"""Vendors' plugins: found where they are, installed once by the CLI itself, and refused where they cannot be had."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dayfly.errors import ConfigurationError, PluginMissing, SpecError
from dayfly.infra import providers
from dayfly.infra.spec import Spec
from dayfly.runtime import doctor
from dayfly.runtime.call import Call
from dayfly.runtime.context import Context
from dayfly.stacks import journal, plugin_install, plugins
from dayfly.stacks.engine import Engine
from dayfly.stacks.plugins import Plugin
from tests.emulators import standin
from tests.engine.client import dayfly, plain_cli

_NOWHERE = Engine(Path("/nowhere/pulumi"), "3.250.0", "path")
_PROGRAM = b"#!/bin/sh\nexit 0\n"


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No plugin is there, and the CLI still is."""
    monkeypatch.setenv("DAYFLY_ENGINE_HOME", str(tmp_path / "engines"))
    monkeypatch.setenv("PATH", f"{engine.bin_dir}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "engines" / "plugins"


@pytest.fixture
def known() -> Iterator[None]:
    """A provider that needs one."""
    with standin.known(pytest.MonkeyPatch()):
        yield


class _Releases(SimpleHTTPRequestHandler):
    """Serves a folder, and remembers what was asked."""

    def __init__(self, *args: Any, asked: list[str], **kwargs: Any) -> None:
        self._asked = asked
        super().__init__(*args, **kwargs)

    def log_message(self, format: str, *args: Any) -> None:
        self._asked.append(str(args[0]))


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[str, list[str], int]]:
    """A server of releases with the stand-in's plugin: its URL, what it was asked, and the size of the one file."""
    folder, asked = tmp_path / "releases", list[str]()
    folder.mkdir()
    file = folder / _plugin().url.rpartition("/")[2]
    with tarfile.open(file, "w:gz") as packed:
        entry = tarfile.TarInfo("pulumi-resource-aws")
        entry.size, entry.mode = len(_PROGRAM), 0o755
        packed.addfile(entry, io.BytesIO(_PROGRAM))
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(_Releases, directory=str(folder), asked=asked)
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked, file.stat().st_size
    server.shutdown()
    thread.join()
    server.server_close()


def _plugin() -> Plugin:
    return Plugin("standin", "aws", standin.sdk_version())


@pytest.mark.usefixtures("known")
def test_the_sdk_names_the_plugin_and_its_version() -> None:
    """Without being imported; a provider with dynamic resources needs none, and one whose SDK is not there says what installs it."""
    code = (
        "import sys\nfrom dayfly.infra import providers\nfrom dayfly.stacks import plugins\n"
        "print(plugins.of(providers.load('standin')).version, 'pulumi_aws' in sys.modules, 'pulumi' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [standin.sdk_version(), "False", "False"]
    assert plugins.of(providers.load("local")) is None
    with pytest.raises(SpecError, match="standin"):
        plugins.named("local")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(providers.load("standin")), "sdk", "pulumi_nowhere")
        with pytest.raises(ConfigurationError, match=r'pip install "dayfly\[aws\]"'):
            plugins.named("standin")


def test_a_plugin_is_found_attached_on_the_path_or_in_the_folder(
    own_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In that order, since it is the engine's; half a plugin, and one that others may write to, is none."""
    plugin = _plugin()
    assert plugins.find(plugin, _NOWHERE) is None
    file = plugin.folder / plugin.program
    file.parent.mkdir(parents=True)
    file.write_bytes(_PROGRAM)
    assert plugins.find(plugin, _NOWHERE) is None  # It cannot be executed.
    file.chmod(0o755)
    plugin.folder.chmod(0o777)
    assert plugins.find(plugin, _NOWHERE) is None
    plugin.folder.chmod(0o700)
    found = plugins.find(plugin, _NOWHERE)
    assert found is not None
    assert (found.origin, found.where, found.size_bytes) == ("installed", str(file), len(_PROGRAM))
    partial_file = own_folder / f"{plugin.folder.name}.partial"
    partial_file.touch()
    assert plugins.find(plugin, _NOWHERE) is None
    beside = tmp_path / "beside"
    beside.mkdir()
    (beside / plugin.program).write_bytes(_PROGRAM)
    (beside / plugin.program).chmod(0o755)
    found = plugins.find(plugin, Engine(beside / "pulumi", "3.250.0", "path"))
    assert found is not None
    assert (found.origin, found.where) == ("path", str(beside / plugin.program))
    monkeypatch.setenv("PULUMI_DEBUG_PROVIDERS", "gcp:1,aws:4711")
    found = plugins.find(plugin, _NOWHERE)
    assert found is not None
    assert (found.origin, "4711" in found.where) == ("attached", True)


@pytest.mark.engine
@pytest.mark.usefixtures("known")
def test_many_processes_install_a_plugin_once_and_say_its_size_first(
    mirror: tuple[str, list[str], int], own_folder: Path
) -> None:
    """By the CLI's own `plugin install`; afterwards every home of this user's finds it, and status and doctor show it."""
    server, asked, size = mirror
    command = [sys.executable, "-m", "dayfly.runtime.cli", "engine", "install"]
    command += ["--plugin", "standin", "--server", server]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said
    told = [errors for _, errors in said if "installing" in errors]
    assert len(told) == 1
    assert f"{size} B to download" in told[0] or f"{size / 1000:.1f}" in told[0], told
    assert len([line for line in asked if line.startswith("GET")]) == 1
    file = str(own_folder / _plugin().folder.name / "pulumi-resource-aws")
    assert all(file in output for output, _ in said)
    states = json.loads(dayfly("engine", "status", "--json").stdout)["plugins"]
    assert [each["where"] for each in states if each["provider"] == "standin"] == [file]
    checks = {check.name: check for check in doctor.examine().checks}
    assert checks["plugin standin"].level == "ok"
    listed = plain_cli(Path.cwd())("plugin", "ls", "--json")
    assert [each["name"] for each in json.loads(listed.stdout)] == ["aws"]


@pytest.mark.engine
def test_a_plugin_that_cannot_be_had_is_refused_with_the_command(engine: Engine) -> None:
    """What was tried, and what to do."""
    unreachable = Plugin("standin", "aws", standin.sdk_version(), "http://127.0.0.1:9")
    said = list[str]()
    with pytest.raises(PluginMissing) as refused:
        plugin_install.ensure(unreachable, engine, said.append)
    for words in ("http://127.0.0.1:9", "refused", "dayfly engine install --plugin standin"):
        assert words in str(refused.value)
    assert "size is not known" in said[0]


def test_a_folder_that_others_may_write_to_is_refused(own_folder: Path, engine: Engine) -> None:
    """Whoever can put a plugin there runs code as this user."""
    own_folder.mkdir(parents=True)
    own_folder.chmod(0o777)
    with pytest.raises(ConfigurationError, match="chmod 700"):
        plugin_install.ensure(_plugin(), engine, lambda _: None)


def test_every_home_of_the_engine_has_the_same_plugins(own_folder: Path, tmp_path: Path) -> None:
    """One link each; what somebody has put there by hand stays."""
    home, own = tmp_path / "home", tmp_path / "own"
    plugins.link(home)
    plugins.link(home)
    assert (home / "plugins").readlink() == own_folder
    (own / "plugins" / "resource-mine-v1").mkdir(parents=True)
    plugins.link(own)
    assert (own / "plugins" / "resource-mine-v1").is_dir()


def test_a_home_with_plugins_of_its_own_is_refused_by_name(
    own_folder: Path, tmp_path: Path
) -> None:
    """The engine would look there, and end in the midst of the run; where it finds it all is well."""
    plugin, home = _plugin(), tmp_path / "home"
    plugins.check_linked(home, plugin)
    own = tmp_path / "own"
    (own / "plugins").mkdir(parents=True)
    with pytest.raises(PluginMissing, match=f"no link to {own_folder}.*Next: move") as refused:
        plugins.check_linked(own, plugin)
    assert str(own / "plugins") in str(refused.value)
    file = own / "plugins" / plugin.folder.name / plugin.program
    file.parent.mkdir()
    file.write_bytes(_PROGRAM)
    file.chmod(0o755)
    plugins.check_linked(own, plugin)


@pytest.mark.usefixtures("known")
def test_a_run_is_refused_where_the_engine_would_not_find_the_plugin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is installed, and the home has a folder of its own; nothing exists."""
    monkeypatch.setenv("STANDIN_KEY", "a-key-of-the-stand-in")
    file = _plugin().folder / _plugin().program
    file.parent.mkdir(parents=True, mode=0o700)
    file.write_bytes(_PROGRAM)
    file.chmod(0o755)
    workspace = Context.open().workspace
    (workspace.pulumi_home / "plugins").mkdir(parents=True)
    with pytest.raises(PluginMissing, match="Next: move"):
        Call.prepare(abs, [1], {}, Spec(provider="standin", environment=[]))
    assert journal.histories(workspace.runs, closed=True) == []


@pytest.mark.engine
@pytest.mark.usefixtures("known")
def test_the_cli_is_told_the_server_that_was_named(
    mirror: tuple[str, list[str], int], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself it would ask GitHub first, whose size nobody was told, and which a firewall that was opened for the other shuts out."""
    server, asked, _ = mirror
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    overrides = f"^{plugins.RELEASES}$={server},^github=http://127.0.0.1:9"
    monkeypatch.setenv("PULUMI_PLUGIN_DOWNLOAD_URL_OVERRIDES", overrides)
    said = list[str]()
    assert plugin_install.ensure(_plugin(), engine, said.append).origin == "installed"
    assert said[0].endswith(f"from {plugins.RELEASES}")
    assert len([line for line in asked if line.startswith("GET")]) == 1
