"""The Pulumi CLI that runs every stack: find it, and where there is none, install or build it.

Looking is cheap enough for every call: no process is started for an engine that was seen before.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from dayfly.errors import EngineMissing

if TYPE_CHECKING:
    from dayfly.stacks.engine_build import Recipe

Progress = Callable[[str], None]
Origin = Literal["path", "cache", "installed", "built"]

VERSION = "3.250.0"  # the version of engine/cli/go.mod, and of the SDK that pyproject.toml pins
MINIMUM = (3, 188, 0)  # the first with `stack rm --remove-backups`, without which no teardown ends
COMPANIONS = ("pulumi-language-python", "pulumi-resource-pulumi-python")

_VERSION_LIMIT_S = 30.0
_NEXT_STEP = (
    "Next: put a Pulumi CLI on PATH (https://www.pulumi.com/docs/install), or let this computer "
    "reach the network and run `dayfly engine install`."
)


class Engine(NamedTuple):
    """A Pulumi CLI that the SDK accepts.

    Attributes:
        path: the `pulumi` executable; its plugins for Python are beside it or on PATH.
        version: without a leading "v".
        origin: "path" and "cache" were found, "installed" and "built" were made by this call.
    """

    path: Path
    version: str
    origin: Origin

    @property
    def bin_dir(self) -> Path:
        """What has to come first on PATH, so that the CLI finds its own plugins."""
        return self.path.parent


class Search(NamedTuple):
    """What looking for an engine gave; `refused` has a sentence for each place without a usable one."""

    engine: Engine | None
    refused: tuple[str, ...]


def home() -> Path:
    """The folder of everything that Dayfly keeps of engines: DAYFLY_ENGINE_HOME, else the user's cache."""
    if chosen := os.environ.get("DAYFLY_ENGINE_HOME"):
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return platformdirs.user_cache_path("dayfly") / "engine"


def cache_folder() -> Path:
    """Where the pinned version is published for this kind of machine; its `bin` holds the CLI."""
    return home() / f"{VERSION}-{sys.platform}-{os.uname().machine}"


def find() -> Engine | None:
    """The first `pulumi` on PATH that the SDK accepts, else the one in Dayfly's cache, else None."""
    return search().engine


def search() -> Search:
    """As `find`, with the reasons against each candidate that was passed over."""
    refused: list[str] = []
    for candidate in _candidates():
        version = _version_of(candidate)
        reason = _objection(candidate, version)
        if not reason:
            return Search(Engine(candidate, version.removeprefix("v"), "path"), tuple(refused))
        refused.append(f"{candidate}: {reason}")
    if not refused:
        refused.append("PATH: no `pulumi` there")
    engine, reason = _cached()
    if reason:
        refused.append(f"{cache_folder()}: {reason}")
    return Search(engine, tuple(refused))


def ensure(progress: Progress, recipes: Sequence[Recipe] | None = None) -> Engine:
    """An engine, whatever it takes: found, else installed by Pulumi's own installer, else built.

    Args:
        progress: called with a line for the user, at least every 15 s while something is made.
        recipes: ways to make an engine, tried in order, instead of the installer and the build.

    Raises:
        EngineMissing: every way failed; the message has each of them with its reason.
    """
    found = search()
    if found.engine:
        return found.engine
    from dayfly.stacks import engine_build, engine_cache

    folder, failures = cache_folder(), list(found.refused)
    try:
        with engine_cache.only_builder(folder.parent, progress):
            # Whoever held the lock before may have made it.
            engine, _ = _cached()
            ways = engine_build.RECIPES if recipes is None else recipes
            engine = engine or _make(folder, ways, progress, failures)
    except OSError as problem:
        failures.append(f"{folder.parent}: {problem}; DAYFLY_ENGINE_HOME names another folder")
        engine = None
    if engine is None:
        tried = "\n".join(f"  - {failure}" for failure in failures)
        raise EngineMissing(
            f"No Pulumi CLI could be found, installed or built. Tried:\n{tried}\n{_NEXT_STEP}"
        )
    return engine


def status() -> Engine | None:
    """What `ensure` would use without making anything."""
    return find()


def as_json(engine: Engine | None) -> dict[str, str | None]:
    """The machine-readable form of `status()`: path, version, origin; all None without an engine."""
    if engine is None:
        return {"path": None, "version": None, "origin": None}
    return {"path": str(engine.path), "version": engine.version, "origin": engine.origin}


def _make(
    folder: Path, recipes: Sequence[Recipe], progress: Progress, failures: list[str]
) -> Engine | None:
    from dayfly.stacks import engine_cache
    from dayfly.stacks.engine_build import RecipeFailed

    for recipe in recipes:
        try:
            with engine_cache.aside(folder.parent) as aside:
                recipe.make(aside, progress)
                version = _checked(aside / "bin")
                engine_cache.publish(aside, folder, version, recipe.origin)
        except (RecipeFailed, OSError) as problem:
            failures.append(f"{recipe.name}: {problem}")
            progress(f"{recipe.name} did not work: {str(problem).splitlines()[0]}")
        else:
            progress(f"Pulumi CLI {version} is ready in {folder}")
            return Engine(folder / "bin" / "pulumi", version, recipe.origin)
    return None


