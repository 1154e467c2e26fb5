"""Recipe: what is to be installed on the machine, decided and checked before anything is spent."""

from __future__ import annotations

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
from dayfly.runtime import index, live, requirements
from dayfly.runtime.requirements import Requirements
from dayfly.runtime.wheels import WheelBuilder, content_digest, uv_binary

__all__ = ["PROJECT_FILES", "Recipe", "recipe", "uv_binary"]

RECIPE_VERSION = 1
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
PROJECT_FILES = ("uv.lock", "pylock.toml", "requirements.txt", "pyproject.toml")


@dataclass(frozen=True)
class Recipe:
    """An environment to be made with uv.

    Attributes:
        python: major.minor.
        requirements: text of a requirements file; the wheels are not named in it, each is installed besides.
        wheels: built on this computer from local projects.
        source: one line for the plan.
        variables: index and certificate settings of this computer's uv and pip; may hold passwords.
        uv: the binary for the machine's platform; None for this computer's own.
    """

    python: str
    requirements: str
    wheels: tuple[Path, ...]
    source: str
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    uv: Path | None = None

    @property
    def empty(self) -> bool:
        """True when nothing has to be installed, so that any interpreter of that minor does."""
        return not self.requirements.strip() and not self.wheels

    @property
    def digest(self) -> str:
        """Names the environment in the machine's cache; the same content gives the same name."""
        wheels = sorted((wheel.name, content_digest(wheel)) for wheel in self.wheels)
        content = [RECIPE_VERSION, self.python, self.requirements, wheels]
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
            project), "live" for what is installed here, or None for the project's own file, else "live".
        project_root: the folder whose code travels with the function.
        function_imports: top-level modules that the function needs; "live" includes what provides them.
        same_computer: True where the machine is this computer, so that paths of certificates and folders hold there.
        cache: keeps wheels built from local projects; DAYFLY_HOME/cache unless given.

    Raises:
        SpecError: a file does not exist, a requirement is malformed, a local project cannot be built, or the
            project does not support this Python.
    """
    builder = WheelBuilder(cache or _default_cache())
    found = _requirements(environment, project_root, function_imports, builder)
    text = "".join(f"{line}\n" for line in found.lines)
    wheels = tuple(dict.fromkeys(found.wheels))
    # An empty recipe has them too: the machine's uv may have to fetch the interpreter itself.
    variables = index.variables(os.environ, same_computer=same_computer) | _referenced(text)
    return Recipe(PYTHON, text, wheels, _source(found), variables)


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
        path = Path(environment).expanduser()
        return _of_file(root / path, builder)
    return requirements.of_list(list(environment), Path.cwd(), builder)


def _of_project(root: Path, imports: Sequence[str], builder: WheelBuilder) -> Requirements:
    """From the project's own file, the most exact first."""
    if not requirements.is_dayflys_own(root):
        for name in PROJECT_FILES:
            path = root / name
            if path.is_file() and (name != "pyproject.toml" or requirements.has_dependencies(path)):
                return _of_file(path, builder)
    requirements.check_python(root)
    return live.read(root, imports, builder)


def _of_file(path: Path, builder: WheelBuilder) -> Requirements:
    if not path.is_file():
        raise SpecError(
            f"environment= names {str(path)!r}, which does not exist: give a requirements, lock or pyproject file, "
            'a list of requirements, or "live"'
        )
    requirements.check_python(path.parent)
    if path.name == "uv.lock":
        return requirements.of_uv_lock(path, builder)
    if path.name.startswith("pylock.") and path.suffix == ".toml":
        return requirements.of_pylock(path, builder)
    if path.suffix == ".toml":
        return requirements.of_pyproject(path, builder)
    return requirements.of_text_file(path, builder)


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
