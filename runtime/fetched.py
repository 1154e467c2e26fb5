"""Code of Dayfly that travels by value with a call that has Data: on the machine it gives the paths, and fetches from URLs.

Dayfly is not installed there, so what stands here uses the standard library, and fsspec for what is no web server.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dayfly.infra.retry_after import seconds
from dayfly.runtime.fetched_objects import (
    PAUSE_S,
    TRIES,
    again,
    check_digest,
    digest_of,
    from_file_system,
)

# As the agent marks content: whoever changes it in place later changes its time, too.
STAMP = 946684800
_LARGE_BYTES = 10 * 10**9
_TIMEOUT_S = 60
# It took too long to ask, or one asks too often: what a server says, besides its own errors, that is over in a moment.
_BUSY = (408, 429)
# A machine costs money while it waits, and the next run may as well come later.
_LONGEST_WAIT_S = 60.0
_UNUSED_S = 7 * 86400.0
_TOLD_EVERY_S = 10.0
# A shorter value masks half of every line, and is none of a secret's.
_SECRET_CHARACTERS = 6


def given(key: str) -> Path:
    """Where what the client has sent under a key is."""
    return Path(json.loads(os.environ["DAYFLY_DATA"])["paths"][key])


def fetched(key: str, url: str, sha256: str | None, options: Mapping[str, Any]) -> Path:
    """Fetch what is behind a URL, unless it is here in that version, and give the path of it.

    The calls of a session share what the first of them has fetched.

    Raises:
        OSError: it cannot be had, is not what `sha256` says, or has no room.
    """
    import fcntl

    told = json.loads(os.environ["DAYFLY_DATA"])
    store = Store(Path(told["store"]).expanduser())
    place = Path.home() / f"data-{os.environ['DAYFLY_RUN']}" / key
    if not told.get("shared"):
        return _fetch(store, place, url, sha256, options)
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    note = place.parent / f"{key}.path"
    with (place.parent / f"{key}.lock").open("a") as lock:
        # Whoever comes meanwhile waits; where the one that fetches dies, the next one does it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not note.exists():
            aside = place.parent / f"{key}.{os.getpid()}.part"
            aside.write_text(str(_fetch(store, place, url, sha256, options)))
            aside.replace(note)
        return Path(note.read_text())


def _fetch(
    store: Store, place: Path, url: str, sha256: str | None, options: Mapping[str, Any]
) -> Path:
    shown = url.partition("?")[0]
    began = time.monotonic()
    progress = Progress(shown)
    try:
        if url.lower().startswith(("http://", "https://")):
            path, size = _from_web(store, place, url, sha256, progress)
        else:
            path, size = from_file_system(
                store, place, url, sha256, options=options, progress=progress
            )
    except ImportError as error:
        raise OSError(
            f"Data({shown!r}) could not be fetched: what fetches from there is not installed on the machine ({error}); add it"
            " to environment=: that of a session is made before its calls are known"
        ) from error
    except Exception as error:  # noqa: BLE001 - each file system has its own; raised below as one kind
        said, cause = _said(error, _secrets(url, options))
        raise OSError(f"Data({shown!r}) could not be fetched: {said}") from cause
    store.prune()
    took = time.monotonic() - began
    large = (
        ", which file_systems= or a machine nearer to it may save" if size > _LARGE_BYTES else ""
    )
    print(f"dayfly: {shown}: {size / 1e6:.1f} MB, {took:.1f} s{large}", file=sys.stderr, flush=True)
    return path


def _said(error: Exception, secrets: list[str]) -> tuple[str, Exception | None]:
    """The words of an error without what must not be shown, and itself where its lines hold nothing of that."""
    import traceback

    told = "".join(traceback.format_exception(error))
    cause = error if _cleared(told, secrets) == told else None
    return _cleared(f"{type(error).__name__}: {error}", secrets), cause


def _secrets(url: str, options: Mapping[str, Any]) -> list[str]:
    """What of a URL and of the options for its file system is never shown, the longest first."""
    found = {url.partition("?")[2]}
    waiting: list[Any] = [options]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, str):
            found |= {value, *value.splitlines()}
    return sorted((s for s in found if len(s) >= _SECRET_CHARACTERS), key=len, reverse=True)


def _cleared(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "[secret]")
    return text


class Progress:
    """Says on the function's stderr how far a fetch is that takes long."""

    def __init__(self, shown: str) -> None:
        import threading

        self.total = 0
        self._shown, self._have = shown, 0
        self._told = time.monotonic()
        self._adding = threading.Lock()

    def add(self, size: int) -> None:
        """So many more bytes are here."""
        with self._adding:
            self._have += size
            if time.monotonic() < self._told + _TOLD_EVERY_S:
                return
            self._told = time.monotonic()
            of = f" of {self.total / 1e6:.1f}" if self.total > 0 else ""
            print(
                f"dayfly: {self._shown}: {self._have / 1e6:.1f}{of} MB so far",
                file=sys.stderr,
                flush=True,
            )


