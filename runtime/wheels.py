"""Wheels built on this computer from local projects, and the uv binary for another platform."""

from __future__ import annotations

import functools
import hashlib
import os
import platform as this_platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dayfly.errors import SpecError
from dayfly.runtime.ignore import Ignore
from dayfly.runtime.redact import redact
from dayfly.runtime.tree import printable
from dayfly.stacks import isolated

_NOT_SOURCE = frozenset(
    {".git", ".hg", ".venv", "__pycache__", "node_modules"}
    | {".mypy_cache", ".pytest_cache", ".ruff_cache", ".tox", ".nox", ".ipynb_checkpoints"}
)
# What building leaves in the project's own folder; below it a package may have such a name.
_BUILT = frozenset({"build", "dist"})
_TOLD = 5
# A wheel with a compiler's work in it takes minutes.
_UV_LIMIT_S = 3600.0
_TRIPLES = {
    ("linux", "x86_64", "musl"): "x86_64-unknown-linux-musl",
    ("linux", "aarch64", "musl"): "aarch64-unknown-linux-musl",
    ("linux", "x86_64", ""): "x86_64-unknown-linux-gnu",
    ("linux", "aarch64", ""): "aarch64-unknown-linux-gnu",
    ("darwin", "x86_64", ""): "x86_64-apple-darwin",
    ("darwin", "arm64", ""): "aarch64-apple-darwin",
}


@dataclass(frozen=True)
class WheelBuilder:
    """Builds local projects into `folder`, once for each state of their sources.

    Attributes:
        warnings: what should be said of the wheels that were asked for.
    """

    folder: Path
    warnings: list[str] = field(default_factory=list, compare=False)

    def build(self, project: Path) -> Path:
        """Give the wheel of a local project, or the local wheel itself.

        Raises:
            SpecError: there is no project, or its build backend failed; with the backend's words.
        """
        if project.suffix == ".whl" and project.is_file():
            return project
        if project.is_file():
            return self._built(project, hashlib.sha256(project.read_bytes()).hexdigest())
        if not is_project(project):
            raise SpecError(f"{str(project)!r} is no Python project: no pyproject.toml or setup.py")
        wheel = self._built(project, _fingerprint(project))
        self.warnings.extend(_secrets_in(project, wheel))
        return wheel

    def _built(self, project: Path, fingerprint: str) -> Path:
        kept = self.folder / "wheels" / fingerprint
        for wheel in kept.glob("*.whl"):
            return wheel
        kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=kept.parent) as aside:
            out = Path(aside) / "out"
            _uv_build(project, out)
            try:
                out.rename(kept)
            except OSError:  # Another process was first.
                if not kept.is_dir():
                    raise
        return next(kept.glob("*.whl"))


def is_project(folder: Path) -> bool:
    """Whether a wheel could be built of it."""
    return any((folder / name).is_file() for name in ("pyproject.toml", "setup.py"))


@functools.lru_cache(maxsize=256)
def _secrets_in(project: Path, wheel: Path) -> tuple[str, ...]:
    """Names what was to stay here: a build back end knows no .dayflyignore, and some take all that lies in a package."""
    ignore = Ignore.of(project)
    with zipfile.ZipFile(wheel) as archive:
        names = [name.lstrip("/") for name in archive.namelist() if not name.endswith("/")]
    found = [(name, reason) for name in names if (reason := ignore.reason(_origin(project, name)))]
    if not found:
        return ()
    shown = "; ".join(f"{printable(name)}: {reason}" for name, reason in found[:_TOLD])
    more = f"; and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
    return (
        f"the wheel of the local project {str(project)!r} takes along what would stay here ({shown}{more}): leave it out in the"
        " project's own build settings, or allow it in its .dayflyignore, as in !credentials.py",
    )


def _origin(project: Path, name: str) -> Path:
    """Where in the project a file of its wheel comes from, in either of the usual layouts."""
    below = project / "src" / name
    return below if below.exists() else project / name


def content_digest(wheel: Path) -> str:
    """SHA-256 of what a wheel holds: the same for two builds of the same source, whose times differ."""
    status = wheel.stat()
    return _content_digest(wheel, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=256)
def _content_digest(wheel: Path, modified_ns: int, size: int) -> str:
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive:
        for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):
            content = hashlib.sha256(archive.read(entry)).hexdigest()
            digest.update(f"{entry.filename}\0{content}\n".encode())
    return digest.hexdigest()


