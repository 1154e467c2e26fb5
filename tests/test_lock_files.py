"""Lock files are read exactly, with hashes, extras and the indexes that some packages come from; others are refused."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from uv import find_uv_bin

from dayfly.errors import SpecError
from dayfly.runtime import lock_files
from dayfly.runtime.environment import recipe
from tests.test_environment import distribution, lines, local_project

SHA = "ab" * 32


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (root := tmp_path / "project").mkdir()
    (root / ".git").mkdir()
    return root


def lock(folder: Path) -> None:
    subprocess.run(
        [find_uv_bin(), "lock", "--quiet", "--offline", "--python", sys.executable],
        cwd=folder,
        check=True,
    )


def package(name: str, more: str = "", registry: str = "https://all.example/simple") -> str:
    return (
        f'[[package]]\nname = "{name}"\nversion = "1.0"\nsource = {{ registry = "{registry}" }}\n'
        f'wheels = [{{ url = "https://files.example/{name}-1.0-py3-none-any.whl", hash = "sha256:{SHA}" }}]\n{more}\n'
    )


def locked(root: Path, sources: str = "") -> None:
    """A project with an extra and a group, and a lock file of it as uv writes one."""
    (root / "pyproject.toml").write_text(
        '[project]\nname = "p"\nversion = "1"\nrequires-python = ">=3.9"\ndependencies = ["base"]\n'
        '[project.optional-dependencies]\ntrain = ["fast"]\n[dependency-groups]\nplot = ["art"]\n'
        + sources
    )
    (root / "uv.lock").write_text(
        'version = 1\nrevision = 3\nrequires-python = ">=3.9"\n'
        + package("art")
        + package("base")
        + package(
            "fast",
            registry="https://only.example/simple" if sources else "https://all.example/simple",
        )
        + '[[package]]\nname = "p"\nversion = "1"\nsource = { virtual = "." }\ndependencies = [{ name = "base" }]\n'
        '[package.optional-dependencies]\ntrain = [{ name = "fast" }]\n'
        '[package.dev-dependencies]\nplot = [{ name = "art" }]\n'
        '[package.metadata]\nrequires-dist = [{ name = "base" }, { name = "fast", marker = "extra == \'train\'" }]\n'
        'provides-extras = ["train"]\n[package.metadata.requires-dev]\nplot = [{ name = "art" }]\n'
    )


@pytest.mark.process
def test_extras_and_groups_of_a_uv_lock_are_asked_for_by_name(project: Path) -> None:
    """In brackets behind the file, or behind the project itself; with the hashes that were locked."""
    locked(project)

    def names(environment: str | None) -> list[str]:
        made = recipe(environment, project)
        assert all(f"--hash=sha256:{SHA}" in line for line in lines(made))
        return [line.partition("==")[0] for line in lines(made)]

    assert names(None) == ["base"]
    assert names("uv.lock[train]") == ["base", "fast"]
    assert names(".[train, plot]") == ["art", "base", "fast"]
    with pytest.raises(
        SpecError, match=r"no extra or dependency group 'trian'; did you mean 'train'"
    ):
        recipe(".[trian]", project)


@pytest.mark.process
def test_an_index_of_some_packages_is_added_for_what_is_pinned(project: Path) -> None:
    """The version and its hash say which one is meant, whichever index has it."""
    locked(
        project,
        '[tool.uv.sources]\nfast = { index = "only" }\n'
        '[[tool.uv.index]]\nname = "only"\nurl = "https://only.example/simple"\nexplicit = true\n'
        '[[tool.uv.index]]\nname = "all"\nurl = "https://all.example/simple"\ndefault = true\n',
    )
    made = recipe(".[train]", project)
    assert lines(made)[0] == "--extra-index-url https://only.example/simple"
    assert made.variables["UV_INDEX_STRATEGY"] == "unsafe-best-match"
    assert made.variables["UV_DEFAULT_INDEX"] == "https://all.example/simple"
    assert made.source == "uv.lock (2 packages)"
    (project / "uv.lock").unlink()
    with pytest.raises(SpecError, match="run `uv lock`"):
        recipe("pyproject.toml[train]", project)


@pytest.mark.process
def test_what_uv_made_of_a_lock_file_is_kept(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the files are the same: the second call starts no uv."""
    locked(project)
    first = recipe(None, project)
    monkeypatch.setattr(lock_files, "run_uv", lambda *_: pytest.fail("uv was started"))
    assert recipe(None, project) == first
    locked(project, "[tool.other]\n")
    with pytest.raises(pytest.fail.Exception):
        recipe(None, project)


@pytest.mark.process
def test_a_member_of_a_workspace_has_the_lock_file_of_all(project: Path) -> None:
    """Its own part of it."""
    local_project(project / "library")
    member = project / "members" / "one"
    member.mkdir(parents=True)
    (member / "pyproject.toml").write_text(
        '[project]\nname = "one"\nversion = "1"\nrequires-python = ">=3.9"\ndependencies = ["locallib"]\n'
        '[tool.uv.sources]\nlocallib = { path = "../../library" }\n'
    )
    (project / "pyproject.toml").write_text(
        '[project]\nname = "all"\nversion = "1"\nrequires-python = ">=3.9"\n[tool.uv.workspace]\nmembers = ["members/*"]\n'
    )
    lock(project)
    made = recipe(None, member)
    assert [wheel.name for wheel in made.wheels] == ["locallib-1.0-py3-none-any.whl"]
    assert made.source == "uv.lock (1 package)"
    assert recipe(None, project).empty


