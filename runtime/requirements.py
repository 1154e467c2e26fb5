"""Requirements: reads lists, requirements files, lock files and pyproject files into lines for uv and local wheels."""

from __future__ import annotations

import re
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from dayfly.errors import SpecError
from dayfly.runtime.wheels import WheelBuilder, run_uv

_PYTHON = ".".join(map(str, sys.version_info[:3]))
_VCS = ("git+", "hg+", "svn+", "bzr+")
_INCLUDE = re.compile(r"(?:-r\s*|--requirement[\s=]+)(\S.*)")
_CONSTRAINT = re.compile(r"(?:-c\s*|--constraint[\s=]+)(\S.*)")
_EDITABLE = re.compile(r"(?:-e\s*|--editable[\s=]+)(\S.*)")
_FOLDER_OPTION = re.compile(r"(-f|--find-links)[\s=]+(\S.*)")
_EXTRAS = re.compile(r"^(.*?)(\[[\w\s,.-]+\])?$")


@dataclass(frozen=True)
class Requirements:
    """Lines of a requirements file, wheels beside it, and where they come from."""

    lines: tuple[str, ...]
    wheels: tuple[Path, ...]
    source: str


class _Reader:
    """Collects lines; what is local becomes a wheel, relative to the folder that names it."""

    def __init__(self, builder: WheelBuilder, source: str) -> None:
        self._builder, self._source = builder, source
        self._open: list[Path] = []
        self.lines: list[str] = []
        self.wheels: list[Path] = []
        self.constraints: list[Path] = []

    def result(self) -> Requirements:
        return Requirements(tuple(self.lines), tuple(self.wheels), self._source)

    def read(self, path: Path) -> None:
        path = path.resolve()
        if path in self._open:
            return
        if not path.is_file():
            raise SpecError(f"{self._source} names {str(path)!r}, which does not exist")
        self._open.append(path)
        try:
            text = path.read_text("utf-8-sig")
        except (UnicodeDecodeError, OSError) as exc:
            raise SpecError(f"{str(path)!r} cannot be read: {exc}") from exc
        for line in _logical_lines(text):
            self.add(line, path.parent)

    def add(self, line: str, folder: Path) -> None:
        if match := _INCLUDE.fullmatch(line):
            self.read(folder / match[1])
        elif match := _CONSTRAINT.fullmatch(line):
            self.constraints.append(folder / match[1])
        elif match := _EDITABLE.fullmatch(line):
            self._add_requirement(match[1], folder)
        elif match := _FOLDER_OPTION.fullmatch(line):
            place = match[2] if "://" in match[2] else str((folder / match[2]).resolve())
            self.lines.append(f"--find-links {place}")
        elif line.startswith("-"):
            self.lines.append(line)
        else:
            self._add_requirement(line, folder)

    def _add_requirement(self, text: str, folder: Path) -> None:
        if text.startswith(_VCS) or re.match(r"https?://", text):
            self.lines.append(text)
        elif (place := _local_place(text, folder)) is not None:
            self._add_local(*place)
        elif _checked(text, self._source) != "dayfly":
            self.lines.append(text)
        # Dayfly itself is not wanted on the machine: nothing of it runs there but the agent.

    def _add_local(self, path: Path, extras: str, marker: str) -> None:
        if not path.exists():
            raise SpecError(f"{self._source} names {str(path)!r}, which does not exist")
        if marker and not Requirement(f"x; {marker}").marker.evaluate():  # type: ignore[union-attr]
            return
        wheel = self._builder.build(path)
        self.wheels.append(wheel)
        if extras:
            self.lines.append(f"./{wheel.name}{extras}")


def of_list(given: Sequence[str], folder: Path, builder: WheelBuilder) -> Requirements:
    """From a list as given to `environment=`; options are not allowed, they belong in a file."""
    reader = _Reader(builder, "environment=")
    for item in given:
        if not isinstance(item, str):
            raise SpecError(f"environment= holds {item!r}; a list of requirement strings is wanted")
        text = item.strip()
        if text.startswith("-") and not _EDITABLE.fullmatch(text):
            raise SpecError(f"environment= holds the option {text!r}: put options into a file")
        if text:
            reader.add(text, folder)
    return reader.result()


def of_text_file(path: Path, builder: WheelBuilder) -> Requirements:
    """From a requirements file with its includes, constraints and hashes."""
    reader = _Reader(builder, path.name)
    reader.read(path)
    if reader.constraints:
        return _constrained(reader, path)
    return reader.result()


def of_pyproject(path: Path, builder: WheelBuilder) -> Requirements:
    """From `[project] dependencies`; sources of `[tool.uv.sources]` that are paths or repositories are followed."""
    content = _toml(path)
    project = content.get("project", {})
    if "dependencies" in project.get("dynamic", ()) or "project" not in content:
        raise SpecError(
            f"{str(path)!r} has no [project] dependencies that can be read: give a requirements or lock file"
        )
    sources = content.get("tool", {}).get("uv", {}).get("sources", {})
    by_name: dict[str, object] = {
        canonicalize_name(name): source for name, source in sources.items()
    }
    reader = _Reader(builder, path.name)
    for text in project.get("dependencies", ()):
        name = _checked(text, path.name)
        reader.add(_from_source(text, name, by_name.get(name)), path.parent)
    return reader.result()


