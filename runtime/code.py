"""Code: which of the user's own modules travel with a call, how large they are, and why one cannot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dayfly.errors import PayloadError
from dayfly.infra.units import human_bytes
from dayfly.runtime.ignore import FILE, GitIgnore, Ignore


@dataclass(frozen=True)
class Code:
    """What travels of the user's own.

    Attributes:
        modules: bytes of source of each module, the largest first; the function's own file, if it is none, is not among
            them.
        bytes: of the function with all its code, pickled.
        arguments_bytes: of its arguments, about.
        ignored_by_git: modules that travel although `.gitignore` names them.
    """

    modules: tuple[tuple[str, int], ...]
    bytes: int
    arguments_bytes: int
    ignored_by_git: tuple[str, ...] = ()

    @classmethod
    def of(cls, root: Path, files: Mapping[str, Path], code_bytes: int, all_bytes: int) -> Code:
        """Of what a pickler has taken along.

        Args:
            root: the project's.
            files: the source of each module.
            code_bytes: of the function's part of the pickle.
            all_bytes: of the whole.
        """
        sizes = {name: _size(file) for name, file in files.items()}
        git = GitIgnore(root)
        ignored = (n for n, file in files.items() if file.is_relative_to(root) and git.names(file))
        ordered = sorted(sizes.items(), key=lambda pair: (-pair[1], pair[0]))
        return cls(
            tuple(ordered), code_bytes, max(0, all_bytes - code_bytes), tuple(sorted(ignored))
        )

    def __str__(self) -> str:
        """In one line, for the plan."""
        arguments = f"arguments {human_bytes(self.arguments_bytes)}"
        count = len(self.modules)
        if not count:
            return f"the function alone, {human_bytes(self.bytes)}; {arguments}"
        name, size = self.modules[0]
        noun = "module" if count == 1 else "modules"
        largest = f" (the largest is {name}, {human_bytes(size)})" if count > 1 else f" ({name})"
        git = f"; in .gitignore all the same: {', '.join(self.ignored_by_git[:3])}"
        more = f" and {len(self.ignored_by_git) - 3} more" if len(self.ignored_by_git) > 3 else ""
        return f"{count} {noun} of the project{largest}, {human_bytes(self.bytes)}; {arguments}" + (
            git + more if self.ignored_by_git else ""
        )


def check(name: str, file: Path, ignore: Ignore) -> None:
    """Refuses a module of the project that cannot travel by value, or must not.

    Raises:
        PayloadError: says why, and what to do.
    """
    if file.suffix not in ("", ".py"):
        raise _refused(
            name,
            file,
            "it is compiled, and only source does: make its folder a package with a pyproject.toml, and name that in"
            " environment=",
        )
    reason = ignored(file, ignore)
    if not reason:
        return
    shown = file.relative_to(ignore.root)
    if reason.startswith("it looks"):
        step = f"give the function what it needs by secrets=, or write !{shown} into {ignore.root / FILE}"
    else:
        step = "the code imports it: take the line out, or write code that can do without it"
    raise _refused(name, file, f"{reason}; {step}")


def ignored(file: Path, ignore: Ignore) -> str:
    """Why a module's file stays here, "" where it may travel."""
    return ignore.reason(file) if file.is_relative_to(ignore.root) else ""


def source(name: str, file: Path) -> str:
    """The text of a module that travels as source.

    Raises:
        PayloadError: it cannot be read, or is not Python.
    """
    import ast
    import tokenize

    try:
        with tokenize.open(file) as text:
            found = text.read()
        ast.parse(found)
    except (OSError, SyntaxError, ValueError) as error:
        raise _refused(name, file, f"its source cannot be read: {error}") from error
    return found


def unimportable(name: str, file: Path, error: BaseException) -> PayloadError:
    """For a module that has to be loaded here to travel, and fails at that."""
    return _refused(
        name,
        file,
        f"it uses dayfly, which is not on the machine, so that its functions travel instead of its source, and importing it"
        f" here fails: {type(error).__name__}: {error}",
    )


def _refused(name: str, file: Path, why: str) -> PayloadError:
    return PayloadError(f"module {name} ({file}) cannot travel because {why}", f"module {name}")


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
