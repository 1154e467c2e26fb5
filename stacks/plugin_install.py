"""A vendor's plugin that is missing, installed by the Pulumi CLI itself: once, however many processes need it, and size first."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

from dayfly.errors import ConfigurationError, DayflyError, PluginMissing
from dayfly.infra.units import human_bytes
from dayfly.stacks import file_lock, plugins
from dayfly.stacks.engine import Engine
from dayfly.stacks.plugins import Place, Plugin

Progress = Callable[[str], None]

_ASK_LIMIT_S = 5.0
_INSTALL_LIMIT_S = 1800.0


def ensure(plugin: Plugin, engine: Engine, progress: Progress) -> Place:
    """A plugin, found or installed; of several processes that need it one installs it, and the others wait.

    Args:
        plugin: which.
        engine: the CLI, whose own `plugin install` is used.
        progress: told what is downloaded, how large it is, and how it went.

    Raises:
        PluginMissing: it cannot be had; has what was tried, and the command to run.
        ConfigurationError: the folder of plugins cannot be written, or others may write to it.
    """
    found = plugins.find(plugin, engine)
    if found is not None:
        return found
    _make_folder()
    with file_lock.held(plugins.folder() / "lock", _INSTALL_LIMIT_S, _busy(plugin)):
        found = plugins.find(plugin, engine)
        if found is not None:
            return found  # Whoever held the lock before has installed it.
        size = size_bytes(plugin)
        told = f"{human_bytes(size)} to download" if size else "its size is not known"
        progress(f"installing {plugin} ({told}) from {plugin.server}")
        said = _install(plugin, engine)
        found = plugins.find(plugin, engine)
    if found is None:
        raise PluginMissing(
            f"{plugin} is not on this computer, and could not be installed from {plugin.server}: {said}. Nothing was created."
            f" Next: let this computer reach that host and run `{plugin.command}`, name a mirror"
            f" with --server URL, or put {plugin.program} of that version on PATH"
        )
    progress(f"{plugin} is ready, {human_bytes(found.size_bytes)} in {plugin.folder}")
    return found


def size_bytes(plugin: Plugin) -> int:
    """How much there is to download; 0 where its host does not say."""
    import requests

    try:
        answer = requests.head(plugin.url, timeout=_ASK_LIMIT_S, allow_redirects=True)
        return int(answer.headers.get("Content-Length", 0)) if answer.ok else 0
    except (requests.RequestException, ValueError):
        return 0


def _install(plugin: Plugin, engine: Engine) -> str:
    """Has the CLI install it.

    Returns:
        The last of what it said where that went wrong.
    """
    command = [str(engine.path), "plugin", "install", "resource", plugin.name, plugin.version]
    # Asked for no server the CLI would look at others first, of which nothing has been said to anybody.
    command += ["--server", plugin.server, "--non-interactive", "--color", "never"]
    plugins.check_linked(plugins.folder() / "home", plugin)
    variables = {
        "PULUMI_HOME": str(plugins.folder() / "home"),
        "PULUMI_SKIP_UPDATE_CHECK": "true",
    }
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_INSTALL_LIMIT_S,
            env=os.environ | variables,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    reasons = [line for line in lines if "rror" in line] or lines
    return (
        " / ".join(dict.fromkeys([*reasons[:1], *reasons[-1:]])) or f"ended with {done.returncode}"
    )


def _busy(plugin: Plugin) -> Callable[[str], DayflyError]:
    return lambda holder: PluginMissing(
        f"process {holder} has been installing a plugin for {_INSTALL_LIMIT_S / 60:.0f} minutes, so that {plugin} was not;"
        f" look at that process, and try again"
    )


def _make_folder() -> None:
    place = plugins.folder()
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        private = plugins.is_private(place)
    except OSError as error:
        raise ConfigurationError(
            f"{place}: {error.strerror}; set DAYFLY_ENGINE_HOME to a folder of your own"
        ) from error
    if not private:
        raise ConfigurationError(
            f"{place} is another user's, or can be written by others, who could then run code as you: chmod 700 {place}"
        )
