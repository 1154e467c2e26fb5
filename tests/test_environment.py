"""What is to be installed is decided from a list, a file or what is installed here, and checked before spending."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import psutil
import pytest
from packaging import markers
from uv import find_uv_bin

from dayfly import cluster
from dayfly.errors import SpecError
from dayfly.runtime import environment, wheels
from dayfly.runtime.call import Call
from dayfly.runtime.environment import Recipe, recipe
from dayfly.stacks.engine import Engine

# A build back end of a few lines in the project itself: building reaches no index.
_BACKEND = """
import os, zipfile
NAME = "{name}-1.0"
def build_wheel(directory, config_settings=None, metadata_directory=None):
    wheel = NAME + "-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, wheel), "w") as archive:
        archive.writestr("{name}.py", open("{name}.py").read())
        archive.writestr(NAME + ".dist-info/METADATA", "Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n")
        archive.writestr(NAME + ".dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr(NAME + ".dist-info/RECORD", "")
    return wheel
build_editable = build_wheel
"""


def local_project(folder: Path, name: str = "locallib", text: str = "VALUE = 1\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(
        f'[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        f'[project]\nname = "{name}"\nversion = "1.0"\n'
    )
    (folder / "backend.py").write_text(_BACKEND.format(name=name))
    (folder / f"{name}.py").write_text(text)
    return folder


def distribution(site: Path, name: str, *requires: str, version: str = "1.0") -> None:
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    lines = "".join(f"Requires-Dist: {text}\n" for text in requires)
    (info / "METADATA").write_text(f"{head}{lines}\nRequires-Dist: not-in-the-head\n")
    (site / f"{name}.py").write_text("")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    return root


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of installed distributions."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [str(folder)])
    return folder


def lines(made: Recipe) -> list[str]:
    return made.requirements.splitlines()


def test_a_list_is_taken_as_given(project: Path) -> None:
    """Each requirement is a line, and the plan says how many there are."""
    made = recipe(["scikit-learn>=1.5", "numpy==2.1; python_version>'3'"], project)
    assert lines(made) == ["scikit-learn>=1.5", "numpy==2.1; python_version>'3'"]
    assert made.source == "environment= (2 packages)"
    assert made.python == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert not made.empty


def test_an_empty_list_installs_nothing(project: Path) -> None:
    """Then any interpreter of that minor does."""
    made = recipe([], project)
    assert made.empty
    assert made.source == "none (standard library only)"


@pytest.mark.parametrize("bad", ["numpy==", "no spaces here", "--index-url http://x", "==1"])
def test_a_malformed_requirement_is_named(project: Path, bad: str) -> None:
    """Before anything is spent."""
    with pytest.raises(SpecError) as caught:
        recipe(["numpy", bad], project)
    assert repr(bad) in str(caught.value)


def test_what_is_no_text_is_refused(project: Path) -> None:
    """A list of requirement strings is wanted."""
    with pytest.raises(SpecError, match="7"):
        recipe([7], project)  # type: ignore[list-item]


def test_a_repository_is_taken_as_given_and_dayfly_is_left_out(project: Path) -> None:
    """The machine's uv fetches the one, and has no use for the other."""
    urls = ["pkg @ git+https://example.org/pkg@v1", "git+https://example.org/other"]
    assert lines(recipe([*urls, "dayfly>=0.1"], project)) == urls


@pytest.mark.process
def test_a_local_project_is_shipped_as_a_wheel(project: Path, tmp_path: Path) -> None:
    """Given as a path, an editable path or a named one; built once for each state of its sources."""
    library = local_project(tmp_path / "library")
    first = recipe([str(library)], project)
    assert [wheel.name for wheel in first.wheels] == ["locallib-1.0-py3-none-any.whl"]
    assert (lines(first), first.source) == ([], "environment= (1 package)")
    for text in (f"-e {library}", f"locallib @ file://{library}", f"locallib @ {library}"):
        again = recipe([text], project)
        assert (again.wheels, again.digest) == (first.wheels, first.digest)
    (library / "locallib.py").write_text("VALUE = 22\n")
    assert recipe([str(library)], project).digest != first.digest


@pytest.mark.process
def test_what_looks_like_secrets_in_the_wheel_of_a_local_project_is_named(
    project: Path,
    tmp_path: Path,
    engine: Engine,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its back end knows nothing of that; a line of the project's own `.dayflyignore` allows it."""
    library = local_project(tmp_path / "library")
    names = ["locallib/.env", "locallib/keys.py", "locallib/credentials.json"]
    (library / "src" / "locallib").mkdir(parents=True)
    for name in names:
        (library / "src" / name).write_text("hush")
    written = "".join(f"        archive.write('src/{name}', '{name}')\n" for name in names)
    backend = _BACKEND.format(name="locallib")
    (library / "backend.py").write_text(
        backend.replace(
            "        archive.writestr(NAME", f"{written}        archive.writestr(NAME", 1
        )
    )
    for name in ("PIP_FIND_LINKS", "UV_FIND_LINKS", "SSL_CERT_FILE", "SSL_CERT_DIR", "PIP_CERT"):
        monkeypatch.delenv(name, raising=False)
    (warning,) = recipe([str(library)], project).warnings
    assert str(library) in warning
    assert "locallib/.env: it looks like a file of secrets (.env)" in warning
    assert "locallib/credentials.json" in warning
    assert "keys.py" not in warning
    assert recipe([str(library), f"-e {library}"], project).warnings == (warning,)
    remote = cluster(provider="local", environment=[str(library)])(len)
    Call.prepare(remote.__dayfly_function__, (b"",), {}, remote.spec)
    assert "locallib/.env: it looks like" in capsys.readouterr().err
    (library / ".dayflyignore").write_text("!.env\n!/src/locallib/credentials.json\n")
    assert recipe([str(library)], project).warnings == ()


@pytest.mark.parametrize(
    "name", ["lib/build/planner.py", "src/lib/dist/router.py", "venv/way.py", "linked/shared.py"]
)
def test_a_local_project_is_built_anew_whichever_module_changes(tmp_path: Path, name: str) -> None:
    """Also one in a folder whose name is that of what building leaves, or behind a link."""
    library = local_project(tmp_path / "library")
    (tmp_path / "shared").mkdir()
    (library / "linked").symlink_to(tmp_path / "shared")
    (library / name).parent.mkdir(parents=True, exist_ok=True)
    (library / name).write_text("VALUE = 1\n")
    before = wheels._fingerprint(library)
    assert wheels._fingerprint(library) == before
    (library / name).write_text("VALUE = 22\n")
    assert wheels._fingerprint(library) != before


def test_what_is_no_source_has_no_part_in_it(tmp_path: Path) -> None:
    """What a build leaves, environments, a data set behind a link; links that lead in circles end."""
    library = local_project(tmp_path / "library")
    (tmp_path / "data").mkdir()
    (library / "data").symlink_to(tmp_path / "data")
    (library / "lib").mkdir()
    (library / "lib" / "mod.py").touch()
    (library / "lib" / "again").symlink_to(library)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (library / "lib" / "one").symlink_to(tmp_path / "one")
    (tmp_path / "one" / "two").symlink_to(tmp_path / "two")
    (tmp_path / "two" / "one").symlink_to(tmp_path / "one")
    (library / "env" / "bin").mkdir(parents=True)
    (library / "env" / "pyvenv.cfg").touch()
    before = wheels._fingerprint(library)
    for name in ("build/lib/x.py", "dist/x.whl", "env/bin/x.py", "data/1.bin", "x.egg-info/PKG"):
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        (library / name).write_text("x")
    assert wheels._fingerprint(library) == before
    (tmp_path / "two" / "deep.py").touch()
    assert wheels._fingerprint(library) != before


def test_a_wheel_for_another_system_is_refused(project: Path, tmp_path: Path) -> None:
    """Compiled code of this computer's own; for a machine that is this computer it is right."""
    for name in ("any", "manylinux_2_17_x86_64", "linux_x86_64", "macosx_14_0_arm64"):
        wheel = tmp_path / f"thing-1.0-cp311-cp311-{name}.whl"
        wheel.touch()
        assert recipe([str(wheel)], project, same_computer=True).wheels == (wheel,)
        if "macosx" not in name:
            assert recipe([str(wheel)], project).wheels == (wheel,)
            continue
        with pytest.raises(SpecError, match=r"compiled for this computer \(macosx_14_0_arm64\)"):
            recipe([str(wheel)], project)


def test_a_path_without_a_project_is_refused(project: Path, tmp_path: Path) -> None:
    """And so is one that does not exist, and one that does not build, with the back end's words."""
    with pytest.raises(SpecError, match="does not exist"):
        recipe(["./nowhere"], project)
    with pytest.raises(SpecError, match="no Python project"):
        recipe([str(project)], project)
    broken = local_project(tmp_path / "broken")
    (broken / "backend.py").write_text("raise RuntimeError('what the back end says')\n")
    with pytest.raises(SpecError, match="what the back end says"):
        recipe([str(broken)], project)


def test_a_folder_that_has_become_a_project_since_is_one(tmp_path: Path) -> None:
    """A program goes on for days while its user writes."""
    assert not wheels.is_project(tmp_path)
    (tmp_path / "pyproject.toml").touch()
    assert wheels.is_project(tmp_path)


@pytest.mark.process
def test_a_requirements_file_is_read_with_its_includes(project: Path, tmp_path: Path) -> None:
    """Hashes, options and markers are kept; comments, Dayfly and local projects are not lines."""
    local_project(project / "library")
    (project / "more").mkdir()
    (project / "more" / "base.txt").write_text(
        "-r ../requirements.txt\nbase==1 \\\n  --hash=sha256:00\n"
    )
    (project / "requirements.txt").write_text(
        "# all\n-r more/base.txt\n--extra-index-url https://example.org/simple\n--find-links ./wheels\n"
        'other>2 ; sys_platform != "win32"  # why\ndayfly\n-e ./library\n'
    )
    made = recipe("requirements.txt", project, same_computer=True)
    assert lines(made) == [
        "base==1 --hash=sha256:00",
        "--extra-index-url https://example.org/simple",
        f"--find-links {(project / 'wheels').resolve()}",
        'other>2 ; sys_platform != "win32"',
    ]
    assert [wheel.name for wheel in made.wheels] == ["locallib-1.0-py3-none-any.whl"]
    assert made.source == "requirements.txt (3 packages)"


@pytest.mark.process
def test_a_marker_of_a_local_project_may_speak_of_the_machine(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which runs Linux, whatever this computer does."""
    library = local_project(tmp_path / "library")
    elsewhere = {**markers.default_environment(), "sys_platform": "darwin"}
    monkeypatch.setattr(markers, "default_environment", lambda: dict(elsewhere))
    for marker, there in (("linux", 1), ("darwin", 1), ("win32", 0)):
        made = recipe([f'{library} ; sys_platform == "{marker}"'], project, same_computer=True)
        assert len(made.wheels) == there


def test_constraints_go_beside_the_requirements(project: Path) -> None:
    """With those that they include; they are part of what the environment is, and options are none."""
    (project / "limits.txt").write_text("thing<2  # why\n-c more.txt\n")
    (project / "more.txt").write_text("other==1\n-c limits.txt\n")
    (project / "requirements.txt").write_text("--no-index\n-c limits.txt\nthing\n")
    made = recipe(None, project)
    assert lines(made) == ["--no-index", "thing"]
    assert made.constraints == "thing<2\nother==1\n"
    assert made.source == "requirements.txt (1 package)"
    (project / "more.txt").write_text("other==2\n")
    assert recipe(None, project).digest != made.digest
    (project / "more.txt").write_text("--pre\n")
    with pytest.raises(SpecError, match=r"more\.txt' holds the option '--pre'"):
        recipe(None, project)


@pytest.mark.parametrize(
    "name", ["requirements.txt", "uv.lock", "pyproject.toml", "sub/pylock.toml"]
)
def test_a_missing_file_is_named(project: Path, name: str) -> None:
    """With its path."""
    with pytest.raises(SpecError, match=name):
        recipe(name, project)


def test_a_missing_include_is_named(project: Path) -> None:
    """The file that names it and the path that it names."""
    (project / "requirements.txt").write_text("-r absent.txt\n")
    with pytest.raises(SpecError, match=r"requirements\.txt names .*absent\.txt"):
        recipe(None, project)
    (project / "requirements.txt").write_text("-c absent.txt\nnumpy\n")
    with pytest.raises(SpecError, match=r"requirements\.txt names .*absent\.txt"):
        recipe(None, project)


@pytest.mark.parametrize("option", ["-r ", "--requirement=", "-c "])
def test_an_include_of_the_web_is_refused_with_the_next_step(project: Path, option: str) -> None:
    """It may change between the plan and the machine; a file's own address is a path."""
    (project / "requirements.txt").write_text(f"{option}https://u:hidden@example.org/c.txt\nx\n")
    with pytest.raises(
        SpecError, match=r"includes 'https://.*@example\.org/c\.txt'.*download"
    ) as caught:
        recipe(None, project)
    assert "hidden" not in str(caught.value)
    (project / "more.txt").write_text("more==1\n")
    (project / "requirements.txt").write_text(f"{option}file://{project}/more.txt\nx\n")
    made = recipe(None, project)
    assert "more==1" in made.requirements + made.constraints


def test_options_that_uv_heeds_as_settings_alone_become_settings(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uv passes over them in a file with a warning; what this computer's own settings say counts more."""
    monkeypatch.setenv("UV_INSECURE_HOST", "own.example")
    monkeypatch.delenv("UV_PRERELEASE", raising=False)
    (project / "requirements.txt").write_text("x\n")
    plain = recipe(None, project)
    (project / "requirements.txt").write_text(
        "--pre\n--trusted-host one.example\n--trusted-host=two.example:8080\nx\n"
    )
    made = recipe(None, project)
    assert lines(made) == ["x"]
    assert made.variables["UV_PRERELEASE"] == "allow"
    assert made.variables["UV_INSECURE_HOST"] == "own.example one.example two.example:8080"
    assert made.digest != plain.digest
    monkeypatch.setenv("UV_PRERELEASE", "disallow")
    assert recipe(None, project).variables["UV_PRERELEASE"] == "disallow"


@pytest.mark.parametrize("named", ["./wheels", "{0}/wheels", "file://{0}/wheels", "absent"])
def test_a_folder_of_wheels_is_no_place_for_another_computer(project: Path, named: str) -> None:
    """Refused before anything is spent; what is written from the root and is not here may be the machine's own."""
    (project / "wheels").mkdir()
    named = named.format(project)
    (project / "requirements.txt").write_text(f"-f {named}\nx\n")
    place = project / ("absent" if named == "absent" else "wheels")
    here = recipe(None, project, same_computer=True)
    assert lines(here) == [f"--find-links {place.resolve()}", "x"]
    with pytest.raises(SpecError, match=f"has --find-links {named}, a folder of this computer"):
        recipe(None, project)
    for other in ("/opt/of-the-machine/wheels", "https://example.org/wheels"):
        (project / "requirements.txt").write_text(f"--find-links {other}\nx\n")
        assert lines(recipe(None, project))[0] == f"--find-links {other}"


def test_a_repository_without_a_commit_is_warned_of(project: Path) -> None:
    """A machine that keeps its environments would not look again; a password in its address is not shown."""
    sha = "0123456789" * 4
    for pinned in (
        f"p @ git+https://x.example/p@{sha}#subdirectory=s",
        f"git+ssh://git@x.example/p@{sha[:8]}",
    ):
        assert not any("commit" in said for said in recipe([pinned], project).warnings)
    moving = ["p @ git+https://u:hidden@x.example/p@main", "git+ssh://git@x.example/q"]
    (said,) = (said for said in recipe(moving, project).warnings if "commit" in said)
    assert "x.example/p@main, git+ssh://git@x.example/q: without a commit" in said
    assert "hidden" not in said


def test_a_file_with_a_hash_is_held_against_it(project: Path) -> None:
    """uv writes it so for a wheel that a lock file names; many hashes are no name that is too long."""
    wheel = project / "thing-1.0-py3-none-any.whl"
    wheel.write_bytes(b"content")
    right = hashlib.sha256(b"content").hexdigest()
    (project / "requirements.txt").write_text(
        f"./{wheel.name} --hash=sha256:{'0' * 64} \\\n  --hash=sha256:{right}\n"
        f"far @ https://x.example/far.whl{f' --hash=sha256:{right}' * 4}\n"
    )
    made = recipe(None, project)
    assert made.wheels == (wheel,)
    assert [line.partition(" --")[0] for line in lines(made)] == ["far @ https://x.example/far.whl"]
    wheel.write_bytes(b"another")
    with pytest.raises(SpecError, match=r"thing-1\.0-.*with a hash that it does not have"):
        recipe(None, project)


@pytest.mark.process
def test_dependencies_of_a_pyproject_are_read(project: Path) -> None:
    """With the sources that uv's table gives for them."""
    local_project(project / "library")
    (project / "pyproject.toml").write_text(
        '[project]\nname = "p"\nversion = "1"\ndependencies = ["numpy>2", "locallib", "forked[x]", "dayfly"]\n'
        '[tool.uv.sources]\nlocallib = { path = "library", editable = true }\n'
        'forked = { git = "https://example.org/forked", tag = "v1" }\n'
    )
    made = recipe(None, project)
    assert lines(made) == ["numpy>2", "forked[x] @ git+https://example.org/forked@v1"]
    assert len(made.wheels) == 1
    assert made.source == "pyproject.toml (3 packages)"


@pytest.mark.process
def test_a_source_is_for_the_machine_and_keeps_the_marker(project: Path) -> None:
    """Of several the one whose marker holds on Linux, for the extra or group that lists the dependency; else none of them."""
    local_project(project / "library")
    (project / "pyproject.toml").write_text(
        '[project]\nname = "p"\nversion = "1"\ndependencies = ["Several>1", "old; python_version < \'3\'", "deep[x]",\n'
        ' "zipped; python_version > \'3\'", "locallib; python_version > \'3\'", "only-mac", "torch"]\n'
        '[project.optional-dependencies]\ngpu = ["torch"]\nall = ["p[gpu]"]\n[dependency-groups]\nwork = ["torch"]\n'
        "[tool.uv.sources]\n"
        'several = [{ git = "https://example.org/m", marker = "sys_platform == \'darwin\'" },\n'
        ' { git = "https://example.org/l", branch = "main", marker = "sys_platform == \'linux\'" }]\n'
        'old = { git = "https://example.org/old" }\n'
        'deep = { git = "https://example.org/deep", rev = "v1", subdirectory = "python/deep" }\n'
        'zipped = { url = "https://example.org/z.zip", subdirectory = "z" }\n'
        'locallib = { path = "library" }\n'
        'only-mac = { index = "mine", marker = "sys_platform == \'darwin\'" }\n'
        'torch = [{ url = "https://example.org/torch.whl", extra = "gpu" }, { index = "mine", group = "work" }]\n'
    )
    made = recipe("pyproject.toml[all]", project)
    assert lines(made) == [
        "several @ git+https://example.org/l@main",
        "old; python_version < '3'",
        "deep[x] @ git+https://example.org/deep@v1#subdirectory=python/deep",
        'zipped @ https://example.org/z.zip#subdirectory=z ; python_version > "3"',
        "only-mac",
        "torch",
        "torch @ https://example.org/torch.whl",
    ]
    assert len(made.wheels) == 1
    with pytest.raises(SpecError, match="'torch' comes from the index 'mine' alone: run `uv lock`"):
        recipe(".[work]", project)


def test_a_private_index_among_several_sources_is_never_passed_over(project: Path) -> None:
    """A package of the same name on the public index is another's; and a marker must be one."""
    head = '[project]\nname = "p"\nversion = "1"\ndependencies = ["ml"]\n[tool.uv.sources]\n'
    (project / "pyproject.toml").write_text(head + 'ml = [{ index = "private" }]\n')
    with pytest.raises(SpecError, match="'ml' comes from the index 'private' alone"):
        recipe(None, project)
    (project / "pyproject.toml").write_text(head + 'ml = [{ index = "x", marker = "linux" }]\n')
    with pytest.raises(SpecError, match="the marker 'linux' is malformed"):
        recipe(None, project)


def test_constraints_of_uvs_table_hold_and_overrides_want_a_lock_file(project: Path) -> None:
    """The one can be said without a lock file, the other cannot."""
    head = '[project]\nname = "p"\nversion = "1"\ndependencies = ["thing"]\n[tool.uv]\n'
    (project / "pyproject.toml").write_text(head + 'constraint-dependencies = ["other<2"]\n')
    made = recipe(None, project)
    assert (lines(made), made.constraints) == (["thing"], "other<2\n")
    (project / "pyproject.toml").write_text(head + 'override-dependencies = ["other==3"]\n')
    with pytest.raises(SpecError, match=r"override-dependencies \['other==3'\]: run `uv lock`"):
        recipe(None, project)


def test_a_pyproject_without_readable_dependencies_is_refused_when_named(project: Path) -> None:
    """Dynamic ones, or another tool's own table; unnamed, the live environment is taken."""
    (project / "pyproject.toml").write_text('[tool.poetry]\nname = "p"\n')
    with pytest.raises(SpecError, match="requirements or lock file"):
        recipe("pyproject.toml", project)
    assert recipe(None, project).source.startswith(("live", "none"))
    (project / "pyproject.toml").write_text("[project\n")
    with pytest.raises(SpecError, match="cannot be read"):
        recipe("pyproject.toml", project)


def test_a_project_for_another_python_is_refused(project: Path) -> None:
    """Before spending, whatever file of it is used."""
    (project / "pyproject.toml").write_text('[project]\nname = "p"\nrequires-python = "<3.9"\n')
    for given in (None, "pyproject.toml"):
        with pytest.raises(SpecError, match=r"requires Python <3\.9"):
            recipe(given, project)


@pytest.mark.process
def test_a_standard_lock_file_is_read(project: Path) -> None:
    """Versions, markers, repositories and folders."""
    local_project(project / "library")
    (project / "pylock.toml").write_text(
        'lock-version = "1.0"\nrequires-python = ">=3.9"\ncreated-by = "x"\n'
        '[[packages]]\nname = "numpy"\nversion = "2.1"\nmarker = "python_version > \'3\'"\n'
        '[[packages]]\nname = "locallib"\n[packages.directory]\npath = "library"\n'
        '[[packages]]\nname = "vc"\n[packages.vcs]\ntype = "git"\nurl = "https://example.org/vc"\ncommit-id = "abc"\n'
        '[[packages]]\nname = "arch"\n[packages.archive]\nurl = "https://example.org/a.zip"\n'
    )
    made = recipe(None, project)
    assert lines(made) == [
        "numpy==2.1 ; python_version > '3'",
        "vc @ git+https://example.org/vc@abc",
        "arch @ https://example.org/a.zip",
    ]
    assert len(made.wheels) == 1
    assert made.source == "pylock.toml (4 packages)"


@pytest.mark.process
def test_a_uv_lock_comes_first_and_is_exact(project: Path) -> None:
    """Without development groups and the project itself; a local project that it locks becomes a wheel."""
    local_project(project / "library")
    (project / "requirements.txt").write_text("ignored\n")
    (project / "pyproject.toml").write_text(
        '[project]\nname = "p"\nversion = "1"\nrequires-python = ">=3.9"\ndependencies = ["locallib"]\n'
        '[tool.uv.sources]\nlocallib = { path = "library", editable = true }\n'
    )
    subprocess.run(
        [find_uv_bin(), "lock", "--quiet", "--offline", "--python", sys.executable],
        cwd=project,
        check=True,
    )
    made = recipe(None, project)
    assert (lines(made), len(made.wheels)) == ([], 1)
    assert made.source == "uv.lock (1 package)"
    (project / "pyproject.toml").unlink()
    with pytest.raises(SpecError, match=r"no pyproject\.toml beside it"):
        recipe("uv.lock", project)


def test_live_pins_what_is_installed_and_what_that_needs(project: Path, site: Path) -> None:
    """Markers and extras considered; the tools, and what only Dayfly needs, are left out."""
    distribution(
        site, "app", "Lib[fast]>=1", 'winlib; sys_platform == "win32"', 'opt; extra == "x"'
    )
    distribution(site, "lib", 'speed; extra == "fast"', version="2.0+cu121")
    for name in ("speed", "winlib", "pip"):
        distribution(site, name)
    distribution(site, "dayfly", "inner")
    distribution(site, "inner")
    distribution(site, "one", "two")
    distribution(site, "two", "one")
    made = recipe("live", project)
    assert lines(made) == [
        "app==1.0",
        "lib==2.0",
        "one==1.0",
        "speed==1.0",
        "two==1.0",
        "winlib==1.0",
    ]
    assert made.source == "live (6 packages)"


def test_live_includes_what_the_function_imports(project: Path, site: Path) -> None:
    """Also where only Dayfly requires it, and where the module is called otherwise."""
    distribution(site, "dayfly", "rich", "py-yaml")
    distribution(site, "rich")
    distribution(site, "py-yaml")
    (site / "py-yaml-1.0.dist-info" / "top_level.txt").write_text("yaml\n")
    assert lines(recipe("live", project, ["rich", "yaml", "absent"])) == [
        "py-yaml==1.0",
        "rich==1.0",
    ]


@pytest.mark.process
def test_live_ships_local_projects_but_not_the_users_own(project: Path, site: Path) -> None:
    """The project's code travels with the function; a wheel of it would be new at every edit."""
    distribution(site, "locallib")
    distribution(site, "own", "needed")
    distribution(site, "needed")
    distribution(site, "vc")
    library = local_project(project.parent / "library")
    for name, origin in {
        "locallib": f'{{"url": "file://{library}", "dir_info": {{"editable": true}}}}',
        "own": f'{{"url": "file://{project}", "dir_info": {{"editable": true}}}}',
        "vc": '{"url": "https://example.org/vc", "vcs_info": {"vcs": "git", "commit_id": "abc"}}',
    }.items():
        (site / f"{name}-1.0.dist-info" / "direct_url.json").write_text(origin)
    made = recipe(None, project)
    assert lines(made) == ["needed==1.0", "vc @ git+https://example.org/vc@abc"]
    assert [wheel.name for wheel in made.wheels] == ["locallib-1.0-py3-none-any.whl"]


def test_live_pins_what_was_installed_from_a_folder_that_is_gone(project: Path, site: Path) -> None:
    """Conda notes its build machine's for every package; of another it is said, and an editable one is nowhere."""
    gone = project.parent / "gone"
    for name in ("built", "copied", "deep", "zipped"):
        distribution(site, name)
    (site / "built-1.0.dist-info" / "INSTALLER").write_text("conda\n")
    for name, origin in {
        "built": '{"url": "file:///home/conda/feedstock_root/work", "dir_info": {}}',
        "copied": f'{{"url": "file://{gone}", "dir_info": {{}}}}',
        "deep": '{"url": "https://x.example/d", "vcs_info": {"vcs": "git", "commit_id": "abcdef0"}, "subdirectory": "py"}',
        "zipped": '{"url": "https://x.example/z.zip", "archive_info": {}, "subdirectory": "py"}',
    }.items():
        (site / f"{name}-1.0.dist-info" / "direct_url.json").write_text(origin)
    for _ in range(2):
        made = recipe("live", project, same_computer=True)
        assert lines(made) == [
            "built==1.0",
            "copied==1.0",
            "deep @ git+https://x.example/d@abcdef0#subdirectory=py",
            "zipped @ https://x.example/z.zip#subdirectory=py",
        ]
        (said,) = made.warnings
        assert f"copied was installed here from '{gone}'" in said
        gone.mkdir(exist_ok=True)  # Without a project it is as good as gone.
    (site / "copied-1.0.dist-info" / "direct_url.json").write_text(
        f'{{"url": "file://{gone}", "dir_info": {{"editable": true}}}}'
    )
    with pytest.raises(
        SpecError, match=r"copied 1\.0 is installed here as editable .*uninstall copied"
    ):
        recipe("live", project)


def test_a_virtual_environment_with_dayfly_only_is_empty(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real one: nothing has to be installed for a function of the standard library."""
    venv = tmp_path / "venv"
    subprocess.run(
        [find_uv_bin(), "venv", "--quiet", "--python", sys.executable, str(venv)], check=True
    )
    site = next((venv / "lib").glob("python3*")) / "site-packages"
    distribution(site, "dayfly", "rich")
    distribution(site, "rich")
    monkeypatch.setattr(sys, "path", [str(site)])
    made = recipe(None, project)
    assert made.empty
    assert made.source == "none (standard library only)"


def test_settings_of_pip_become_settings_of_uv(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may hold passwords, which are in no repr and do not change the digest."""
    plain = recipe(["numpy"], project)
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:hidden@example.org/simple")
    monkeypatch.setenv("TOKEN_OF_MINE", "hidden")
    monkeypatch.delenv("UV_DEFAULT_INDEX", raising=False)
    monkeypatch.delenv("UV_INDEX_URL", raising=False)
    made = recipe(["numpy"], project)
    assert made.variables["UV_DEFAULT_INDEX"] == "https://user:hidden@example.org/simple"
    assert "hidden" not in repr(made)
    assert made.digest != plain.digest
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:changed@example.org/simple")
    assert recipe(["numpy"], project).digest == made.digest
    (project / "requirements.txt").write_text(
        "--index-url https://${TOKEN_OF_MINE}@example.org/simple\nx\n"
    )
    assert recipe(None, project).variables["TOKEN_OF_MINE"] == "hidden"


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("UV_EXCLUDE_NEWER", "2025-01-01", "2026-01-01"),
        ("UV_RESOLUTION", "highest", "lowest"),
        ("UV_PRERELEASE", "allow", "if-necessary"),
        ("UV_DEFAULT_INDEX", "https://public.invalid/simple", "https://u:p@own.invalid/simple"),
        ("PIP_EXTRA_INDEX_URL", "https://own.invalid/a", "https://own.invalid/b"),
        ("UV_INDEX", "own=https://u:p@own.invalid/a", "own=https://u:p@own.invalid/b"),
    ],
)
def test_another_setting_makes_another_environment(
    project: Path, monkeypatch: pytest.MonkeyPatch, name: str, first: str, second: str
) -> None:
    """The same lines may stand for other files; what came from another index is not used again."""
    monkeypatch.delenv("UV_EXTRA_INDEX_URL", raising=False)
    digests = []
    for value in (first, second, first):
        monkeypatch.setenv(name, value)
        digests.append(recipe(["numpy"], project).digest)
    assert digests[0] == digests[2] != digests[1]


def test_how_something_is_reached_makes_no_other_environment(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor by whom; but an address that is put together from variables is what they make of it."""
    (project / "requirements.txt").write_text(
        "--index-url https://${OWN_USER}:${OWN_PASSWORD}@${OWN_HOST}/simple\nnumpy\n"
    )
    for name in ("OWN_USER", "OWN_PASSWORD", "OWN_HOST"):
        monkeypatch.setenv(name, "first")
    first = recipe(None, project).digest
    for name in ("OWN_USER", "OWN_PASSWORD", "UV_INDEX_OWN_PASSWORD", "UV_HTTP_TIMEOUT"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:word@proxy.invalid:8080")
    assert recipe(None, project).digest == first
    monkeypatch.setenv("OWN_HOST", "second")
    assert recipe(None, project).digest != first


def test_dayflys_own_checkout_is_no_users_project(
    project: Path, site: Path, tmp_path: Path
) -> None:
    """Its dependencies are for this computer; its examples need none of them."""
    (project / "pyproject.toml").write_text(
        '[project]\nname = "dayfly"\ndependencies = ["pulumi"]\n'
    )
    assert recipe(None, project).empty


@pytest.mark.network
def test_an_editable_distribution_is_built_by_its_own_back_end(
    project: Path, tmp_path: Path
) -> None:
    """setuptools comes from the index; the wheel holds the module."""
    library = tmp_path / "library"
    library.mkdir()
    (library / "setup.py").write_text(
        "from setuptools import setup\nsetup(name='old', py_modules=['old'])\n"
    )
    (library / "old.py").write_text("VALUE = 1\n")
    made = recipe([f"-e {library}"], project)
    with zipfile.ZipFile(made.wheels[0]) as archive:
        assert "old.py" in archive.namelist()


@pytest.mark.network
def test_uv_for_another_platform_is_fetched(tmp_path: Path) -> None:
    """In this computer's version; its own platform needs no fetching, an unknown one is refused."""
    path = environment.uv_binary("darwin-arm64", cache=tmp_path)
    assert path.read_bytes()[:4] == bytes.fromhex("cffaedfe")
    assert environment.uv_binary("darwin-arm64", cache=tmp_path) == path
    system = os.uname()
    own = environment.uv_binary(f"{system.sysname.lower()}-{system.machine}", cache=tmp_path)
    assert own == Path(find_uv_bin())
    with pytest.raises(SpecError, match="not made for"):
        environment.uv_binary("plan9-mips", cache=tmp_path)


@pytest.mark.process
def test_a_build_that_does_not_end_is_ended_with_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build backend that waits for an input must not keep a call for ever."""
    uv = tmp_path / "uv"
    uv.write_text(f"#!/bin/sh\nsleep 600 &\necho $! >{tmp_path}/child\nwait\n")
    uv.chmod(0o755)
    monkeypatch.setattr(wheels, "own_uv", lambda: uv)
    monkeypatch.setattr(wheels, "_UV_LIMIT_S", 1.0)
    with pytest.raises(SpecError, match="the build: uv did not end in 1 s"):
        wheels.run_uv(["build"], "the build")
    child = int((tmp_path / "child").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