def of_uv_lock(path: Path, builder: WheelBuilder) -> Requirements:
    """From uv's lock file, exactly as locked, without development groups."""
    if not (path.parent / "pyproject.toml").is_file():
        raise SpecError(f"{str(path)!r} has no pyproject.toml beside it, which uv needs to read it")
    options = ["--frozen", "--no-dev", "--no-emit-project", "--no-header", "--no-annotate"]
    options += ["--no-hashes", "--prune", "dayfly", "--project", str(path.parent), "--quiet"]
    options += ["--python", sys.executable, "--no-python-downloads"]
    text = run_uv(["export", *options], f"uv cannot read {str(path)!r}")
    reader = _Reader(builder, path.name)
    for line in _logical_lines(text):
        reader.add(line, path.parent)
    return reader.result()


def of_pylock(path: Path, builder: WheelBuilder) -> Requirements:
    """From a lock file of the standard format (PEP 751)."""
    content = _toml(path)
    _check_range(content.get("requires-python"), path)
    reader = _Reader(builder, path.name)
    for package in content.get("packages", ()):
        reader.add(_locked(package), path.parent)
    return reader.result()


def has_dependencies(path: Path) -> bool:
    """True where a pyproject.toml lists dependencies that can be read."""
    project = _toml(path).get("project", {})
    return bool(project.get("dependencies")) and "dependencies" not in project.get("dynamic", ())


def is_dayflys_own(root: Path) -> bool:
    """True in a checkout of Dayfly, whose dependencies are for this computer and not for its examples."""
    path = root / "pyproject.toml"
    return path.is_file() and _toml(path).get("project", {}).get("name") == "dayfly"


def check_python(folder: Path) -> None:
    """Refuse a project that does not support this Python.

    Raises:
        SpecError: `requires-python` of its pyproject.toml excludes this version.
    """
    path = folder / "pyproject.toml"
    if path.is_file():
        _check_range(_toml(path).get("project", {}).get("requires-python"), path)


def _check_range(wanted: object, path: Path) -> None:
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


def _constrained(reader: _Reader, path: Path) -> Requirements:
    """Resolve on this computer: constraints hold for packages that no line names, and have no place in one file."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "wanted.in"
        wheels = [str(wheel) for wheel in reader.wheels]
        wanted.write_text("".join(f"{line}\n" for line in [*reader.lines, *wheels]))
        arguments = ["pip", "compile", "--universal", "--no-header", "--no-annotate", "--quiet"]
        arguments += ["--python", sys.executable, str(wanted)]
        for constraint in reader.constraints:
            if not constraint.is_file():
                raise SpecError(f"{path.name} names {str(constraint)!r}, which does not exist")
            arguments += ["--constraint", str(constraint)]
        text = run_uv(arguments, f"the constraints of {str(path)!r} cannot be met")
    names = {wheel.name for wheel in reader.wheels}
    options = [line for line in reader.lines if line.startswith("-")]
    pinned = [line for line in _logical_lines(text) if Path(line).name not in names]
    pinned = [line for line in pinned if line not in options and not line.startswith("-")]
    return Requirements((*options, *pinned), tuple(reader.wheels), path.name)


def _logical_lines(text: str) -> Iterator[str]:
    """Lines joined at backslashes, without comments."""
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        clear = re.sub(r"(^|\s+)#.*$", "", line).strip()
        if clear:
            yield re.sub(r"\s{2,}", " ", clear)


def _checked(text: str, source: str) -> str:
    """The canonical name of a requirement.

    Raises:
        SpecError: it is malformed.
    """
    bare = re.split(r"\s--(?:hash|config-settings?)[=\s]", text, maxsplit=1)[0]
    try:
        return canonicalize_name(Requirement(bare).name)
    except InvalidRequirement as exc:
        reason = str(exc).splitlines()[0]
        raise SpecError(f"{source} holds the malformed requirement {text!r}: {reason}") from exc


def _local_place(text: str, folder: Path) -> tuple[Path, str, str] | None:
    """Path, extras and marker of a requirement that is a file or folder of this computer."""
    place, _, marker = (part.strip() for part in text.partition(" ;" if " ;" in text else "; "))
    extras = ""
    if named := re.fullmatch(r"[\w.-]+\s*(\[[^]]*\])?\s*@\s*(\S+)", place):
        extras, place = named[1] or "", named[2]
        if "://" in place and not place.startswith("file:"):
            return None
    elif match := _EXTRAS.fullmatch(place):
        place, extras = match[1], match[2] or ""
    if place.startswith("file:"):
        return Path(unquote(urlparse(place).path)), extras, marker
    if place.startswith((".", "/", "~")) or place.endswith((".whl", ".tar.gz")) or named:
        return (folder / Path(place).expanduser()).resolve(), extras, marker
    if "/" in place and (folder / place).exists():
        return (folder / place).resolve(), extras, marker
    return None


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
    return text


def _locked(package: Mapping[str, Any]) -> str:
    name = package["name"]
    if "directory" in package:
        line = f"{name} @ {package['directory']['path']}"
    elif "vcs" in package:
        vcs = package["vcs"]
        line = f"{name} @ {vcs['type']}+{vcs.get('url') or vcs['path']}@{vcs['commit-id']}"
    elif "archive" in package:
        archive = package["archive"]
        line = f"{name} @ {archive.get('url') or archive['path']}"
    else:
        line = f"{name}=={package['version']}"
    return f"{line} ; {package['marker']}" if package.get("marker") else line


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as exc:
        raise SpecError(f"{str(path)!r} cannot be read: {exc}") from exc
