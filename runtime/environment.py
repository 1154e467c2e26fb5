"""Recipe: what is to be installed on the machine, decided and checked before anything is spent."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from platformdirs import user_data_path

from dayfly.errors import SpecError
from dayfly.runtime import index, live, lock_files, pyproject, redact, requirements
from dayfly.runtime.requirements import Requirements
from dayfly.runtime.wheels import WheelBuilder, content_digest, uv_binary

__all__ = ["PROJECT_FILES", "Recipe", "recipe", "uv_binary"]

RECIPE_VERSION = 1
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
PROJECT_FILES = ("uv.lock", "pylock.toml", "requirements.txt", "pyproject.toml")
_EXTRAS = re.compile(r"^(.*?)\[([\w\s,.-]+)\]$")


@dataclass(frozen=True)
class Recipe:
    """An environment to be made with uv.

    Attributes:
        python: major.minor.
        requirements: text of a requirements file; the wheels are not named in it, each is installed besides.
        wheels: built on this computer from local projects.
        source: one line for the plan.
        variables: index and certificate settings of this computer's uv and pip; may hold passwords.
        constraints: text of a constraints file: versions that hold for what is needed, named or not.
        hardware: what of the machine decides about the wheels, "" where nothing does.
        checks: programs that must succeed in the environment before it is used.
        warnings: what should be said of it before anything is spent.
        torch_builds: the torch backend of uv for each release ("2.4"), "auto" for any other, where no line names torch and
            it comes along; empty leaves it as it comes.
        jax_extra: what jax is installed with where no line names it and it comes along without a plugin; "" leaves it so.
    """

    python: str
    requirements: str = field(repr=False)
    wheels: tuple[Path, ...]
    source: str
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    constraints: str = field(default="", repr=False)
    hardware: str = ""
    checks: tuple[str, ...] = field(default=(), repr=False)
    warnings: tuple[str, ...] = field(default=(), repr=False)
    torch_builds: Mapping[str, str] = field(default_factory=dict, repr=False)
    jax_extra: str = ""

    @property
    def empty(self) -> bool:
        """True when nothing has to be installed, so that any interpreter of that minor does."""
        return not self.requirements.strip() and not self.wheels

    @property
    def digest(self) -> str:
        """Names the environment in the machine's cache; the same content, from the same indexes, gives the same name."""
        wheels = sorted((wheel.name, content_digest(wheel)) for wheel in self.wheels)
        content = [RECIPE_VERSION, self.python, self.requirements, wheels]
        content += [self.constraints] if self.constraints else []
        if self.hardware:
            content += [self.hardware, self.checks, dict(self.torch_builds), self.jax_extra]
        decided = index.deciding(self.variables, self.requirements + self.constraints)
        content += [decided] if decided else []
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def recipe(
    environment: str | os.PathLike[str] | Sequence[str] | None,
    project_root: Path,
    function_imports: Sequence[str] = (),
    *,
    same_computer: bool = False,
    cache: Path | None = None,
) -> Recipe:
    """Decide what is to be installed.

    Args:
        environment: a list of requirements, the path of a requirements, lock or pyproject file (relative to the
            project), "live" for what is installed here, or None for the project's own file, else "live". Names in
            brackets behind a file, or behind "." for the project's own, are extras or dependency groups of the project.
        project_root: the folder whose code travels with the function.
        function_imports: top-level modules that the function needs; "live" includes what provides them.
        same_computer: True where the machine is this computer, so that paths of certificates and folders hold there.
        cache: keeps wheels built from local projects; DAYFLY_HOME/cache unless given.

    Raises:
        SpecError: a file does not exist, or would have to be on the machine; a requirement is malformed, a local project
            cannot be built, or the project does not support this Python.
    """
    builder = WheelBuilder(cache or _default_cache())
    found = _requirements(environment, project_root, function_imports, builder)
    text = "".join(f"{line}\n" for line in found.lines)
    wheels = tuple(dict.fromkeys(found.wheels))
    if not same_computer:
        _check_wheels(wheels)
        _check_folders(found)
    # An empty recipe has them too: the machine's uv may have to fetch the interpreter itself.
    variables = index.variables(os.environ, same_computer=same_computer, root=project_root)
    variables = _together(found.variables, variables)
    if found.any_index:
        variables.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    passwords = index.passwords_of(os.environ, project_root)
    text, referenced = index.with_passwords(text, passwords)
    constraints = "".join(f"{line}\n" for line in found.constraints)
    variables |= referenced | _referenced(text + constraints)
    redact.remember(index.secrets_in({**variables, "": text}))
    made = Recipe(PYTHON, text, wheels, _source(found), variables, constraints)
    said = [*builder.warnings, *_moving(found)]
    if not same_computer and not made.empty:
        options = "".join(f"{line}\n" for line in found.lines if line.startswith("-"))
        said += index.left_here(os.environ, project_root, options)
    return dataclasses.replace(made, warnings=tuple(dict.fromkeys(said)))


def _requirements(
    environment: str | os.PathLike[str] | Sequence[str] | None,
    root: Path,
    imports: Sequence[str],
    builder: WheelBuilder,
) -> Requirements:
    if environment is None:
        return _of_project(root, imports, builder)
    if environment == "live":
        return live.read(root, imports, builder)
    if isinstance(environment, str | os.PathLike):
        name, extras = _split(os.fspath(environment))
        if name == ".":
            return _of_project_with(root, extras, builder)
        return _of_file(root / Path(name).expanduser(), builder, extras)
    return requirements.of_list(list(environment), Path.cwd(), builder)


