"""Data: a file or a folder, here or behind a URL, that a function gets as a path on its machine."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import operator
import os
import re
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dayfly.errors import SpecError
from dayfly.infra.units import shown, suggestion

# What has to be installed on the machine to fetch from there; the standard library fetches from web servers.
BACKENDS: Mapping[str, tuple[str, ...]] = {
    "s3": ("s3fs",),
    "gs": ("gcsfs",),
    "gcs": ("gcsfs",),
    "az": ("adlfs",),
    "abfs": ("adlfs",),
    "hf": ("fsspec", "huggingface_hub"),
    "https": (),
    "http": (),
}
_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
# What holds nothing, and of which a list may have millions.
_PLAIN = {int, float, complex, bool, str, bytes, type(None)}
_DIGEST = re.compile(r"^[0-9a-f]{64}$")
_WEB = ("http", "https")
# What stands before the host, where it is no mere name: abfs has that of a container there.
_USER = re.compile(r"^([^:/?#]+://)[^/?#]*:[^/?#]*@|^(https?://)[^/?#]*@", re.I)

if TYPE_CHECKING:
    # Where it is used, a function has asked for a path, and gets one.
    _Base = Path
else:
    _Base = object


class Data(_Base):
    """An argument that is a `pathlib.Path` where the function runs, wherever in the arguments it stands.

    What lies here is sent by content: only what the machine has not yet, and after a dropped connection only the rest.
    What lies behind a URL is fetched by the machine itself, with the credentials that the function was given by `secrets=`.
    Both are kept on the machine by their content. The function may read them, and not change them.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        sha256: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Nothing is read yet.

        Args:
            source: a file or folder of this computer, or a URL: s3, gs, az, hf, https.
            sha256: of the one file behind a URL; what has another is refused. Needed for http, which anybody may alter.
            options: for the file system of fsspec behind a URL, e.g. {"anon": True}; never shown.

        Raises:
            SpecError: there is no such file, or the URL cannot be, or holds a password.
        """
        self.source = os.fspath(source)
        self.sha256 = sha256
        self.options = dict(options or {})
        if not isinstance(self.source, str) or not self.source.strip():
            raise SpecError(f'Data({shown(source)}): name a file, a folder or a URL, Data("./set")')
        scheme = _URL.match(self.source)
        self.scheme = scheme[1].lower() if scheme else ""
        if self.scheme:
            self._check_url()
        else:
            self._check_path()

    def _check_url(self) -> None:
        if self.scheme not in BACKENDS:
            raise SpecError(
                f"{self!r}: nothing is fetched by {self.scheme!r}; {suggestion(self.scheme, BACKENDS)}"
            )
        if not urlsplit(self.source).netloc:
            raise SpecError(f"{self!r} names no host or bucket")
        self._check_host()
        if self.sha256 is not None and not _DIGEST.match(self.sha256):
            raise SpecError(f"{self!r}: sha256={shown(self.sha256)} is no SHA-256 in hexadecimal")
        if self.scheme == "http" and self.sha256 is None:
            raise SpecError(
                f"{self!r}: what comes by http may be altered on its way; use https, or give sha256="
            )
        if self.scheme in _WEB and self.options:
            raise SpecError(
                f"{self!r}: options= are for the file systems of fsspec, not for web servers"
            )

    def _check_host(self) -> None:
        """The address stands in logs, errors and the journal: it holds no password."""
        if self.scheme in _WEB:
            try:
                _ = urlsplit(self.source).port
            except ValueError:
                # A password with a "/" in it looks so, too: nothing of it is shown.
                raise SpecError(
                    f"Data('{self.scheme}://...'): what stands behind the ':' of its host is no port"
                ) from None
        if not _USER.match(self.source):
            return
        if self.scheme in _WEB:
            raise SpecError(
                f"{self!r}: an address is shown in logs, so that no user and password may stand in it; sign it behind a '?',"
                " which is never shown, or have the function fetch it, with what secrets= gives it"
            )
        raise SpecError(
            f"{self!r}: an address is shown in logs, so that no password may stand in it; give it by secrets=, as the variables"
            " that the file system there reads, or by options="
        )

    def _check_path(self) -> None:
        if self.sha256 is not None or self.options:
            raise SpecError(f"{self!r}: sha256= and options= are for URLs")
        self.source = os.path.abspath(Path(self.source).expanduser())  # noqa: PTH100 - links in it stay
        if not os.path.exists(self.source):  # noqa: PTH110 - of a text
            raise SpecError(f"{self!r}: no such file or folder")

    @property
    def key(self) -> str:
        """Names it among the data of one call."""
        told = repr((self.source, self.sha256, sorted(self.options.items(), key=repr)))
        return hashlib.sha256(told.encode(errors="surrogateescape")).hexdigest()[:16]

    def __fspath__(self) -> str:
        """Where it is on this computer, for a function that is called here."""
        if self.scheme:
            raise SpecError(
                f"{self!r} is fetched by a machine; a function that runs here needs a file of this computer"
            )
        return self.source

    def __str__(self) -> str:
        if not self.scheme:
            return self.source
        # A signed URL has its secret behind the question mark.
        return _USER.sub(r"\1\2", self.source).partition("?")[0]

    def __repr__(self) -> str:
        return f"Data({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Data) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def here(value: Any) -> Any:
    """What it is with the path on this computer in the place of each Data: in lists, tuples, dicts, sets and dataclasses.

    What holds none is given back itself, so that what a function changes of its arguments is changed for its caller. An object
    of another kind keeps the Data that it holds, which `open` takes as a path, too.
    """
    return _Here().of(value)


class _Here:
    """One walk through arguments: what stands in several places stays one thing."""

    def __init__(self) -> None:
        # With the value itself, whose id is that of no other as long as it is held here.
        self._seen: dict[int, tuple[Any, Any]] = {}

    def of(self, value: Any) -> Any:
        if isinstance(value, Data):
            return Path(os.fspath(value))
        if not isinstance(value, list | tuple | dict | set | frozenset) and not _is_record(value):
            return value
        if id(value) not in self._seen:
            # What holds itself is met again while it is looked into, and stays as it is there.
            self._seen[id(value)] = value, value
            self._seen[id(value)] = value, self._inside(value)
        return self._seen[id(value)][1]

    def _inside(self, value: Any) -> Any:
        if _is_record(value):
            return self._record(value)
        parts = list(chain.from_iterable(value.items()) if isinstance(value, dict) else value)
        if set(map(type, parts)) <= _PLAIN:
            return value
        found = [self.of(part) for part in parts]
        if all(map(operator.is_, parts, found)):
            return value
        if isinstance(value, tuple):
            return tuple.__new__(type(value), found)  # A named one's own takes them one by one.
        if isinstance(value, frozenset):
            return frozenset.__new__(type(value), found)
        # A copy first: it may be of a kind that has more to it, as a defaultdict.
        made = copy.copy(value)
        made.clear()
        if isinstance(made, list):
            made.extend(found)
        elif isinstance(made, set):
            made.update(found)
        else:
            made.update(dict(zip(found[::2], found[1::2], strict=True)))
        return made

    def _record(self, value: Any) -> Any:
        had = {each.name: getattr(value, each.name, None) for each in dataclasses.fields(value)}
        changed = {name: new for name, old in had.items() if (new := self.of(old)) is not old}
        if not changed:
            return value
        made = copy.copy(value)
        for name, new in changed.items():
            object.__setattr__(made, name, new)  # It may be frozen.
        return made


def _is_record(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)
