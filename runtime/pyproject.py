"""pyproject.toml: what a project depends on, with the extras and groups that are asked for, and which Python it supports."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from dayfly.errors import SpecError
from dayfly.infra.units import suggestion
from dayfly.runtime import toml_file
from dayfly.runtime.requirements import (
    Reader,
    Requirements,
    applies,
    applies_on_linux,
    checked_name,
    with_subdirectory,
)
from dayfly.runtime.wheels import WheelBuilder

_PYTHON = ".".join(map(str, sys.version_info[:3]))
# What uv itself heeds when it locks, and what no requirements file can say.
_LOCKED_ONLY = ("override-dependencies", "exclude-dependencies")


@dataclass(frozen=True)
class _Wanted:
    """A dependency, and the extra or group that lists it: a source may be for one of these alone."""

    text: str
    extra: str = ""
    group: str = ""


def requirements_of(path: Path, builder: WheelBuilder, extras: Sequence[str]) -> Requirements:
    """From `[project] dependencies`; sources of `[tool.uv.sources]` that are paths or repositories are followed, and
    uv's constraints hold.

    Args:
        path: the pyproject.toml.
        builder: builds what is local.
        extras: names of optional dependencies or of dependency groups.

    Raises:
        SpecError: it has no such list, no such extra, or what only a lock file can say.
    """
    content = toml_file.read(path)
    project = content.get("project", {})
    if "dependencies" in project.get("dynamic", ()) or "project" not in content:
        raise SpecError(
            f"{str(path)!r} has no [project] dependencies that can be read: give a requirements or lock file"
        )
    settings = content.get("tool", {}).get("uv", {})
    for key in _LOCKED_ONLY:
        if settings.get(key):
            raise SpecError(
                f"{str(path)!r} has [tool.uv] {key} {settings[key]!r}: run `uv lock`, its lock file is read"
            )
    by_name = _by_name(settings.get("sources", {}))
    reader = Reader(builder, path.name)
    wanted = [_Wanted(text) for text in project.get("dependencies", ())]
    for extra in extras:
        wanted += _of_extra(content, extra, path, ())
    named = ((one, checked_name(one.text, path.name)) for one in wanted)
    found = (_from_source(one, name, by_name.get(name)) for one, name in named)
    for text in dict.fromkeys(found):
        reader.add(text, path.parent)
    for text in settings.get("constraint-dependencies", ()):
        reader.limit(text, path.name)
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
) -> list[_Wanted]:
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
        wanted
        for entry in optional.get(name, groups.get(name, ()))
        for wanted in _entries(content, entry, path, (*above, name), is_extra=name in optional)
    ]


def _entries(
    content: Mapping[str, Any], entry: Any, path: Path, above: tuple[str, ...], *, is_extra: bool
) -> Iterator[_Wanted]:
    if isinstance(entry, Mapping):
        yield from _of_extra(content, str(entry.get("include-group")), path, above)
        return
    own = canonicalize_name(content.get("project", {}).get("name", ""))
    if checked_name(entry, path.name) != own:
        yield _Wanted(entry, extra=above[-1]) if is_extra else _Wanted(entry, group=above[-1])
        return
    # `all = ["this-project[train,plot]"]`
    for extra in sorted(Requirement(entry).extras):
        yield from _of_extra(content, extra, path, above)


def _from_source(wanted: _Wanted, name: str, sources: object) -> str:
    """A dependency as its `[tool.uv.sources]` entry wants it, or the first of several that is for it."""
    text, parsed = wanted.text, Requirement(wanted.text)
    entries = sources if isinstance(sources, list) else [sources]
    tables = [entry for entry in entries if isinstance(entry, Mapping)]
    source = next((entry for entry in tables if _is_for(wanted, entry)), None)
    if source is None or (parsed.marker and not applies(str(parsed.marker))):
        return text
    full = f"{name}[{','.join(sorted(parsed.extras))}]" if parsed.extras else name
    marker = f" ; {parsed.marker}" if parsed.marker else ""
    if "path" in source:
        return f"{full} @ {source['path']}{marker}"
    if "git" in source or "url" in source:
        return f"{full} @ {_address(source)}{marker}"
    if source.get("workspace"):
        raise SpecError(
            f"{text!r} is a member of a uv workspace: run `uv lock`, its lock file is read"
        )
    if "index" in source:
        raise SpecError(
            f"{text!r} comes from the index {source['index']!r} alone: run `uv lock`, its lock file is read"
        )
    return text


def _is_for(wanted: _Wanted, source: Mapping[str, Any]) -> bool:
    for key, own in (("extra", wanted.extra), ("group", wanted.group)):
        if key in source and canonicalize_name(str(source[key])) != own:
            return False
    return "marker" not in source or applies_on_linux(str(source["marker"]))


def _address(source: Mapping[str, Any]) -> str:
    url = str(source.get("url") or f"git+{source['git']}")
    revision = source.get("rev") or source.get("tag") or source.get("branch")
    return with_subdirectory(f"{url}@{revision}" if revision else url, source.get("subdirectory"))


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