class Store:
    """Contents by digest, and by which version of which URL they were."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def known(self, version: str) -> dict[str, Any] | None:
        """What was fetched as this version, where it is here as it came."""
        try:
            told: dict[str, Any] = json.loads(self._note(version).read_bytes())
            status = self.content(told["digest"]).stat()
        except (OSError, ValueError, KeyError):
            return None
        if (status.st_size, int(status.st_mtime)) != (told["size"], STAMP):
            return None
        for file in (self.content(told["digest"]), self._note(version)):
            # The same time again, so that it counts as used.
            os.utime(file, (STAMP, STAMP))
        return told

    def part(self) -> Path:
        """A new name for what is on its way."""
        return self.folder / f"{os.getpid()}-{os.urandom(8).hex()}.part"

    def keep(self, part: Path, version: str, **facts: Any) -> dict[str, Any]:
        """Take a whole file in; gives its digest and size with the facts."""
        with part.open("rb") as file:
            digest = hashlib.sha256()
            while data := file.read(1 << 20):
                digest.update(data)
        told = {**facts, "digest": digest.hexdigest(), "size": part.stat().st_size}
        part.chmod(0o400)
        os.utime(part, (STAMP, STAMP))
        part.replace(self.content(told["digest"]))
        aside = self.part()
        aside.write_text(json.dumps(told))
        aside.replace(self._note(version))
        return told

    def lay(self, digest: str, path: Path) -> None:
        """Put a content where the function reads it."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if path.exists():
            path.unlink()
        try:
            path.hardlink_to(self.content(digest))
        except (OSError, AttributeError):
            shutil.copyfile(self.content(digest), path)

    def prune(self) -> None:
        """Throw away what no run has a link to, and what was not fetched or used in a week."""
        for file in self.folder.iterdir():
            try:
                status = file.stat()
                if status.st_nlink == 1 and time.time() - status.st_ctime > _UNUSED_S:
                    file.unlink()
            except OSError:
                continue  # Another run's, or gone already.

    def check_room(self, size: int) -> None:
        """Refuse what has no room, before any of it comes.

        Raises:
            OSError: with both sizes.
        """
        free = shutil.disk_usage(self.folder).free
        if size > free:
            raise OSError(
                f"it is {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free on the machine: ask for disk="
            )

    def content(self, digest: str) -> Path:
        """Where a content is."""
        return self.folder / digest

    def _note(self, version: str) -> Path:
        return self.folder / f"{hashlib.sha256(version.encode()).hexdigest()}.json"


# -- from web servers


def _from_web(
    store: Store, place: Path, url: str, sha256: str | None, progress: Progress
) -> tuple[Path, int]:
    import posixpath
    import urllib.error
    import urllib.parse

    told = store.known(url)
    headers = {"User-Agent": "dayfly", "Accept-Encoding": "identity"}
    if told is not None and sha256 == told["digest"]:
        headers = {}  # Nothing that the server could say would matter.
    elif told is not None and told.get("etag"):
        headers["If-None-Match"] = told["etag"]
    else:
        told = None
    if headers:
        try:
            with _answer(url, headers, sha256) as answer:
                told = _download(store, url, answer, headers, sha256=sha256, progress=progress)
        except urllib.error.HTTPError as error:
            if error.code != 304 or told is None:
                raise
    assert told is not None
    check_digest(told["digest"], sha256)
    name = posixpath.basename(urllib.parse.unquote(urllib.parse.urlsplit(url).path)) or "data"
    path = place / (name if name not in (".", "..") and "\0" not in name else "data")
    store.lay(told["digest"], path)
    return path, int(told["size"])


