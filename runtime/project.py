"""Project: which code is the user's own, and so travels with the call instead of being installed."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

from dayfly.runtime.ignore import Ignore

MARKERS = (
    "pyproject.toml",
    "setup.py",
    "setup.cfg",
    "requirements.txt",
    "uv.lock",
    "pylock.toml",
    ".git",
)
_INSTALLED = frozenset({"site-packages", "dist-packages"})
_ENVIRONMENT_MARKS = ("pyvenv.cfg", "conda-meta")


# What was found of modules, by their name and file, for each project, and for the home by which it is told from others' code.
_owned: dict[tuple[Path, Path, Path], dict[tuple[str, str], bool]] = {}


@dataclass(frozen=True)
class Project:
    """The user's own code.

    Attributes:
        root: nearest folder upwards from the function's file that holds one of MARKERS, else the file's own folder.
        here: the folder of the function's file, where its neighbours are imported from.
    """

    root: Path
    here: Path
    _environments: dict[Path, bool] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of_file(cls, filename: str) -> Project:
        """The project of a source file; of the working folder for a cell, a REPL or installed code."""
        path = Path(filename).absolute()
        real = filename.endswith(".py") and path.parent.is_dir()
        notebook_cell = any(part.startswith("ipykernel_") for part in path.parts)
        if not real or notebook_cell or _is_installed(path.resolve()):
            path = Path.cwd() / "cell.py"
        here = path.resolve().parent
        return cls(_root_above(here), here)

    @functools.cached_property
    def ignore(self) -> Ignore:
        """What of the project stays on this computer."""
        return Ignore.of(self.root)

    def owns(self, module: ModuleType) -> bool:
        """True where the module is the user's own and so must travel by value."""
        name = module.__name__
        if name == "__main__" or name.partition(".")[0] == "dayfly":
            return False
        file = getattr(module, "__file__", None)
        if not isinstance(file, str):
            origin = module_file(module)
            return origin is not None and self.owns_file(name, origin)
        # Of each module that is loaded, whenever anything is pickled: a file does not move while it is that module's.
        key = name, file
        if key not in self._owned:
            origin = module_file(module)
            self._owned[key] = origin is not None and self.owns_file(name, origin)
        return self._owned[key]

    @functools.cached_property
    def _owned(self) -> dict[tuple[str, str], bool]:
        return _owned.setdefault((self.root, self.here, _home()), {})

    def owns_file(self, name: str, path: Path) -> bool:
        """True where `path`, imported as `name`, lies in the project and in no environment inside it."""
        if not path.is_relative_to(self.root) or _is_installed(path):
            return False
        if any(path.is_relative_to(prefix) for prefix in self._prefixes()):
            return False
        if self._in_environment(path.parent):
            return False
        return not self._is_wide() or self._is_neighbour(name, path)

    def modules(self) -> dict[str, ModuleType]:
        """The project's modules that are loaded now, by name."""
        # A copy in one step, for another thread may import while this one looks. A list of the items is none: making it a
        # collection of garbage may begin, and with that another thread.
        loaded = sys.modules.copy()
        return {
            name: module
            for name, module in loaded.items()
            if name.partition(".")[0] not in sys.stdlib_module_names
            and isinstance(module, ModuleType)
            and getattr(module, "__name__", "") == name
            and self.owns(module)
        }

    def find(self, name: str) -> Path | None:
        """The source file of a module of the project that need not be loaded; nothing is executed.

        Returns:
            The path of `name`'s .py file (a package's `__init__.py`), or None where the project has no such module.
        """
        folders = self._search_path()
        path: Path | None = None
        for depth, part in enumerate(name.split("."), 1):
            spec = PathFinder.find_spec(part, folders)
            if spec is None:
                return None
            path = Path(spec.origin).resolve() if spec.has_location and spec.origin else None
            folders = list(spec.submodule_search_locations or ())
            if path is None and (not folders or depth == name.count(".") + 1):
                return None
        if path is None or path.suffix != ".py" or not self.owns_file(name, path):
            return None
        return path

    def _search_path(self) -> list[str]:
        """Where the user's own imports would look, without what is installed."""
        folders = [self.here, *(Path(entry or ".").resolve() for entry in sys.path)]
        if not self._is_wide():
            folders += [self.root, self.root / "src"]
        mine = [folder for folder in folders if folder.is_relative_to(self.root)]
        return [str(folder) for folder in dict.fromkeys(mine) if not _is_installed(folder)]

    def _prefixes(self) -> list[Path]:
        # A prefix above the root says nothing: a project may live in /usr/src, and the system's prefix is /usr.
        return [path for path in _interpreter_folders() if not self.root.is_relative_to(path)]

    def _in_environment(self, folder: Path) -> bool:
        if folder in (self.root, folder.parent):
            return False
        if folder not in self._environments:
            marked = any((folder / mark).exists() for mark in _ENVIRONMENT_MARKS)
            self._environments[folder] = marked or self._in_environment(folder.parent)
        return self._environments[folder]

    def _is_wide(self) -> bool:
        """True where the root is a home or the file system's own root, which hold other people's code too."""
        return self.root in (_home(), Path(self.root.anchor))

    def _is_neighbour(self, name: str, path: Path) -> bool:
        plain = path.with_suffix("") if path.stem != "__init__" else path.parent
        return plain == self.here.joinpath(*name.split("."))


def module_file(module: ModuleType) -> Path | None:
    """Where a module's source lies; None for built-in modules and for those made in memory."""
    origin = getattr(module, "__file__", None)
    if isinstance(origin, str):
        # Thousands of modules lie in a few hundred folders, and resolving is what takes the time.
        return _resolved(os.path.dirname(origin)) / os.path.basename(origin)  # noqa: PTH119, PTH120
    # A namespace package has folders and no file.
    folders = list(getattr(module, "__path__", None) or ())
    return Path(folders[0]).resolve() / "__init__.py" if folders else None


@functools.cache
def _resolved(folder: str) -> Path:
    return Path(folder).resolve()


def _root_above(here: Path) -> Path:
    for folder in (here, *here.parents):
        if folder == _home() or folder == folder.parent:
            break
        if any((folder / marker).exists() for marker in MARKERS):
            return folder
    return here


def _is_installed(path: Path) -> bool:
    return not _INSTALLED.isdisjoint(path.parts) or any(
        path.is_relative_to(folder) for folder in _library_folders()
    )


@functools.cache
def _library_folders() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    return tuple(
        {Path(paths[key]).resolve() for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    )


@functools.cache
def _interpreter_folders() -> tuple[Path, ...]:
    return tuple({Path(folder).resolve() for folder in (sys.prefix, sys.base_prefix)})


def _home() -> Path:
    return Path.home().resolve()
