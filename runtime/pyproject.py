"""pyproject.toml: what a project depends on, with the extras and groups that are asked for, and which Python it supports."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from dayfly.errors import SpecError
from dayfly.infra.units import suggestion
from dayfly.runtime import toml_file
from dayfly.runtime.requirements import Reader, Requirements, checked_name
from dayfly.runtime.wheels import WheelBuilder

_PYTHON = ".".join(map(str, sys.version_info[:3]))


def requirements_of(path: Path, builder: WheelBuilder, extras: Sequence[str]) -> Requirements:
    """From `[project] dependencies`; sources of `[tool.uv.sources]` that are paths or repositories are followed.

    Args:
        path: the pyproject.toml.
        builder: builds what is local.
        extras: names of optional dependencies or of dependency groups.

    Raises:
        SpecError: it has no such list, or no such extra.
    """
    content = toml_file.read(path)
    project = content.get("project", {})
    if "dependencies" in project.get("dynamic", ()) or "project" not in content:
        raise SpecError(
            f"{str(path)!r} has no [project] dependencies that can be read: give a requirements or lock file"
        )
    sources = content.get("tool", {}).get("uv", {}).get("sources", {})
    by_name: dict[str, object] = {
        canonicalize_name(name): source for name, source in sources.items()
    }
    reader = Reader(builder, path.name)
    wanted = [*project.get("dependencies", ())]
    for extra in extras:
        wanted += _of_extra(content, extra, path, ())
    for text in dict.fromkeys(wanted):
        name = checked_name(text, path.name)
        reader.add(_from_source(text, name, by_name.get(name)), path.parent)
    return reader.result()


def split_extras(path: Path, extras: Sequence[str]) -> tuple[list[str], list[str]]:
    """Which of these names are extras of the project, and which are dependency groups.

    Raises:
        SpecError: one is neither.
    """
    content = toml_file.read(path)
    found: tuple[list[str], list[str]] = ([], [])
    for extra in extras:
        _of_extra(content, extra, path, ())
        found[extra not in _by_name(_optional(content))].append(extra)
    return found


def _optional(content: Mapping[str, Any]) -> Mapping[str, Any]:
    listed: Mapping[str, Any] = content.get("project", {}).get("optional-dependencies", {})
    return listed


def _by_name(listed: Mapping[str, Any]) -> dict[str, Any]:
    return {canonicalize_name(name): value for name, value in listed.items()}


def _of_extra(
    content: Mapping[str, Any], extra: str, path: Path, above: tuple[str, ...]
) -> list[str]:
    """The requirements of one extra or group, with those that it includes."""
    name = canonicalize_name(extra)
    optional, groups = _by_name(_optional(content)), _by_name(content.get("dependency-groups", {}))
    if name not in optional and name not in groups:
        known = sorted({*optional, *groups})
        raise SpecError(
            f"{str(path)!r} has no extra or dependency group {extra!r}; "
            + (suggestion(extra, known) if known else "it has none at all")
        )
    if name in above:
        raise SpecError(f"{str(path)!r}: the extra or group {extra!r} includes itself")
    return [
        text
        for entry in optional.get(name, groups.get(name, ()))
        for text in _entries(content, entry, path, (*above, name))
    ]


def _entries(
    content: Mapping[str, Any], entry: Any, path: Path, above: tuple[str, ...]
) -> Iterator[str]:
    if isinstance(entry, Mapping):
        yield from _of_extra(content, str(entry.get("include-group")), path, above)
        return
    own = canonicalize_name(content.get("project", {}).get("name", ""))
    if checked_name(entry, path.name) != own:
        yield entry
        return
    # `all = ["this-project[train,plot]"]`
    for extra in sorted(Requirement(entry).extras):
        yield from _of_extra(content, extra, path, above)


def _from_source(text: str, name: str, source: object) -> str:
    """A dependency as its `[tool.uv.sources]` entry wants it."""
    if not isinstance(source, Mapping):
        return text
    extras = Requirement(text).extras
    full = f"{name}[{','.join(sorted(extras))}]" if extras else name
    if "path" in source:
        return f"{full} @ {source['path']}"
    if "git" in source:
        revision = source.get("rev") or source.get("tag") or source.get("branch")
        return f"{full} @ git+{source['git']}" + (f"@{revision}" if revision else "")
    if "url" in source:
        return f"{full} @ {source['url']}"
    if source.get("workspace"):
        raise SpecError(
            f"{text!r} is a member of a uv workspace: run `uv lock`, its lock file is read"
        )
    if "index" in source:
        raise SpecError(
            f"{text!r} comes from the index {source['index']!r} alone: run `uv lock`, its lock file is read"
        )
    return text


def has_dependencies(path: Path) -> bool:
    """True where a pyproject.toml lists dependencies that can be read."""
    project = toml_file.read(path).get("project", {})
    return bool(project.get("dependencies")) and "dependencies" not in project.get("dynamic", ())


def is_dayflys_own(root: Path) -> bool:
    """True in a checkout of Dayfly, whose dependencies are for this computer and not for its examples."""
    return bool(toml_file.read(root / "pyproject.toml").get("project", {}).get("name") == "dayfly")


def check_python(folder: Path) -> None:
    """Refuse a project that does not support this Python.

    Raises:
        SpecError: `requires-python` of its pyproject.toml excludes this version.
    """
    path = folder / "pyproject.toml"
    check_range(toml_file.read(path).get("project", {}).get("requires-python"), path)


def check_range(wanted: object, path: Path) -> None:
    """Refuse a range of Pythons that this one is not in.

    Raises:
        SpecError: it is not, or it is no range.
    """
    if not isinstance(wanted, str):
        return
    try:
        fits = SpecifierSet(wanted).contains(_PYTHON, prereleases=True)
    except InvalidSpecifier as exc:
        raise SpecError(f"{str(path)!r} has a malformed requires-python {wanted!r}") from exc
    if not fits:
        raise SpecError(
            f"{str(path)!r} requires Python {wanted}, and this is {_PYTHON}: the machine runs the same minor version "
            "as this program, so start it with a Python that the project supports"
        )