def test_a_standard_lock_file_has_its_extras_decided_here(project: Path) -> None:
    """A requirement has no words for them; hashes and the indexes of several stay."""
    entry = '[[packages]]\nname = "{0}"\nversion = "1.0"\nindex = "https://{1}.example/simple"\n'
    files = f'wheels = [{{ url = "https://x.example/w.whl", hashes = {{ sha256 = "{SHA}" }} }}]\n'
    (project / "pylock.toml").write_text(
        'lock-version = "1.0"\nrequires-python = ">=3.9"\ncreated-by = "x"\nextras = ["train"]\n'
        'dependency-groups = ["plot"]\n'
        + entry.format("base", "one")
        + files
        + entry.format("fast", "two")
        + "marker = \"'train' in extras and sys_platform == 'linux'\"\n"
        + entry.format("slow", "one")
        + "marker = \"'train' not in extras or 'plot' in dependency_groups\"\n"
    )
    always, never = 'python_version >= "0"', 'python_version < "0"'
    made = recipe("pylock.toml[train]", project)
    assert lines(made) == [
        "--extra-index-url https://one.example/simple",
        "--extra-index-url https://two.example/simple",
        f"base==1.0 --hash=sha256:{SHA}",
        f"fast==1.0 ; {always} and sys_platform == 'linux'",
        f"slow==1.0 ; {never} or {never}",
    ]
    assert made.variables["UV_INDEX_STRATEGY"] == "unsafe-best-match"
    assert lines(recipe(None, project))[-1] == f"slow==1.0 ; {always} or {never}"
    with pytest.raises(SpecError, match="no extra or dependency group 'x'; known: plot, train"):
        recipe("pylock.toml[x]", project)


def test_repositories_and_archives_of_a_standard_lock_file_are_exact(project: Path) -> None:
    """With the folder that the project is in, and with the hashes of the archive; a local one is held against its own."""
    wheel = project / "near-1.0-py3-none-any.whl"
    wheel.write_bytes(b"content")
    mine = hashlib.sha256(b"content").hexdigest()
    (project / "pylock.toml").write_text(
        'lock-version = "1.0"\ncreated-by = "x"\n'
        '[[packages]]\nname = "vc"\nmarker = "python_version > \'3\'"\n[packages.vcs]\ntype = "git"\n'
        'url = "https://example.org/vc"\ncommit-id = "abcdef0"\nsubdirectory = "py"\n'
        '[[packages]]\nname = "arch"\nmarker = "python_version > \'3\'"\n[packages.archive]\n'
        f'url = "https://example.org/a.zip"\nsubdirectory = "py"\nhashes = {{ md5 = "00", sha256 = "{SHA}" }}\n'
        f'[[packages]]\nname = "near"\n[packages.archive]\npath = "{wheel.name}"\nhashes = {{ sha256 = "{mine}" }}\n'
        '[[packages]]\nname = "mixed"\nversion = "1"\nwheels = [{ url = "https://x.example/w.whl", '
        f'hashes = {{ sha512 = "{SHA}" }} }}]\n[packages.sdist]\nurl = "https://x.example/s.zip"\nhashes = {{}}\n'
    )
    made = recipe(None, project)
    assert lines(made) == [
        "vc @ git+https://example.org/vc@abcdef0#subdirectory=py ; python_version > '3'",
        f"arch @ https://example.org/a.zip#subdirectory=py ; python_version > '3' --hash=sha256:{SHA}",
        "mixed==1",
    ]
    assert made.wheels == (wheel,)
    wheel.write_bytes(b"another")
    with pytest.raises(SpecError, match="with a hash that it does not have"):
        recipe(None, project)


def test_extras_of_a_pyproject_may_include_each_other(project: Path) -> None:
    """As pip and uv read them; in a circle they are refused, and so is what is none."""
    (project / "pyproject.toml").write_text(
        '[project]\nname = "My_P"\nversion = "1"\ndependencies = ["base"]\n'
        '[project.optional-dependencies]\nall = ["my-p[train]", "more"]\ntrain = ["fast"]\nround = ["my-p[round]"]\n'
        '[dependency-groups]\nplot = ["art", { include-group = "base-plot" }]\nbase-plot = ["line"]\n'
    )
    assert lines(recipe("pyproject.toml[all,plot]", project)) == [
        "base",
        "fast",
        "more",
        "art",
        "line",
    ]
    assert lines(recipe(".[train]", project)) == ["base", "fast"]
    with pytest.raises(SpecError, match="'round' includes itself"):
        recipe(".[round]", project)
    (project / "requirements.txt").write_text("x\n")
    with pytest.raises(SpecError, match="a requirements file has none"):
        recipe("requirements.txt[train]", project)


@pytest.mark.parametrize("name", sorted(lock_files.FOREIGN))
def test_other_tools_files_are_refused_with_the_next_step(
    project: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named, they are no requirements; unnamed, the plan says that they are not read."""
    distribution(project.parent / "site", "thing")
    monkeypatch.setattr(sys, "path", [str(project.parent / "site")])
    (project / name).write_text("x: y\n")
    with pytest.raises(SpecError, match="which is not read: "):
        recipe(name, project)
    assert recipe(None, project).source == f"live, {name} is not read (1 package)"


def test_a_project_without_a_file_has_no_extras(project: Path) -> None:
    """It says which files it could have."""
    with pytest.raises(SpecError, match=r"which has none of uv\.lock, pylock\.toml"):
        recipe(".[train]", project)
