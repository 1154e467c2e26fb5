"""Lock files: uv's own and the standard one (PEP 751) as lines for uv, exactly as locked."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from dayfly.errors import SpecError
from dayfly.infra.units import suggestion
from dayfly.runtime import pyproject, toml_file
from dayfly.runtime.index_files import indexes, uv_tables
from dayfly.runtime.requirements import (
    Reader,
    Requirements,
    logical_lines,
    with_subdirectory,
)
from dayfly.runtime.wheels import WheelBuilder, run_uv

# Other tools' files, and what their users can do: none of them is guessed at.
FOREIGN = {
    "poetry.lock": "`poetry export -o requirements.txt` writes one that can be read",
    "pdm.lock": "`pdm export -f pylock -o pylock.toml` writes one that can be read",
    "Pipfile.lock": "`pipenv requirements > requirements.txt` writes one that can be read",
    "Pipfile": "`pipenv requirements > requirements.txt` writes one that can be read",
    "environment.yml": "conda's packages are not uv's: list those of its pip section, and the rest by their names on an index",
    "environment.yaml": "conda's packages are not uv's: list those of its pip section, and the rest by their names on an index",
    "conda-lock.yml": "conda's packages are not uv's: list what the function needs by its names on an index",
    "pixi.lock": "conda's packages are not uv's: list what the function needs by its names on an index",
}
_OF_EXTRA = re.compile(r"(['\"])([^'\"]+)\1\s+(not\s+)?in\s+(?:extras|dependency_groups)")
# Of those that the format allows the ones that uv knows.
_ALGORITHMS = ("sha256", "sha512", "sha384", "blake2b")
# What is always so, and what never is, in the words of a marker.
_ALWAYS, _NEVER = 'python_version >= "0"', 'python_version < "0"'


def of_uv_lock(
    path: Path, builder: WheelBuilder, extras: Sequence[str] = (), member: Path | None = None
) -> Requirements:
    """From uv's lock file, exactly as locked and with its hashes, without development groups.

    Args:
        path: the lock file.
        builder: builds what is local, and keeps what uv made of the lock file.
        extras: names of optional dependencies or of dependency groups.
        member: the project that is meant, where the lock file is that of a workspace.
    """
    project = path.parent / "pyproject.toml"
    if not project.is_file():
        raise SpecError(f"{str(path)!r} has no pyproject.toml beside it, which uv needs to read it")
    options = ["--frozen", "--no-dev", "--no-emit-project", "--no-header", "--no-annotate"]
    options += ["--prune", "dayfly", "--project", str(path.parent), "--quiet"]
    options += ["--python", sys.executable, "--no-python-downloads"]
    if member is not None:
        project = member / "pyproject.toml"
        options += ["--package", str(toml_file.read(project)["project"]["name"])]
    optional, groups = pyproject.split_extras(project, extras)
    options += [part for name in optional for part in ("--extra", name)]
    options += [part for name in groups for part in ("--group", name)]
    reader = Reader(builder, path.name)
    reader.lines += (f"--extra-index-url {url}" for url in _explicit_indexes(path))
    mixed = bool(reader.lines)
    text = _exported(path, project, builder, options)
    for line in logical_lines(text):
        reader.add(line, path.parent)
    return dataclasses.replace(reader.result(), any_index=mixed)


def _exported(path: Path, project: Path, builder: WheelBuilder, options: Sequence[str]) -> str:
    """What uv makes of a lock file, kept for the next call with the same content: starting uv takes its time."""
    digest = hashlib.sha256("\0".join([version("uv"), *options]).encode())
    for file in (path, path.parent / "pyproject.toml", project):
        digest.update(file.read_bytes())
    kept = builder.folder / "exports" / digest.hexdigest()
    if kept.is_file():
        return kept.read_text()
    text = run_uv(["export", *options], f"uv cannot read {str(path)!r}")
    kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # It may name an index with its password.
    aside = kept.with_suffix(f".{os.getpid()}-{os.urandom(4).hex()}")
    aside.touch(mode=0o600)
    aside.write_text(text)
    aside.replace(kept)
    return text


def _explicit_indexes(path: Path) -> list[str]:
    """Those that only the packages come from that name them, as far as there are such packages."""
    declared = {
        index.url.rstrip("/"): index.url
        for table in uv_tables(path.parent, {})
        for index in indexes(table)
        if index.explicit
    }
    # Parsing a long lock file takes longer than all the rest.
    text = path.read_text() if declared else ""
    used = {url.rstrip("/") for url in re.findall(r'registry = "([^"]+)"', text)}
    return [declared[url] for url in sorted(declared.keys() & used)]


def workspace_of(root: Path) -> Path | None:
    """The lock file of the workspace that a project is a member of which has none of its own."""
    name = toml_file.read(root / "pyproject.toml").get("project", {}).get("name")
    for folder in root.parents if name else ():
        lock = folder / "uv.lock"
        if lock.is_file() and (folder / "pyproject.toml").is_file():
            head = lock.read_text().partition("[[package]]")[0]
            members = tomllib.loads(head).get("manifest", {}).get("members", ())
            return lock if canonicalize_name(name) in map(canonicalize_name, members) else None
        if (folder / ".git").exists():
            break
    return None


def of_pylock(path: Path, builder: WheelBuilder, extras: Sequence[str] = ()) -> Requirements:
    """From a lock file of the standard format (PEP 751), with its hashes.

    Raises:
        SpecError: it cannot be read, is not for this Python, or has no such extra.
    """
    content = toml_file.read(path)
    pyproject.check_range(content.get("requires-python"), path)
    known = [*content.get("extras", ()), *content.get("dependency-groups", ())]
    for extra in extras:
        if extra not in known:
            raise SpecError(
                f"{str(path)!r} has no extra or dependency group {extra!r}; {suggestion(extra, known)}"
            )
    chosen = {*extras, *content.get("default-groups", ())}
    reader = Reader(builder, path.name)
    packages = content.get("packages", ())
    urls = {str(package["index"]) for package in packages if package.get("index")}
    # Of one index nothing has to be said: it is the one that this computer's settings name.
    mixed = len(urls) > 1
    reader.lines += [f"--extra-index-url {url}" for url in sorted(urls)] if mixed else []
    for package in packages:
        reader.add(_locked(package, chosen), path.parent)
    return dataclasses.replace(reader.result(), any_index=mixed)


def _locked(package: Mapping[str, Any], chosen: set[str]) -> str:
    name = package["name"]
    hashes = ""
    if "directory" in package:
        line = f"{name} @ {package['directory']['path']}"
    elif "vcs" in package:
        vcs = package["vcs"]
        url = f"{vcs['type']}+{vcs.get('url') or vcs['path']}@{vcs['commit-id']}"
        line = f"{name} @ {with_subdirectory(url, vcs.get('subdirectory'))}"
    elif "archive" in package:
        archive = package["archive"]
        place = archive.get("url") or archive["path"]
        line = f"{name} @ {with_subdirectory(place, archive.get('subdirectory'))}"
        hashes = _options([archive])
    else:
        line = f"{name}=={package['version']}"
        hashes = _options([*package.get("wheels", ()), *filter(None, [package.get("sdist")])])
    marker = package.get("marker")
    return f"{line} ; {_decided(marker, chosen)}{hashes}" if marker else f"{line}{hashes}"


def _options(files: Sequence[Mapping[str, Any]]) -> str:
    """The hashes of one package's files."""
    found = [
        next((f" --hash={name}:{known[name]}" for name in _ALGORITHMS if name in known), "")
        for known in (file.get("hashes", {}) for file in files)
    ]
    # One file without would be refused for it.
    return "".join(found) if all(found) else ""


def _decided(marker: str, chosen: set[str]) -> str:
    """A marker of a lock file, what it says of extras and groups decided: a requirement has no words for that."""

    def decide(found: re.Match[str]) -> str:
        return _ALWAYS if (found[2] in chosen) != bool(found[3]) else _NEVER

    return _OF_EXTRA.sub(decide, marker)
