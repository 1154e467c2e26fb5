"""Requirements: reads lists and requirements files into lines for uv and wheels of what is local."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlparse, urlsplit

from packaging.markers import InvalidMarker, Marker
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
_HOST_OPTION = re.compile(r"--trusted-host[\s=]+(\S.*)")
_EXTRAS = re.compile(r"^(.*?)(\[[\w\s,.-]+\])?$")
_LINE_OPTION = re.compile(r"\s--(?:hash|config-settings?)[=\s]")
_HASH = re.compile(r"\s--hash[=\s]\s*(\w+):(\w+)")
_VCS_ADDRESS = re.compile(r"(?:^|@\s*)((?:git|hg|svn|bzr)\+\S+)")
_ALGORITHMS = ("sha256", "sha512", "sha384", "blake2b", "md5")
# Also a shortened one.
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_LINUX = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}


@dataclass(frozen=True)
class Requirements:
    """Lines of a requirements file, wheels beside it, and where they come from.

    Attributes:
        lines: as uv reads them.
        wheels: of what is local.
        source: for the plan.
        any_index: each package is pinned, and may come from whichever of the indexes has that version of it.
        constraints: lines of a constraints file.
        variables: settings of uv in the place of options that it heeds on its command line alone.
        folders: those of `--find-links` that are on this computer, as they are written.
    """

    lines: tuple[str, ...]
    wheels: tuple[Path, ...]
    source: str
    any_index: bool = False
    constraints: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()


class Reader:
    """Collects lines; what is local becomes a wheel, relative to the folder that names it."""

    def __init__(self, builder: WheelBuilder, source: str) -> None:
        self._builder, self._source = builder, source
        self._open: list[Path] = []
        self.lines: list[str] = []
        self.wheels: list[Path] = []
        self._constraints: list[str] = []
        self._variables: dict[str, str] = {}
        self._folders: list[str] = []

    def result(self) -> Requirements:
        return Requirements(
            tuple(self.lines),
            tuple(self.wheels),
            self._source,
            constraints=tuple(dict.fromkeys(self._constraints)),
            variables=self._variables,
            folders=tuple(dict.fromkeys(self._folders)),
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

    def _file(self, named: str, folder: Path) -> Path:
        if named.startswith("file:"):
            return Path(unquote(urlparse(named).path))
        if "://" in named:
            raise SpecError(
                f"{self._source} includes {redact(named)!r}: what is on the web is not read, as it may be another when the"
                " machine is paid for; download it and name the file in its place"
            )
        return folder / named

    def _constrain(self, path: Path) -> None:
        """Takes note of versions that hold for what is needed, also where no line names it."""
        for line in self._lines_of(path):
            if match := _INCLUDE.fullmatch(line) or _CONSTRAINT.fullmatch(line):
                self._constrain(self._file(match[1], path.parent))
            elif line.startswith("-"):
                raise SpecError(f"{str(path)!r} holds the option {line!r}, which limits nothing")
            else:
                self.limit(line, path.name)

    def limit(self, line: str, source: str) -> None:
        """Takes a line of a constraints file."""
        checked_name(line, source)
        self._constraints.append(line)

    def add(self, line: str, folder: Path) -> None:
        if match := _INCLUDE.fullmatch(line):
            self.read(self._file(match[1], folder))
        elif match := _CONSTRAINT.fullmatch(line):
            self._constrain(self._file(match[1], folder))
        elif match := _EDITABLE.fullmatch(line):
            self._add_requirement(match[1], folder)
        elif match := _FOLDER_OPTION.fullmatch(line):
            self._add_folder(match[2], folder)
        elif match := _HOST_OPTION.fullmatch(line):
            hosts = self._variables.get("UV_INSECURE_HOST", "").split()
            self._variables["UV_INSECURE_HOST"] = " ".join(dict.fromkeys([*hosts, match[1]]))
        elif line == "--pre":
            self._variables["UV_PRERELEASE"] = "allow"
        elif line.startswith("-"):
            self.lines.append(line)
        else:
            self._add_requirement(line, folder)

    def _add_folder(self, named: str, folder: Path) -> None:
        """One of `--find-links`: what is written from the root and is not here may well be on the machine."""
        if named.startswith(("http://", "https://")):
            self.lines.append(f"--find-links {named}")
            return
        place = self._file(named, folder) if "://" in named else folder / Path(named).expanduser()
        here = not named.startswith(("/", "file:")) or place.exists()
        self._folders += [named] if here else []
        self.lines.append(f"--find-links {place.resolve() if here else place}")

    def _add_requirement(self, text: str, folder: Path) -> None:
        if text.startswith(_VCS) or re.match(r"https?://", text):
            self.lines.append(text)
        elif (place := _local_place(text, folder)) is not None:
            self._add_local(*place, _HASH.findall(text))
        elif checked_name(text, self._source) != "dayfly":
            self.lines.append(text)
        # Dayfly itself is not wanted on the machine: nothing of it runs there but the agent.

    def _add_local(
        self, path: Path, extras: str, marker: str, hashes: Sequence[tuple[str, str]]
    ) -> None:
        if not path.exists():
            raise SpecError(f"{self._source} names {str(path)!r}, which does not exist")
        if marker and not applies(marker):
            return
        if hashes:
            self._check_hash(path, hashes)
        wheel = self._builder.build(path)
        self.wheels.append(wheel)
        if extras:
            self.lines.append(f"./{wheel.name}{extras}")

    def _check_hash(self, path: Path, hashes: Sequence[tuple[str, str]]) -> None:
        """The machine's uv cannot: what it gets of a source archive is the wheel of it."""
        content = path.read_bytes() if path.is_file() else b""
        known = [(name, value) for name, value in hashes if name in _ALGORITHMS]
        if not any(hashlib.new(name, content).hexdigest() == value for name, value in known):
            raise SpecError(
                f"{self._source} names {str(path)!r} with a hash that it does not have: another file was locked; put that"
                " in its place, or lock anew"
            )


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


