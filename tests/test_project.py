"""The user's own code is told from what is installed, wherever both lie."""

from __future__ import annotations

import gc
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from dayfly.runtime.project import Project, module_file


def module(name: str, path: Path) -> ModuleType:
    made = ModuleType(name)
    made.__file__ = str(path)
    return made


def touch(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "marker", ["pyproject.toml", "setup.py", "setup.cfg", "requirements.txt", "uv.lock", ".git"]
)
def test_the_root_is_the_nearest_folder_with_a_marker(tmp_path: Path, marker: str) -> None:
    """Upwards from the function's file."""
    touch(tmp_path / "outer" / "pyproject.toml")
    touch(tmp_path / "outer" / "root" / marker)
    file = touch(tmp_path / "outer" / "root" / "a" / "b" / "code.py")
    project = Project.of_file(str(file))
    assert project.root == tmp_path / "outer" / "root"
    assert project.here == file.parent


def test_without_a_marker_it_is_the_files_folder(tmp_path: Path) -> None:
    """Also where the file was deleted."""
    assert Project.of_file(str(tmp_path / "gone.py")).root == tmp_path


@pytest.mark.parametrize(
    "name", ["<stdin>", "<ipython-input-1-abc>", "/tmp/ipykernel_7/1.py", json.__file__]
)
def test_for_a_cell_or_installed_code_it_is_the_working_folders(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook in a subfolder belongs to the project above it."""
    touch(tmp_path / "pyproject.toml")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert Project.of_file(name).root == tmp_path


def test_a_home_is_never_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A marker there (dotfiles under git) does not count; of a script in it only the neighbours are its own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    touch(tmp_path / ".git")
    project = Project.of_file(str(touch(tmp_path / "folder" / "code.py")))
    assert project.root == tmp_path / "folder"
    script = Project.of_file(str(tmp_path / "script.py"))
    assert script.owns(module("beside", tmp_path / "beside.py"))
    assert script.owns(module("pkg.sub", tmp_path / "pkg" / "sub.py"))
    assert not script.owns(module("elsewhere", tmp_path / "folder" / "elsewhere.py"))


def test_what_is_installed_inside_the_project_is_not_its_own(tmp_path: Path) -> None:
    """site-packages under any name, and everything below a folder that is a virtual environment."""
    touch(tmp_path / "pyproject.toml")
    touch(tmp_path / "env" / "pyvenv.cfg")
    project = Project.of_file(str(tmp_path / "code.py"))
    assert project.owns(module("a.b", tmp_path / "src" / "a" / "b.py"))
    for path in (
        "env/loose.py",
        "env/lib/deep/x.py",
        "vendored/site-packages/x.py",
        "x/dist-packages/y.py",
    ):
        assert not project.owns(module("x", tmp_path / path))


def test_what_lies_elsewhere_is_not_its_own(tmp_path: Path) -> None:
    """The standard library, built-in modules, `__main__`, and Dayfly even in its own checkout."""
    project = Project.of_file(str(tmp_path / "code.py"))
    for other in (
        json,
        sys,
        importlib.import_module("pytest"),
        module("__main__", tmp_path / "code.py"),
    ):
        assert not project.owns(other)
    assert not project.owns(module("dayfly.runtime", tmp_path / "runtime" / "__init__.py"))
    assert module_file(sys) is None


def test_modules_are_found_without_running_them(tmp_path: Path) -> None:
    """Beside the file, under the root and its src, in packages; not outside and not in an environment."""
    root = tmp_path / "root"
    touch(root / "pyproject.toml")
    touch(root / "env" / "pyvenv.cfg")
    raising = "raise RuntimeError\n"
    for name in (
        "top.py",
        "src/pkg/__init__.py",
        "src/pkg/sub.py",
        "tool/beside.py",
        "space/inner.py",
    ):
        touch(root / name, raising)
    touch(root / "env" / "hidden.py")
    touch(tmp_path / "outside.py")
    project = Project.of_file(str(root / "tool" / "main.py"))
    assert project.find("top") == root / "top.py"
    assert project.find("pkg") == root / "src" / "pkg" / "__init__.py"
    assert project.find("pkg.sub") == root / "src" / "pkg" / "sub.py"
    assert project.find("beside") == root / "tool" / "beside.py"
    assert project.find("space.inner") == root / "space" / "inner.py"
    for name in ("space", "space.none", "env.hidden", "outside", "json", "pkg.none", "top.inner"):
        assert project.find(name) is None


def test_modules_that_are_imported_meanwhile_do_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 200 calls at once one failed so; here each collection of garbage imports something, as another thread may then."""
    project = Project.of_file(str(tmp_path / "main.py"))
    made = 0

    def arrive(phase: str, _: object) -> None:
        nonlocal made
        made += 1
        monkeypatch.setitem(sys.modules, f"late_{made}", ModuleType(f"late_{made}"))

    before = gc.get_threshold()
    gc.callbacks.append(arrive)
    gc.set_threshold(100, 1000, 1000)
    try:
        assert project.modules() == {}
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(arrive)
    assert made


def test_whose_a_module_is_is_found_out_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For as long as its file, its project and the user's home are the same, also by another look at the same project."""
    touch(tmp_path / "own" / "pyproject.toml")
    file = touch(tmp_path / "own" / "code.py")
    elsewhere = touch(tmp_path / "other" / "code.py")
    looked, look = list[Path](), Project.owns_file

    def noted(self: Project, name: str, path: Path) -> bool:
        looked.append(path)
        return look(self, name, path)

    monkeypatch.setattr(Project, "owns_file", noted)
    assert [Project.of_file(str(file)).owns(module("code", file)) for _ in range(3)] == [True] * 3
    assert looked == [file]
    assert not Project.of_file(str(file)).owns(module("code", elsewhere))
    assert looked == [file, elsewhere]
    # Of a home all of which is the project only what lies beside the function is the user's.
    monkeypatch.setenv("HOME", str(tmp_path / "own"))
    assert Project.of_file(str(file)).owns(module("code", file))
    assert not Project.of_file(str(file)).owns(module("other.code", file))