def _checked(bin_dir: Path) -> str:
    from dayfly.stacks.engine_build import RecipeFailed

    version = _ask_version(bin_dir / "pulumi")
    if reason := _objection(bin_dir / "pulumi", version, path=""):
        raise RecipeFailed(f"what it made is of no use: {reason}")
    return version.removeprefix("v")


def _candidates() -> list[Path]:
    # A relative entry would run whatever lies in the current folder.
    folders = [f for f in os.environ.get("PATH", "").split(os.pathsep) if Path(f).is_absolute()]
    own = cache_folder() / "bin"
    found = [Path(f) / "pulumi" for f in dict.fromkeys(folders) if Path(f) != own]
    return [path for path in found if path.is_file() and os.access(path, os.X_OK)]


def _objection(pulumi: Path, version: str, path: str | None = None) -> str:
    """Why this CLI cannot be used, "" when it can; `path` stands in for PATH."""
    numbers = re.fullmatch(r"v?(\d+)\.(\d+)\.(\d+)([-+].*)?", version)
    # The automation API honours the same switch.
    if "PULUMI_AUTOMATION_API_SKIP_VERSION_CHECK" not in os.environ:
        if numbers is None:
            return f"`pulumi version` gave no version: {version}"
        found = tuple(int(number) for number in numbers.groups()[:3])
        minimum = ".".join(map(str, MINIMUM))
        if found[0] != MINIMUM[0]:
            return f"version {version} is of another major version than the SDK's {VERSION}"
        if found < MINIMUM:
            return f"version {version} is older than {minimum}, which Dayfly's teardown needs"
    places = os.environ.get("PATH", "") if path is None else path
    around = os.pathsep.join([str(pulumi.parent), str(pulumi.resolve().parent), places])
    missing = [name for name in COMPANIONS if shutil.which(name, path=around) is None]
    return f"{' and '.join(missing)} not beside it nor on PATH" if missing else ""


def _version_of(pulumi: Path) -> str:
    """The version, remembered by path, time and size, because asking takes 0.1 s and more."""
    memory = home() / "path.json"
    seen = pulumi.stat()
    try:
        known = json.loads(memory.read_text()) if _private(home()) else {}
    except (OSError, ValueError):
        known = {}
    known = known if isinstance(known, dict) else {}
    stamp = [seen.st_mtime_ns, seen.st_size]
    entry = known.get(str(pulumi))
    if isinstance(entry, list) and entry[:2] == stamp and len(entry) == 3:
        return str(entry[2])
    version = _ask_version(pulumi)
    if version[:1].isdigit() or version[:1] == "v":
        from dayfly.stacks import engine_cache

        # Only speed is lost where the cache cannot be written.
        with contextlib.suppress(OSError):
            engine_cache.write(memory, json.dumps({**known, str(pulumi): [*stamp, version]}))
    return version


def _ask_version(pulumi: Path) -> str:
    try:
        done = subprocess.run(
            [pulumi, "version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_VERSION_LIMIT_S,
            env={**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "true"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        return str(problem)
    return done.stdout.strip() or f"exit code {done.returncode}, {done.stderr.strip()[-200:]!r}"


def _cached() -> tuple[Engine | None, str]:
    folder = cache_folder()
    try:
        marker = json.loads((folder / "engine.json").read_text())
        version = str(marker["version"])
    except FileNotFoundError:
        return None, "nothing there yet"
    except (OSError, ValueError, KeyError, TypeError) as problem:
        return None, f"its engine.json cannot be read ({problem})"
    pulumi = folder / "bin" / "pulumi"
    if not (_private(folder.parent) and _private(folder)):
        return None, "it belongs to another user, or others may write to it"
    if not os.access(pulumi, os.X_OK):
        return None, f"{pulumi.name} is gone from its bin"
    return Engine(pulumi, version, "cache"), ""


def _private(folder: Path) -> bool:
    """Whether only this user (or root) can have put what is in there."""
    seen = folder.stat()
    return seen.st_uid in (os.getuid(), 0) and not seen.st_mode & 0o022


def main(arguments: Sequence[str]) -> int:
    """`python -m dayfly.stacks.engine install|status [--json]`, for scripts without the CLI."""
    if arguments[:1] == ["install"]:
        try:
            engine: Engine | None = ensure(lambda line: print(line, flush=True))
        except EngineMissing as problem:
            print(problem, file=sys.stderr)
            return problem.exit_code
    elif arguments[:1] == ["status"]:
        engine = status()
    else:
        print(main.__doc__, file=sys.stderr)
        return 2
    if "--json" in arguments:
        print(json.dumps(as_json(engine)))
    else:
        print(f"{engine.path} {engine.version} ({engine.origin})" if engine else "no Pulumi CLI")
    return 0 if engine else EngineMissing.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
