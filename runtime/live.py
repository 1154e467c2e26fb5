"""The live environment: what is installed beside this interpreter, as pins and as wheels of local projects."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from dayfly.errors import SpecError
from dayfly.runtime.requirements import Requirements, with_subdirectory
from dayfly.runtime.wheels import WheelBuilder, is_project

# What every environment has, or what is here for this computer's sake.
_TOOLS = frozenset({"dayfly", "pip", "setuptools", "uv", "wheel"})


@dataclass(frozen=True)
class Installed:
    """One installed distribution, as its metadata says."""

    name: str
    version: str
    requires: tuple[str, ...]
    folder: Path

    def origin(self) -> dict[str, Any]:
        """Where it was installed from when not from an index (PEP 610)."""
        try:
            content = json.loads((self.folder / "direct_url.json").read_text())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def installer(self) -> str:
        """What installed it ("pip", "uv", "conda"), "" where that is not noted."""
        try:
            return (self.folder / "INSTALLER").read_text().strip()
        except (OSError, ValueError):
            return ""


def read(project_root: Path, imports: Sequence[str], builder: WheelBuilder) -> Requirements:
    """Pin what is installed here, leaving out Dayfly, the tools, and what only they need.

    Args:
        project_root: the project whose code travels with the function: it is not built, its requirements count.
        imports: top-level modules; the distributions that provide them are included whoever else needs them.
        builder: builds the editable and local ones.
    """
    installed = installed_distributions(sys.path)
    chosen = [name for name in roots(installed) if name not in _TOOLS]
    chosen += [name for name in _providers(imports, installed) if name not in chosen]
    lines: list[str] = []
    wheels: list[Path] = []
    for name in sorted(needed(chosen, installed) - {"dayfly"}):
        _add(installed[name], project_root, builder, lines, wheels)
    return Requirements(tuple(lines), tuple(wheels), "live")


def installed_distributions(path: Iterable[str]) -> dict[str, Installed]:
    """Every distribution on a search path by canonical name, the first of a name winning, as for imports."""
    found: dict[str, Installed] = {}
    for entry in dict.fromkeys(path):
        folder = Path(entry or ".")
        if not folder.is_dir() or _belongs_to_the_system(folder):
            continue
        for info in sorted((*folder.glob("*.dist-info"), *folder.glob("*.egg-info"))):
            made = _read_metadata(info)
            if made is not None:
                found.setdefault(canonicalize_name(made.name), made)
    return found


def roots(installed: Mapping[str, Installed]) -> list[str]:
    """The distributions that no other one requires; of a circle nobody requires, one."""
    edges = {name: {n for n, _ in _requirements(made, set())} for name, made in installed.items()}
    required = {other for name, others in edges.items() for other in others if other != name}
    chosen = sorted(set(installed) - required)
    reached = needed(chosen, installed)
    for name in sorted(installed):
        if name not in reached:
            chosen.append(name)
            reached |= needed([name], installed)
    return chosen


def needed(names: Iterable[str], installed: Mapping[str, Installed]) -> set[str]:
    """The distributions and all that they require, markers and extras considered."""
    done: dict[str, set[str]] = {}
    todo: list[tuple[str, set[str]]] = [(name, set()) for name in names]
    while todo:
        name, extras = todo.pop()
        if name not in installed or (name in done and extras <= done[name]):
            continue
        done[name] = done.get(name, set()) | extras
        todo += _requirements(installed[name], done[name])
    return set(done)


def _requirements(made: Installed, extras: set[str]) -> list[tuple[str, set[str]]]:
    """Names and extras of what one distribution requires here."""
    found: list[tuple[str, set[str]]] = []
    for text in made.requires:
        if not extras and "extra ==" in text.replace("'", '"').replace("extra==", "extra =="):
            continue  # Most lines of most metadata; parsing them is what would take the time.
        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            continue
        if wanted.marker is None or any(
            wanted.marker.evaluate({**_ENVIRONMENT, "extra": extra}) for extra in extras or {""}
        ):
            found.append((canonicalize_name(wanted.name), set(wanted.extras)))
    return found


_ENVIRONMENT: dict[str, Any] = dict(default_environment())


def _providers(imports: Sequence[str], installed: Mapping[str, Installed]) -> list[str]:
    named = {name: canonicalize_name(name) for name in imports}
    found = [canonical for canonical in named.values() if canonical in installed]
    others = [name for name, canonical in named.items() if canonical not in installed]
    if others:
        from importlib.metadata import packages_distributions

        owners = packages_distributions()
        found += [canonicalize_name(owner) for name in others for owner in owners.get(name, ())[:1]]
    return [name for name in found if name in installed]


def _add(
    made: Installed, root: Path, builder: WheelBuilder, lines: list[str], wheels: list[Path]
) -> None:
    origin = made.origin()
    url = str(origin.get("url", ""))
    local = Path(unquote(urlparse(url).path)) if url.startswith("file:") else None
    if local is not None and "dir_info" in origin:
        # The user's own project travels with the function: a wheel of it would be older, and new at every edit.
        if local.resolve() == root.resolve():
            return
        if is_project(local):
            wheels.append(builder.build(local))
        else:
            _check_gone(made, local, builder)
            lines.append(_pinned(made))
    elif local is not None and local.suffix == ".whl" and local.is_file():
        wheels.append(local)
    elif "vcs_info" in origin:
        vcs = origin["vcs_info"]
        address = f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
        lines.append(f"{made.name} @ {with_subdirectory(address, origin.get('subdirectory'))}")
    elif "archive_info" in origin and local is None:
        lines.append(f"{made.name} @ {with_subdirectory(url, origin.get('subdirectory'))}")
    else:
        lines.append(_pinned(made))


def _pinned(made: Installed) -> str:
    # "2.4.0+cu121" exists on its maker's index only; "==2.4.0" accepts it and what suits the machine.
    return f"{made.name}=={made.version.partition('+')[0]}"


def _check_gone(made: Installed, folder: Path, builder: WheelBuilder) -> None:
    """What was installed from a folder that is gone can only come from an index.

    Raises:
        SpecError: it is editable, so that nothing of it is here at all.
    """
    if made.origin()["dir_info"].get("editable"):
        raise SpecError(
            f"{made.name} {made.version} is installed here as editable from {str(folder)!r}, where there is no project any"
            f" more: `uv pip uninstall {made.name}`, or install it again from where it is now"
        )
    # Conda notes the folder of its own build machine for every package that an index has as well.
    if made.installer() != "conda":
        builder.warnings.append(
            f"{made.name} was installed here from {str(folder)!r}, where there is no project any more: {_pinned(made)} is taken"
            " from an index; if none has it, install it again from where it is now"
        )


def _read_metadata(info: Path) -> Installed | None:
    """Only the head, line by line: the parser for e-mail takes a hundred times as long."""
    path = info / "METADATA" if info.suffix == ".dist-info" else info / "PKG-INFO"
    name = version = ""
    requires: list[str] = []
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                key, colon, value = line.partition(": ")
                if not line.strip():
                    break
                if not colon:
                    continue
                if key == "Requires-Dist":
                    requires.append(value.strip())
                elif key == "Name":
                    name = value.strip()
                elif key == "Version":
                    version = value.strip()
    except OSError:
        return None
    return Installed(name, version, tuple(requires), info) if name and version else None


def _belongs_to_the_system(folder: Path) -> bool:
    """Debian's own packages: not the user's choice, and some exist on no index."""
    return folder.name == "dist-packages" and "local" not in folder.parts
