"""Code of Dayfly that travels by value with a call that has Data: on the machine it fetches from what fsspec knows.

Dayfly is not installed there, so what stands here uses the standard library and fsspec.
"""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dayfly.runtime.agent.credentials import check_credentials

if TYPE_CHECKING:
    from dayfly.runtime.fetched import Progress, Store

TRIES = 6
_AT_ONCE = 8
# A file of more than this size comes in pieces of it, several at once: what breaks is fetched again, and nothing else.
PIECE_BYTES = 16 << 20
PAUSE_S = 0.2
# Trying again would change nothing.
_FINAL = (FileNotFoundError, PermissionError, ImportError, ValueError, TypeError)
# What says which version of an object it is, the same in a listing and when it is asked for by itself.
_MARKS = ("generation", "ETag", "etag", "blob_id")


def from_file_system(
    store: Store,
    place: Path,
    url: str,
    sha256: str | None,
    *,
    options: Mapping[str, Any],
    progress: Progress,
) -> tuple[Path, int]:
    """Fetch a file or a folder, of which only what is not here in that version comes; give its path and size."""
    from fsspec.core import url_to_fs

    system, root = url_to_fs(url, **options)
    check_credentials(system)
    # One process has one of them for each set of options, with what it has listed before.
    system.invalidate_cache()
    root = root.rstrip("/")
    is_folder = system.isdir(root)
    found = system.find(root, detail=True) if is_folder else {root: system.info(root)}
    if not found:
        raise FileNotFoundError("nothing is there")
    if sha256 is not None and is_folder:
        raise ValueError("sha256= is for one file, and this is a folder")
    versions = {name: _version(system, name, info) for name, info in found.items()}
    missing = [name for name in found if store.known(versions[name]) is None]
    sizes = {name: int(info.get("size") or 0) for name, info in found.items()}
    progress.total = sum(sizes[name] for name in missing)
    store.check_room(progress.total)

    def fetch(name: str) -> None:
        part = store.part()
        try:
            _bring(system, name, part, sizes[name], progress.add)
            if sizes[name] > PIECE_BYTES:
                _check_unchanged(system, name, versions[name])
            check_version(part, found[name], name)
            if sha256 is not None:
                check_digest(digest_of(part), sha256)
            store.keep(part, versions[name])
        finally:
            if part.exists():
                part.unlink()

    _each(fetch, [name for name in missing if sizes[name] <= PIECE_BYTES])
    for name in missing:
        if sizes[name] > PIECE_BYTES:
            fetch(name)
    base = root.rpartition("/")[2] or "data"
    for name in found:
        told = store.known(versions[name])
        if told is None:
            raise OSError(f"{name} went while it was fetched")
        check_digest(told["digest"], sha256)
        below = name[len(root) :].lstrip("/") if is_folder else ""
        if ".." in below.split("/"):
            raise OSError(f"{name} leads out of its folder")
        store.lay(told["digest"], place / base / below if below else place / base)
    return place / base, sum(sizes.values())


def _version(system: Any, name: str, info: Mapping[str, Any]) -> str:
    """Name one version of one object."""
    marks = [f"{mark}={str(info[mark]).strip(chr(34))}" for mark in _MARKS if info.get(mark)]
    # Some have no mark that can be relied on; then it is all that is said of it.
    mark = marks[0] if marks else system.ukey(name)
    return f"{system.protocol}:{name}:{info.get('size')}:{mark}"


def _check_unchanged(system: Any, name: str, version: str) -> None:
    """Refuse what may be made of two versions."""
    system.invalidate_cache()
    if _version(system, name, system.info(name)) != version:
        raise OSError(f"{name} was changed while it was fetched")


def _bring(system: Any, name: str, part: Path, size: int, came: Callable[[int], None]) -> None:
    if size <= PIECE_BYTES:
        again(lambda: system.get_file(name, str(part)))
        came(size)
        return
    with part.open("wb") as file:
        file.truncate(size)

        def bring(start: int) -> None:
            end = min(start + PIECE_BYTES, size)

            def ask() -> bytes:
                data: bytes = system.cat_file(name, start=start, end=end)
                if len(data) != end - start:
                    raise OSError(f"{len(data)} of {end - start} bytes of {name} came")
                return data

            os.pwrite(file.fileno(), again(ask), start)
            came(end - start)

        _each(bring, range(0, size, PIECE_BYTES))


def _is_final(error: Exception) -> bool:
    return isinstance(error, _FINAL)


def again(
    act: Callable[[], Any],
    is_final: Callable[[Exception], bool] = _is_final,
    asked_s: Callable[[Exception], float] = lambda _: 0.0,
) -> Any:
    """Do it, and again where that may help: a connection that breaks raises whatever its library has for that.

    Args:
        act: what is done.
        is_final: tells of an error that trying again would change nothing; left out, it is that of fsspec's file systems.
        asked_s: tells how long an error asks to wait before it is tried again; left out, none does.
    """
    for left in reversed(range(TRIES)):
        try:
            return act()
        except Exception as error:
            if not left or is_final(error):
                raise
            time.sleep(max(asked_s(error), PAUSE_S * (TRIES - left)))
    return None


def _each(act: Callable[[Any], None], items: Iterable[Any]) -> None:
    # Loaded here: once a process has begun to end, and its jobs are seen out, this module cannot be loaded any more.
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(act, items))


# -- what a file is held against


def check_version(part: Path, info: Mapping[str, Any], name: str) -> None:
    """Hold a file against what was said of it: its size, and its digest where one was.

    Raises:
        OSError: it is another one.
    """
    size = info.get("size")
    if size is not None and part.stat().st_size != int(size):
        raise OSError(f"{name} has {part.stat().st_size} bytes, and {size} were announced")
    told = _announced(info)
    if told is None:
        return
    label, digest, expected = told
    with part.open("rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    if digest.hexdigest() != expected:
        raise OSError(f"{name} is not what its {label} says")


def _announced(info: Mapping[str, Any]) -> tuple[str, Any, str] | None:
    """What its digest is called, how it is taken, and what it must be; None where none was said."""
    tag = str(info.get("ETag") or "").strip('"')
    encrypted = str(info.get("ServerSideEncryption") or "").startswith("aws:kms")
    # S3's are MD5s, but for what was uploaded in parts, or encrypted with a key of the customer's.
    if len(tag) == 32 and not encrypted and all(c in "0123456789abcdef" for c in tag):
        return "ETag", hashlib.md5(usedforsecurity=False), tag
    google = info.get("md5Hash")
    # What is kept compressed there may be unpacked on its way.
    if google and not info.get("contentEncoding"):
        return "md5Hash", hashlib.md5(usedforsecurity=False), base64.b64decode(google).hex()
    large, blob = info.get("lfs"), info.get("blob_id")
    if large:
        by_name = isinstance(large, Mapping)
        sha256 = large.get("sha256") if by_name else getattr(large, "sha256", None)
        return ("SHA-256", hashlib.sha256(), str(sha256)) if sha256 else None
    if blob:
        # As Git has it.
        head = f"blob {info.get('size')}\0".encode()
        return "Git id", hashlib.sha1(head, usedforsecurity=False), str(blob)
    return None


def digest_of(path: Path) -> str:
    """The SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def check_digest(digest: str, sha256: str | None) -> None:
    """Refuse what is not what was asked for.

    Raises:
        OSError: with both.
    """
    if sha256 is not None and digest != sha256:
        raise OSError(f"its SHA-256 is {digest}, and not {sha256}")
