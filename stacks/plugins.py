"""The vendors' plugins, which make what their SDKs declare: which ones are needed, and where they are.

They come to hundreds of megabytes, so that all homes of a user share them, and nothing installs one on its way.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dayfly.errors import ConfigurationError, PluginMissing, SpecError
from dayfly.infra import providers
from dayfly.infra.providers.base import Provider
from dayfly.infra.units import human_bytes, suggestion
from dayfly.infra.vendor import VendorProvider
from dayfly.stacks import engine
from dayfly.stacks.engine import Engine

Origin = Literal["attached", "path", "installed"]

# Where the Pulumi CLI itself looks for what its vendor publishes.
RELEASES = "https://get.pulumi.com/releases/plugins"
_ATTACHED = "PULUMI_DEBUG_PROVIDERS"
# As the releases are named; Pulumi knows no other machines.
_MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True)
class Plugin:
    """One plugin in the version that an SDK names.

    Attributes:
        provider: whose resources it makes, as `provider=` takes it.
        name: "aws".
        version: without a leading "v".
        server: URL below which its releases are.
    """

    provider: str
    name: str
    version: str
    server: str = RELEASES

    def __str__(self) -> str:
        return f"Pulumi's {self.name} plugin {self.version}"

    @property
    def command(self) -> str:
        """What installs it."""
        return f"dayfly engine install --plugin {self.provider}"

    @property
    def program(self) -> str:
        """The executable's name."""
        return f"pulumi-resource-{self.name}"

    @property
    def folder(self) -> Path:
        """Where it is once it is installed."""
        return folder() / f"resource-{self.name}-v{self.version}"

    @property
    def url(self) -> str:
        """Of its release for this kind of machine."""
        machine = _MACHINES.get(platform.machine().lower(), platform.machine())
        return f"{self.server.rstrip('/')}/{self.program}-v{self.version}-{sys.platform}-{machine}.tar.gz"


@dataclass(frozen=True)
class Place:
    """A plugin that is there.

    Attributes:
        origin: "attached" runs already, "path" is on PATH or beside the CLI, "installed" is in Dayfly's folder.
        where: its port, or its file.
        size_bytes: on the disk; 0 for one that is not Dayfly's.
    """

    origin: Origin
    where: str
    size_bytes: int = 0


@dataclass(frozen=True)
class PluginState:
    """Whether one provider's plugin is there.

    Attributes:
        provider: whose.
        plugin: in the version that its SDK names; None where that SDK is not installed.
        place: where it is; None where it is not.
        lacking: what to do; "" where it is there.
    """

    provider: str
    plugin: Plugin | None
    place: Place | None
    lacking: str

    def __str__(self) -> str:
        if self.plugin is None or self.place is None:
            return f"plugin of {self.provider}: not there; {self.lacking}"
        size = f", {human_bytes(self.place.size_bytes)}" if self.place.size_bytes else ""
        return f"{self.place.where}  {self.plugin.version}  (plugin of {self.provider}, {self.place.origin}{size})"

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        there = {"origin": None, "where": None, "size_bytes": 0}
        return {
            "provider": self.provider,
            "name": self.plugin.name if self.plugin else None,
            "version": self.plugin.version if self.plugin else None,
            **(asdict(self.place) if self.place else there),
        }


def folder() -> Path:
    """The plugins of all homes of this user."""
    return engine.home() / "plugins"


def vendors() -> tuple[VendorProvider, ...]:
    """All providers whose resources a vendor's plugin makes."""
    found = (providers.load(name) for name in providers.names())
    return tuple(each for each in found if isinstance(each, VendorProvider))


def states(engine: Engine | None) -> Iterator[PluginState]:
    """Of every provider that needs a plugin, whether it is there."""
    for provider in vendors():
        try:
            plugin = of(provider)
        except ConfigurationError as error:
            yield PluginState(provider.name, None, None, str(error))
            continue
        place = find(plugin, engine) if plugin else None
        lacking = "" if place or not plugin else plugin.command
        yield PluginState(provider.name, plugin, place, lacking)