def _answer(url: str, headers: Mapping[str, str], sha256: str | None) -> Any:
    """The answer of a server, which is asked again where it is gone, silent or busy for a moment; when, it may say itself."""
    answer = again(lambda: _asked(url, headers), _is_final, _asked_wait_s)
    try:
        _check_safe(url, answer.url, sha256)
    except OSError:
        answer.close()
        raise
    return answer


def _is_final(error: Exception) -> bool:
    """Whether a server would say the same if it were asked again."""
    import http.client
    import ssl
    import urllib.error

    if isinstance(error, urllib.error.HTTPError):
        return not _is_busy(error) or _asked_wait_s(error) > _LONGEST_WAIT_S
    # While a request is sent it is wrapped, and not while its answer is waited for.
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return True
    return not isinstance(reason, OSError | http.client.BadStatusLine)


def _is_busy(error: Any) -> bool:
    return error.code >= 500 or error.code in _BUSY


def _asked_wait_s(error: Exception) -> float:
    """How long a server asks to wait; 0 where it does not say."""
    import urllib.error

    if not isinstance(error, urllib.error.HTTPError):
        return 0.0
    return seconds(error.headers.get("Retry-After")) or 0.0


def _asked(url: str, headers: Mapping[str, str]) -> Any:
    import urllib.error
    import urllib.request

    request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310 - http and https only
    try:
        return urllib.request.urlopen(request, timeout=_TIMEOUT_S)  # noqa: S310
    except urllib.error.HTTPError as error:
        # What the server says besides is not read, and would keep the connection open for as long as the error is.
        error.close()
        wait_s = _asked_wait_s(error)
        if _is_busy(error) and wait_s > _LONGEST_WAIT_S:
            error.msg += (
                f"; it asks to come again in {wait_s:.0f} s, for which no machine is kept waiting"
            )
        raise


def _check_safe(url: str, led_to: str, sha256: str | None) -> None:
    """Refuse what leads from https to where anybody may alter it."""
    if (
        sha256 is None
        and url.lower().startswith("https:")
        and not led_to.lower().startswith("https:")
    ):
        raise OSError("it leads to a server without https: give sha256=")


def _download(
    store: Store,
    url: str,
    answer: Any,
    headers: Mapping[str, str],
    *,
    sha256: str | None,
    progress: Progress,
) -> dict[str, Any]:
    """Take a whole answer; where the connection breaks, the rest is asked for, of the same version."""
    etag, size, ranges = _announced(answer)
    store.check_room(size)
    progress.total = size
    part = store.part()
    try:
        with part.open("wb") as file:
            for left in reversed(range(TRIES)):
                # Each time another answer: one that was closed reads as one that has ended, whole to whoever knows no size.
                broken = _copy(answer, file, progress)
                if broken is None and (size < 0 or file.tell() == size):
                    break
                if not left or not ranges:
                    raise broken or OSError(f"it ended after {file.tell()} of {size} bytes")
                time.sleep(PAUSE_S * (TRIES - left))
                wanted = {**headers, "Range": f"bytes={file.tell()}-", "If-Range": etag}
                wanted.pop("If-None-Match", None)
                answer = _answer(url, wanted, sha256)
                if answer.status != 206:
                    # It is another version by now, and comes whole.
                    file.seek(0)
                    file.truncate()
                    etag, size, ranges = _announced(answer)
        if sha256 is not None:
            check_digest(digest_of(part), sha256)
        return store.keep(part, url, etag=etag)
    finally:
        if part.exists():
            part.unlink()


def _announced(answer: Any) -> tuple[str, int, bool]:
    """The tag of a version, its size, -1 where none was said, and whether the rest of it can be asked for."""
    etag = answer.headers.get("ETag", "")
    size = int(answer.headers.get("Content-Length") or -1)
    return etag, size, answer.headers.get("Accept-Ranges") == "bytes" and etag.startswith('"')


def _copy(answer: Any, file: Any, progress: Progress) -> OSError | None:
    """Take what comes of an answer, and close it; gives what has broken it off."""
    import http.client

    with answer:
        while True:
            try:
                data = answer.read(1 << 20)
            except http.client.IncompleteRead as error:
                file.write(error.partial)
                return OSError(str(error))
            except OSError as error:
                return error
            if not data:
                return None
            # What cannot be written is no broken connection: a full disk is full the next time, too.
            file.write(data)
            progress.add(len(data))
