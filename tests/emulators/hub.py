"""Hugging Face's hub on loopback: of its documented endpoints those that its file system asks when it reads, and the list of the
hardware that jobs may have.

A private repository is shown to its token only: to anybody else it is not there (401, X-Error-Code). What is large is kept beside Git:
its file is answered with a redirect, and listed with the SHA-256 of its content; what is small with its Git id. Listings come in
pages (Link), content in part where that is asked for.

Left out: commits and everything else that writes, branches other than main, Xet, gated repositories, whoami, buckets.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote

from tests.emulators.web import Answers, serving

LARGE_BYTES = 1 << 20
_DATE = "2026-01-01T00:00:00.000Z"


def hardware() -> list[dict[str, Any]]:
    """In the shape that huggingface_hub 2.4 reads: a machine without GPU, and one with four."""
    return [
        {
            "name": "cpu-basic",
            "prettyName": "CPU Basic",
            "cpu": "2 vCPU",
            "ram": "16 GB",
            "ephemeralStorage": "20 GB",
            "accelerator": None,
            "unitCostMicroUSD": 167,
            "unitCostUSD": 0.000167,
            "unitLabel": "minute",
        },
        {
            "name": "l4x4",
            "prettyName": "4x Nvidia L4",
            "cpu": "48 vCPU",
            "ram": "186 GB",
            "ephemeralStorage": "400 GB",
            "accelerator": {
                "type": "gpu",
                "model": "L4",
                "quantity": "4",
                "vram": "96 GB",
                "manufacturer": "Nvidia",
            },
            "unitCostMicroUSD": 65000,
            "unitCostUSD": 0.065,
            "unitLabel": "minute",
        },
    ]


@dataclass
class Hub:
    """The running server, as its administrator has it.

    Attributes:
        url: where it is.
        repositories: "datasets/owner/name" or "models/owner/name": contents by path.
        token: what may see them.
        cut: so many of the next downloads break half way.
        downloads: the paths of all files that were downloaded, in part or as a whole.
        page: most entries of one answer of a listing.
        hardware: rows of that list.
    """

    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    token: str = field(default_factory=lambda: f"hf_{secrets.token_hex(17)}")
    cut: int = 0
    downloads: list[str] = field(default_factory=list)
    page: int = 2
    hardware: list[dict[str, Any]] = field(default_factory=hardware)
    lock: Any = field(default_factory=threading.Lock)

    def put(self, path: str, data: bytes) -> None:
        """Puts a file at "datasets/owner/name/path"; the repository is made where it is not."""
        kind, owner, name, *rest = path.split("/")
        self.repositories.setdefault(f"{kind}/{owner}/{name}", {})["/".join(rest)] = data


def git_id(data: bytes) -> str:
    """As Git names a content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