def named(name: str, server: str | None = None) -> Plugin:
    """The plugin of a provider, from a server of releases.

    Raises:
        SpecError: no provider of that name needs one.
        ConfigurationError: its SDK is not installed.
    """
    known = {each.name: each for each in vendors()}
    if name not in known:
        others = suggestion(name, known) if known else "no provider needs one"
        raise SpecError(f"--plugin {name}: no provider of that name needs a plugin; {others}")
    plugin = of(known[name])
    assert plugin is not None
    return replace(plugin, server=server) if server else plugin


def of(provider: Provider) -> Plugin | None:
    """The plugin that a provider's SDK names; None for a provider that needs none.

    Raises:
        ConfigurationError: its SDK is not installed, or says nothing of a plugin.
    """
    if not isinstance(provider, VendorProvider):
        return None
    found = importlib.util.find_spec(provider.sdk)
    if found is None or not found.submodule_search_locations:
        raise ConfigurationError(
            f'provider="{provider.name}" needs {provider.sdk}: pip install "dayfly[{provider.extra}]"'
        )
    file = Path(found.submodule_search_locations[0]) / "pulumi-plugin.json"
    try:
        told = json.loads(file.read_text())
        name, version = str(told["name"]), str(told["version"]).removeprefix("v")
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationError(
            f"{file} does not say which plugin {provider.sdk} needs ({error!r}); install {provider.sdk} again"
        ) from error
    return Plugin(provider.name, name, version, str(told.get("server") or RELEASES))


def find(plugin: Plugin, engine: Engine | None) -> Place | None:
    """Where a plugin is, without a process or a request; None where it is not."""
    for pair in os.environ.get(_ATTACHED, "").split(","):
        name, _, port = pair.partition(":")
        if name.strip() == plugin.name:
            return Place("attached", f"port {port.strip()} ({_ATTACHED})")
    around = [str(engine.bin_dir)] if engine else []
    around += [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    if on_path := shutil.which(plugin.program, path=os.pathsep.join(around)):
        return Place("path", on_path)
    # The CLI leaves this beside one that it has not come to the end of.
    partial = plugin.folder.with_name(f"{plugin.folder.name}.partial")
    file = plugin.folder / plugin.program
    if partial.exists() or not os.access(file, os.X_OK) or not is_private(plugin.folder):
        return None
    return Place("installed", str(file), _size(plugin.folder))


def of_each(names: Iterable[str]) -> Iterator[Plugin]:
    """The plugins that these providers need.

    Raises:
        ConfigurationError: the SDK of one is not installed.
    """
    for name in dict.fromkeys(names):
        plugin = of(providers.load(name))
        if plugin is not None:
            yield plugin


def link(pulumi_home: Path) -> None:
    """Has one home of the engine use the plugins that all of them share; a teardown goes on where that cannot be."""
    place = pulumi_home / "plugins"
    if _is_linked(place):
        return
    # Of two processes one is first; what stands there and is no link holds what somebody has installed by hand.
    with contextlib.suppress(OSError):
        folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        pulumi_home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if place.is_symlink():
            place.unlink()
        place.symlink_to(folder())


def check_linked(pulumi_home: Path, plugin: Plugin) -> None:
    """Makes sure that one home of the engine looks for a plugin where it is, or will be.

    Raises:
        PluginMissing: that home has a folder of its own, and not this plugin in it.
    """
    link(pulumi_home)
    place = pulumi_home / "plugins"
    own = place / plugin.folder.name / plugin.program
    if _is_linked(place) or os.access(own, os.X_OK):
        return
    raise PluginMissing(
        f"{plugin} cannot be used: the engine looks for it in {place}, which is no link to {folder()}, where Dayfly keeps it."
        f" Nothing was created. Next: move what is in {place} to {folder()}, remove {place}, and run it again"
    )


def _is_linked(place: Path) -> bool:
    return place.is_symlink() and place.readlink() == folder()


def is_private(place: Path) -> bool:
    """Whether only this user, or root, can have put what is in there."""
    seen = place.stat()
    return seen.st_uid in (os.getuid(), 0) and not stat.S_IMODE(seen.st_mode) & 0o022


def _size(place: Path) -> int:
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
