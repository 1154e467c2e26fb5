"""Requirements: reads lists and requirements files into lines for uv and wheels of what is local."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from dayfly.errors import SpecError
from dayfly.runtime.redact import redact
from dayfly.runtime.wheels import WheelBuilder

_VCS = ("git+", "hg+", "svn+", "bzr+")
_INCLUDE = re.compile(r"(?:-r\s*|--requirement[\s=]+)(\S.*)")
_CONSTRAINT = re.compile(r"(?:-c\s*|--constraint[\s=]+)(\S.*)")
_EDITABLE = re.compile(r"(?:-e\s*|--editable[\s=]+)(\S.*)")
_FOLDER_OPTION = re.compile(r"(-f|--find-links)[\s=]+(\S.*)")
_EXTRAS = re.compile(r"^(.*?)(\[[\w\s,.-]+\])?$")


@dataclass(frozen=True)
class Requirements:
    """Lines of a requirements file, wheels beside it, and where they come from.

    Attributes:
        lines: as uv reads them.
        wheels: of what is local.
        source: for the plan.
        any_index: each package is pinned, and may come from whichever of the indexes has that version of it.
        constraints: lines of a constraints file.
    """

    lines: tuple[str, ...]
    wheels: tuple[Path, ...]
    source: str
    any_index: bool = False
    constraints: tuple[str, ...] = ()


class Reader:
    """Collects lines; what is local becomes a wheel, relative to the folder that names it."""

    def __init__(self, builder: WheelBuilder, source: str) -> None:
        self._builder, self._source = builder, source
        self._open: list[Path] = []
        self.lines: list[str] = []
        self.wheels: list[Path] = []
        self._constraints: list[str] = []

    def result(self) -> Requirements:
        return Requirements(
            tuple(self.lines),
            tuple(self.wheels),
            self._source,
            constraints=tuple(dict.fromkeys(self._constraints)),
        )

    def read(self, path: Path) -> None:
        for line in self._lines_of(path):
            self.add(line, path.parent)

    def _lines_of(self, path: Path) -> list[str]:
        """Those of a file that was not read before."""
        path = path.resolve()
        if path in self._open:
            return []
        if not path.is_file():
            raise SpecError(f"{self._source} names {str(path)!r}, which does not exist")
        self._open.append(path)
        try:
            return list(logical_lines(path.read_text("utf-8-sig")))
        except (UnicodeDecodeError, OSError) as exc:
            raise SpecError(f"{str(path)!r} cannot be read: {exc}") from exc

    def _constrain(self, path: Path) -> None:
        """Takes note of versions that hold for what is needed, also where no line names it."""
        for line in self._lines_of(path):
            if match := _INCLUDE.fullmatch(line) or _CONSTRAINT.fullmatch(line):
                self._constrain(path.parent / match[1])
            elif line.startswith("-"):
                raise SpecError(f"{str(path)!r} holds the option {line!r}, which limits nothing")
            else:
                checked_name(line, path.name)
                self._constraints.append(line)

    def add(self, line: str, folder: Path) -> None:
        if match := _INCLUDE.fullmatch(line):
            self.read(folder / match[1])
        elif match := _CONSTRAINT.fullmatch(line):
            self._constrain(folder / match[1])
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
        elif checked_name(text, self._source) != "dayfly":
            self.lines.append(text)
        # Dayfly itself is not wanted on the machine: nothing of it runs there but the agent.

    def _add_local(self, path: Path, extras: str, marker: str) -> None:
        if not path.exists():
            raise SpecError(f"{self._source} names {str(path)!r}, which does not exist")
        if marker and not _applies(marker):
            return
        wheel = self._builder.build(path)
        self.wheels.append(wheel)
        if extras:
            self.lines.append(f"./{wheel.name}{extras}")


def of_list(given: Sequence[str], folder: Path, builder: WheelBuilder) -> Requirements:
    """From a list as given to `environment=`; options are not allowed, they belong in a file."""
    reader = Reader(builder, "environment=")
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
    reader = Reader(builder, path.name)
    reader.read(path)
    return reader.result()


def _applies(marker: str) -> bool:
    """Whether a marker holds here, or on a machine, which runs Linux whatever this computer does."""
    found = Requirement(f"x; {marker}").marker
    assert found is not None
    linux = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
    return found.evaluate() or found.evaluate(linux)


def logical_lines(text: str) -> Iterator[str]:
    """Lines joined at backslashes, without comments."""
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        clear = re.sub(r"(^|\s+)#.*$", "", line).strip()
        if clear:
            yield re.sub(r"\s{2,}", " ", clear)


def checked_name(text: str, source: str) -> str:
    """The canonical name of a requirement.

    Raises:
        SpecError: it is malformed.
    """
    bare = re.split(r"\s--(?:hash|config-settings?)[=\s]", text, maxsplit=1)[0]
    try:
        return canonicalize_name(Requirement(bare).name)
    except InvalidRequirement as exc:
        reason = str(exc).splitlines()[0]
        raise SpecError(
            f"{source} holds the malformed requirement {redact(text)!r}: {reason}"
        ) from exc


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