class _Answers(Answers):
    hub: Hub

    def do_GET(self) -> None:
        match self.place:
            case ["api", "jobs", "hardware"]:
                if self.bearer == self.hub.token:
                    self.answer_json(200, self.hub.hardware)
                else:
                    self._refuse(401, "Invalid username or password.")
            case ["api", ("models" | "datasets") as kind, owner, name, *rest]:
                files = self._repository(f"{kind}/{owner}/{name}")
                if files is not None:
                    self._tell(f"{owner}/{name}", files, rest)
            case ["datasets", owner, name, "resolve", revision, *path]:
                self._resolve(f"datasets/{owner}/{name}", revision, "/".join(path))
            case [owner, name, "resolve", revision, *path]:
                self._resolve(f"models/{owner}/{name}", revision, "/".join(path))
            case ["cdn", digest]:
                self._give_large(digest)
            case _:
                self._refuse(404, "Sorry, we can't find the page you are looking for.")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.body()
        is_json = "json" in self.headers.get("Content-Type", "")
        asked = json.loads(body) if is_json else parse_qs(body.decode())
        match self.place:
            case ["api", ("models" | "datasets") as kind, owner, name, "paths-info", revision]:
                files = self._repository(f"{kind}/{owner}/{name}")
                if files is None or not self._is_main(revision):
                    return
                told = [_told(files, path) for path in asked.get("paths", [])]
                self.answer_json(200, [entry for entry in told if entry is not None])
            case _:
                self._refuse(404, "Not Found")

    # -- what is there

    def _repository(self, name: str) -> dict[str, bytes] | None:
        files = self.hub.repositories.get(name)
        if files is None or self.bearer != self.hub.token:
            # Whether it is there is nobody's business who may not see it.
            self._refuse(401, "Invalid username or password.", "RepoNotFound")
            return None
        return files

    def _refuse(self, status: int, message: str, code: str = "") -> None:
        headers = {"X_Error_Message": message} | ({"X_Error_Code": code} if code else {})
        self.answer_json(status, {"error": message}, **headers)

    def _is_main(self, revision: str) -> bool:
        if revision != "main":
            self._refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return revision == "main"

    def _tell(self, name: str, files: dict[str, bytes], rest: list[str]) -> None:
        match rest:
            case [] | ["revision", _]:
                if not rest or self._is_main(rest[1]):
                    self.answer_json(200, _repository_info(name, files))
            case ["tree", revision, *path]:
                if self._is_main(revision):
                    self._list(files, "/".join(path))
            case _:
                self._refuse(404, "Not Found")

    def _list(self, files: dict[str, bytes], below: str) -> None:
        prefix = f"{below}/" if below else ""
        deep = self.query.get("recursive", "").lower() in ("1", "true")
        paths = set[str]()
        for path in files:
            if path.startswith(prefix):
                steps = path.removeprefix(prefix).split("/")
                ends = range(1, len(steps) + 1) if deep else (1,)
                paths |= {prefix + "/".join(steps[:end]) for end in ends}
        if not paths:
            self._refuse(404, f"{below} does not exist", "EntryNotFound")
            return
        start = int(self.query.get("cursor") or 0)
        page = sorted(paths)[start : start + self.hub.page]
        headers = {}
        if start + self.hub.page < len(paths):
            more = self.path.split("?")[0]
            query = f"recursive={str(deep).lower()}&expand={self.query.get('expand', 'false')}"
            link = f"{self.hub.url}{more}?{query}&cursor={start + self.hub.page}"
            headers["Link"] = f'<{link}>; rel="next"'
        self.answer_json(200, [_told(files, path) for path in page], **headers)

    # -- contents

    def _resolve(self, repository: str, revision: str, path: str) -> None:
        files = self._repository(repository)
        if files is None or not self._is_main(revision):
            return
        data = files.get(path)
        if data is None:
            self._refuse(404, f"{path} does not exist", "EntryNotFound")
            return
        commit = {"X_Repo_Commit": _commit(files)}
        if len(data) > LARGE_BYTES:
            digest = hashlib.sha256(data).hexdigest()
            linked = {"X_Linked_Etag": f'"{digest}"', "X_Linked_Size": str(len(data))}
            to = f"{self.hub.url}/cdn/{digest}"
            self.answer(302, b"", Location=to, **linked, **commit)
            return
        self._give(path, data, ETag=f'"{git_id(data)}"', **commit)

    def _give_large(self, digest: str) -> None:
        for files in self.hub.repositories.values():
            for path, data in files.items():
                if len(data) > LARGE_BYTES and hashlib.sha256(data).hexdigest() == digest:
                    self._give(path, data, ETag=f'"{digest}"')
                    return
        self._refuse(404, "Not Found")

    def _give(self, path: str, data: bytes, **headers: str) -> None:
        cut = False
        if self.command == "GET":
            with self.hub.lock:
                self.hub.downloads.append(path)
                cut = self.hub.cut > 0
                self.hub.cut -= cut
        self.answer_part(data, cut=cut, **headers)


def _commit(files: dict[str, bytes]) -> str:
    told = "".join(f"{path}{git_id(data)}" for path, data in sorted(files.items()))
    return hashlib.sha1(told.encode(), usedforsecurity=False).hexdigest()


def _repository_info(name: str, files: dict[str, bytes]) -> dict[str, Any]:
    return {
        "_id": hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()[:24],
        "id": name,
        "sha": _commit(files),
        "private": True,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "lastModified": _DATE,
        "createdAt": _DATE,
        "siblings": [{"rfilename": path} for path in sorted(files)],
    }


def _told(files: dict[str, bytes], path: str) -> dict[str, Any] | None:
    """One entry of a tree; None where there is none."""
    told: dict[str, Any] = {
        "path": path,
        "lastCommit": {"id": _commit(files), "title": "as it is", "date": _DATE},
    }
    data = files.get(path)
    if data is None:
        if not any(each.startswith(f"{path}/") for each in files):
            return None
        tree = hashlib.sha1(quote(path).encode(), usedforsecurity=False).hexdigest()
        return {**told, "type": "directory", "oid": tree, "size": 0}
    told |= {"type": "file", "oid": git_id(data), "size": len(data)}
    if len(data) > LARGE_BYTES:
        sha256 = hashlib.sha256(data).hexdigest()
        pointer = (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(data)}\n"
        ).encode()
        told["oid"] = git_id(pointer)
        told["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": len(pointer)}
    return told


@contextlib.contextmanager
def hub() -> Iterator[Hub]:
    """A server for as long as the block lasts."""
    made = Hub()

    class Own(_Answers):
        hub = made

    with serving(Own) as url:
        made.url = url
        yield made