def unpinned(lines: Iterable[str]) -> list[str]:
    """The lines that name a repository without a commit: what they stand for moves on."""
    found = [(line, match[1]) for line in lines if (match := _VCS_ADDRESS.search(line))]
    return [
        line for line, url in found if not _COMMIT.fullmatch(urlsplit(url).path.rpartition("@")[2])
    ]


def with_subdirectory(url: str, subdirectory: object) -> str:
    """An address whose project is in a folder of what is there; "" or None where it is at the top."""
    if not subdirectory:
        return url
    return f"{url}{'&' if '#' in url else '#'}subdirectory={subdirectory}"


def applies(marker: str) -> bool:
    """Whether a marker holds here, or on a machine, which runs Linux whatever this computer does."""
    return _marker(marker).evaluate() or applies_on_linux(marker)


def applies_on_linux(marker: str) -> bool:
    """Whether a marker holds on a machine with this Python."""
    return _marker(marker).evaluate(_LINUX)


def _marker(text: str) -> Marker:
    try:
        return Marker(text)
    except InvalidMarker as exc:
        raise SpecError(f"the marker {text!r} is malformed: {str(exc).splitlines()[0]}") from exc


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
    bare = _LINE_OPTION.split(text, maxsplit=1)[0]
    try:
        return canonicalize_name(Requirement(bare).name)
    except InvalidRequirement as exc:
        reason = str(exc).splitlines()[0]
        raise SpecError(
            f"{source} holds the malformed requirement {redact(text)!r}: {reason}"
        ) from exc


def _local_place(text: str, folder: Path) -> tuple[Path, str, str] | None:
    """Path, extras and marker of a requirement that is a file or folder of this computer."""
    text = _LINE_OPTION.split(text, maxsplit=1)[0]
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