def _split(given: str) -> tuple[str, tuple[str, ...]]:
    """A path, and the extras in brackets behind it."""
    match = _EXTRAS.fullmatch(given)
    if match is None:
        return given, ()
    return match[1].strip(), tuple(part.strip() for part in match[2].split(",") if part.strip())


def _of_project(root: Path, imports: Sequence[str], builder: WheelBuilder) -> Requirements:
    """From the project's own file, the most exact first."""
    found = _own_file(root)
    if found is not None:
        return _of_file(found, builder)
    if (lock := lock_files.workspace_of(root)) is not None:
        pyproject.check_python(root)
        return lock_files.of_uv_lock(lock, builder, member=root)
    pyproject.check_python(root)
    made = live.read(root, imports, builder)
    unread = [name for name in lock_files.FOREIGN if (root / name).is_file()]
    if unread:
        return dataclasses.replace(made, source=f"{made.source}, {unread[0]} is not read")
    return made


def _of_project_with(root: Path, extras: tuple[str, ...], builder: WheelBuilder) -> Requirements:
    """From the project's own file and some of its extras."""
    found = _own_file(root)
    if found is None and (lock := lock_files.workspace_of(root)) is not None:
        return lock_files.of_uv_lock(lock, builder, extras, member=root)
    if found is None:
        raise SpecError(
            f"environment= asks for {', '.join(extras) or 'the file'} of the project in {str(root)!r}, which has none of"
            f" {', '.join(PROJECT_FILES)}"
        )
    return _of_file(found, builder, extras)


def _own_file(root: Path) -> Path | None:
    if pyproject.is_dayflys_own(root):
        return None
    for name in PROJECT_FILES:
        path = root / name
        if path.is_file() and (name != "pyproject.toml" or pyproject.has_dependencies(path)):
            return None if name == "pyproject.toml" and lock_files.workspace_of(root) else path
    return None


def _of_file(path: Path, builder: WheelBuilder, extras: tuple[str, ...] = ()) -> Requirements:
    if path.name in lock_files.FOREIGN:
        raise SpecError(
            f"environment= names {str(path)!r}, which is not read: {lock_files.FOREIGN[path.name]}"
        )
    if not path.is_file():
        raise SpecError(
            f"environment= names {str(path)!r}, which does not exist: give a requirements, lock or pyproject file, "
            'a list of requirements, or "live"'
        )
    pyproject.check_python(path.parent)
    if path.name == "uv.lock":
        return lock_files.of_uv_lock(path, builder, extras)
    if path.name.startswith("pylock.") and path.suffix == ".toml":
        return lock_files.of_pylock(path, builder, extras)
    if path.suffix == ".toml":
        return pyproject.requirements_of(path, builder, extras)
    if extras:
        raise SpecError(
            f"environment= asks for the extras {', '.join(extras)} of {str(path)!r}: a pyproject or lock file has extras,"
            " a requirements file has none"
        )
    return requirements.of_text_file(path, builder)


def _check_wheels(wheels: Sequence[Path]) -> None:
    """Machines run Linux: what was compiled for another system would be refused there, when they are paid for."""
    for wheel in wheels:
        platform = wheel.stem.rpartition("-")[2]
        if platform != "any" and "linux" not in platform:
            raise SpecError(
                f"the local project in {wheel.name} holds code that was compiled for this computer ({platform}), and machines"
                " run Linux: give a wheel that was built for Linux, or put the project where the machine can install it from"
            )


def _together(options: Mapping[str, str], settings: dict[str, str]) -> dict[str, str]:
    """The settings of this computer, which win, with those that stand for options; hosts of either are trusted."""
    lists = [found.get("UV_INSECURE_HOST", "").split() for found in (settings, options)]
    hosts = " ".join(dict.fromkeys([*lists[0], *lists[1]]))
    return {**options, **settings, **({"UV_INSECURE_HOST": hosts} if hosts else {})}


def _check_folders(found: Requirements) -> None:
    """uv stops at a folder that is not there, when the machine is paid for."""
    for folder in found.folders:
        raise SpecError(
            f"{found.source} has --find-links {redact.redact(folder)}, a folder of this computer, which the machine does not"
            " have: name the wheels that are meant, each on a line of its own (./name.whl), they travel; or give the folder as"
            " a web address"
        )


def _moving(found: Requirements) -> list[str]:
    """A warning of what a machine that keeps its environments would not look for again."""
    lines = requirements.unpinned(found.lines)
    if not lines:
        return []
    named = ", ".join(redact.redact(line) for line in lines)
    return [
        f"{named}: without a commit it is what the machine finds when it first makes the environment, and stays that on one"
        " that keeps its disk (provider ssh or local); name a commit (@ and its hash) to have another state"
    ]


def _source(found: Requirements) -> str:
    options = sum(line.startswith("-") for line in found.lines)
    count = len(found.lines) - options + len(found.wheels)
    if not count:
        return "none (standard library only)"
    return f"{found.source} ({count} package{'s' if count > 1 else ''})"


def _referenced(text: str) -> dict[str, str]:
    """Variables that a requirements file refers to as ${NAME}, as pip and uv allow for passwords."""
    names = re.findall(r"\$\{([A-Z0-9_]+)\}", text)
    return {name: os.environ[name] for name in names if name in os.environ}


def _default_cache() -> Path:
    home = os.environ.get("DAYFLY_HOME")
    return (Path(home) if home else user_data_path("dayfly")) / "cache"