def uv_binary(platform: str, libc: str = "", *, cache: Path) -> Path:
    """Give uv for the machine's platform, in this computer's version of uv.

    Args:
        platform: "linux-x86_64", "darwin-arm64", ...
        libc: "musl" for a machine that has no glibc.
        cache: keeps the binaries.

    Raises:
        SpecError: uv does not exist for that platform, or could not be fetched.
    """
    from importlib.metadata import version

    system, _, cpu = platform.partition("-")
    musl = "musl" if libc == "musl" else ""
    if (system, cpu, musl) == (sys.platform, this_platform.machine(), ""):
        return own_uv()
    triple = _TRIPLES.get((system, cpu, musl))
    if triple is None:
        raise SpecError(
            f"uv is not made for {platform} {libc}; it is for {sorted(_TRIPLES.values())}"
        )
    wanted = version("uv")
    target = cache / "uv" / f"{wanted}-{triple}"
    if not (target / "uv").exists():
        _fetch_uv(wanted, triple, target)
    return target / "uv"


def own_uv() -> Path:
    """This computer's uv, as installed with Dayfly."""
    from uv import find_uv_bin

    return Path(find_uv_bin())


def run_uv(arguments: Sequence[str], failed: str) -> str:
    """Run uv and give what it printed.

    Raises:
        SpecError: it failed, or did not end; `failed` and its own words.
    """
    # Reproducible archives: the same source gives the same wheel.
    variables = {**os.environ, "SOURCE_DATE_EPOCH": "315532800", "UV_NO_PROGRESS": "1"}
    command = [str(own_uv()), *arguments]
    with subprocess.Popen(
        command,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # So that its end is that of the build backends below it too.
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=_UV_LIMIT_S)
        except BaseException as error:
            isolated.end(process)
            if isinstance(error, subprocess.TimeoutExpired):
                raise SpecError(f"{failed}: uv did not end in {_UV_LIMIT_S:.0f} s") from None
            raise
    if process.returncode:
        raise SpecError(f"{failed}:\n{redact(errors.strip()[-4000:])}")
    return output


def _uv_build(project: Path, out: Path) -> None:
    options = ["--wheel", "--out-dir", str(out), "--no-create-gitignore"]
    options += ["--python", sys.executable, "--no-python-downloads"]
    run_uv(["build", *options, str(project)], f"the local project {str(project)!r} cannot be built")


def _fetch_uv(wanted: str, triple: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=target.parent) as aside:
        arguments = ["pip", "install", "--target", aside, "--python-platform", triple, "--quiet"]
        arguments += [
            "--python",
            sys.executable,
            "--no-deps",
            "--only-binary",
            ":all:",
            f"uv=={wanted}",
        ]
        run_uv(arguments, f"uv {wanted} for {triple} could not be fetched")
        ready = Path(aside) / "ready"
        ready.mkdir()
        shutil.move(Path(aside) / "bin" / "uv", ready / "uv")
        try:
            ready.rename(target)
        except OSError:  # Another process was first.
            if not (target / "uv").exists():
                raise


def _fingerprint(project: Path) -> str:
    """Changes whenever a source file may have changed; reading their times is enough and takes no time."""
    digest = hashlib.sha256(f"{project.resolve()}\0{sys.version_info[:2]}\n".encode())
    for path in sorted(_source_files(project)):
        facts = path.stat()
        line = f"{path.relative_to(project)}\0{facts.st_size}\0{facts.st_mtime_ns}\n"
        digest.update(line.encode())
    return digest.hexdigest()


def _source_files(project: Path) -> Iterator[Path]:
    # By folder: the identities of it and of all that it was come to through, so that a link back to one ends there.
    ways = {project: frozenset({_identity(project)})}
    for folder, names, files in os.walk(project, followlinks=True):
        here = Path(folder)
        way = ways.pop(here)
        names[:] = [name for name in names if _may_hold_source(here / name, project)]
        names[:] = [name for name in names if _identity(here / name) not in way]
        ways |= {here / name: way | {_identity(here / name)} for name in names}
        yield from (path for name in files if (path := here / name).is_file())


def _may_hold_source(folder: Path, project: Path) -> bool:
    at_top = folder.parent == project
    if folder.name in _NOT_SOURCE or folder.name.endswith(".egg-info"):
        return False
    if (at_top and folder.name in _BUILT) or (folder / "pyvenv.cfg").exists():
        return False
    # A data set of millions of files is linked into the root of many a project.
    return not (at_top and folder.is_symlink()) or _holds_code(folder)


def _holds_code(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in ("*.py", "*/__init__.py"))


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
