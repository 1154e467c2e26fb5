"""Bucket URLs: a folder of a bucket in which a machine keeps what is to outlive it."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from dayfly.errors import SpecError
from dayfly.infra.units import shown, suggestion

# What can be written one file at a time, each there as a whole or not at all. On the hub of hf:// each is a commit, of which
# it takes some hundred an hour; a web server takes none.
SCHEMES = ("s3", "gs", "gcs", "az", "abfs")
_SHAPE = r"^([A-Za-z][A-Za-z0-9+.-]*)://"


def checked(value: object, name: str) -> str:
    """A URL of a folder in a bucket, without a slash at its end.

    Args:
        value: "s3://bucket/folder".
        name: what the message calls it.

    Raises:
        SpecError: it is none, or holds what may be a credential, which the message does not repeat.
    """
    example = f'{name}="s3://bucket/folder"'
    if not isinstance(value, str) or not value.strip():
        raise SpecError(f"{name}={shown(value)} must be the URL of a folder in a bucket, {example}")
    found = re.match(_SHAPE, value)
    if found is None:
        raise SpecError(f"{name}={shown(_bare(value))} is no URL; write {example}")
    scheme = found[1].lower()
    if scheme not in SCHEMES:
        raise SpecError(
            f"{name}={shown(_bare(value))}: nothing is kept behind {scheme!r}; {suggestion(scheme, SCHEMES)}"
        )
    try:
        place = urlsplit(value)
    except ValueError:
        raise SpecError(f"{name}={shown(_bare(value))} is no URL; write {example}") from None
    if place.query or place.fragment or ":" in place.netloc:
        # The value is not repeated: a signature, a token or a password is what stands there.
        raise SpecError(
            f"{name}= takes a URL without ?, # and password: credentials go by secrets=, {example}"
        )
    folder = place.path.strip("/")
    if not place.netloc or not folder:
        raise SpecError(
            f"{name}={shown(value)} must name a bucket and a folder in it, which is this function's alone, {example}"
        )
    if {"", ".", ".."} & set(folder.split("/")):
        raise SpecError(f'{name}={shown(value)}: a folder in a bucket has no ".." and no "//"')
    return f"{scheme}://{place.netloc}/{folder}"


def scheme_of(url: str) -> str:
    """The part before "://" of a URL that was checked."""
    return url.partition("://")[0]


def _bare(value: str) -> str:
    """What of a URL may be shown."""
    return re.sub(r"//[^/@]*@", "//[secret]@", value.partition("?")[0].partition("#")[0])
