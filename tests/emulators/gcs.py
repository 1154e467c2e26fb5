"""Google Cloud Storage on loopback: of its JSON API what a file system of fsspec asks for, by the documented rules.

A caller shows a token, which the token endpoint gives for an assertion that the service account's key has signed (RFC 7523). Objects
are there as a whole or not at all, each version with a generation and an MD5; downloads can be asked for in part, listings come in
pages, uploads in one request (multipart) or several (resumable, 308 until the last).

Left out: CRC32C, metadata of objects, preconditions, copies, batches, buckets' own settings, who may do what beyond having a token.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.emulators.web import Answers, serving

EMAIL = "dayfly@test-project.iam.gserviceaccount.com"
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
# By Google's rules that of an access token's request is always this one, wherever the key file says that the endpoint is.
_AUDIENCE = "https://oauth2.googleapis.com/token"


@dataclass(frozen=True)
class Object:
    """One version of an object."""

    content: bytes
    generation: int
    updated: str

    def resource(self, bucket: str, name: str) -> dict[str, Any]:
        """As the API describes it."""
        md5 = hashlib.md5(self.content, usedforsecurity=False).digest()
        return {
            "kind": "storage#object",
            "id": f"{bucket}/{name}/{self.generation}",
            "name": name,
            "bucket": bucket,
            "generation": str(self.generation),
            "metageneration": "1",
            "contentType": "application/octet-stream",
            "storageClass": "STANDARD",
            "size": str(len(self.content)),
            "md5Hash": base64.b64encode(md5).decode(),
            "etag": base64.b64encode(str(self.generation).encode()).decode(),
            "timeCreated": self.updated,
            "updated": self.updated,
        }


@dataclass
class Gcs:
    """The running server, as its administrator has it.

    Attributes:
        url: where it is.
        buckets: their objects by name.
        cut: so many of the next downloads break half way.
        downloads: the names of all objects that were downloaded, in part or as a whole.
        page: most entries of one answer of a listing.
        refused: how often it was asked for a token and gave none.
    """

    url: str = ""
    buckets: dict[str, dict[str, Object]] = field(default_factory=dict)
    cut: int = 0
    downloads: list[str] = field(default_factory=list)
    page: int = 2
    refused: int = 0
    tokens: set[str] = field(default_factory=set)
    uploads: dict[str, tuple[str, str, bytearray]] = field(default_factory=dict)
    key: rsa.RSAPrivateKey = field(
        default_factory=lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048)
    )
    lock: Any = field(default_factory=threading.RLock)
    generation: int = 1_700_000_000_000_000

    @property
    def account(self) -> dict[str, str]:
        """The service account's key file."""
        pem = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return {
            "type": "service_account",
            "project_id": "test-project",
            "private_key_id": "1",
            "private_key": pem.decode(),
            "client_email": EMAIL,
            "client_id": "1",
            "token_uri": f"{self.url}/token",
        }

    @property
    def options(self) -> dict[str, Any]:
        """For gcsfs."""
        return {"endpoint_url": self.url, "token": self.account, "project": "test-project"}

    def put(self, path: str, data: bytes) -> None:
        """Puts an object at "bucket/name"; the bucket is made where it is not."""
        bucket, _, name = path.partition("/")
        self.store(self.buckets.setdefault(bucket, {}), name, data)

    def get(self, path: str) -> bytes | None:
        """An object, None where there is none."""
        bucket, _, name = path.partition("/")
        found = self.buckets.get(bucket, {}).get(name)
        return None if found is None else found.content

    def store(self, objects: dict[str, Object], name: str, data: bytes) -> Object:
        """Makes a new version of it."""
        with self.lock:
            self.generation += 1
            now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
            objects[name] = Object(bytes(data), self.generation, now)
            return objects[name]


class _Answers(Answers):
    gcs: Gcs

    def do_GET(self) -> None:
        place = self.place
        download = place[:1] == ["download"]
        match place[1:] if download else place:
            case ["storage", "v1", "b", *rest] if self._allowed():
                self._get(rest, download or self.query.get("alt") == "media")
            case ["storage", *_]:
                pass  # Refused already.
            case _:
                self._refuse(404, "Not Found")

    def _get(self, place: list[str], media: bool) -> None:
        match place:
            case [bucket]:
                if self._objects(bucket) is not None:
                    self.answer_json(200, {"kind": "storage#bucket", "id": bucket, "name": bucket})
            case [bucket, "o"]:
                self._list(bucket)
            case [bucket, "o", name]:
                self._object(bucket, name, media)
            case _:
                self._refuse(404, "Not Found")

    def do_DELETE(self) -> None:
        if not self._allowed():
            return
        match self.place:
            case ["storage", "v1", "b", bucket, "o", name]:
                objects = self._objects(bucket)
                if objects is not None and objects.pop(name, None) is not None:
                    self.answer(204)
                elif objects is not None:
                    self._refuse(404, f"No such object: {bucket}/{name}")
            case ["upload", *_] if self.gcs.uploads.pop(self.query.get("upload_id", ""), None):
                self.answer(499)
            case _:
                self._refuse(404, "Not Found")

    def do_POST(self) -> None:
        # Whatever becomes of it, the connection goes on behind it.
        body = self.body()
        match self.place:
            case ["token"]:
                self._give_token(body)
            case ["upload", "storage", "v1", "b", bucket, "o"]:
                objects = self._objects(bucket) if self._allowed() else None
                if objects is not None:
                    self._upload(bucket, objects, body)
            case _:
                self._refuse(404, "Not Found")

    do_PUT = do_POST

    # -- who asks

    def _give_token(self, body: bytes) -> None:
        given = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        try:
            assert given["grant_type"] == _GRANT
            signed, _, signature = given["assertion"].rpartition(".")
            head, claims = (json.loads(_unbased(part)) for part in signed.split("."))
            self.gcs.key.public_key().verify(
                _unbased(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256()
            )
            assert (head["alg"], claims["iss"]) == ("RS256", EMAIL)
            assert claims["aud"] == _AUDIENCE
            assert claims["exp"] > time.time()
            assert "devstorage" in claims["scope"] or "cloud-platform" in claims["scope"]
        except (AssertionError, InvalidSignature, KeyError, ValueError):
            with self.gcs.lock:
                self.gcs.refused += 1
            return self.answer_json(
                400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
            )
        token = f"ya29.{secrets.token_urlsafe(24)}"
        self.gcs.tokens.add(token)
        return self.answer_json(
            200, {"access_token": token, "expires_in": 3600, "token_type": "Bearer"}
        )

    def _allowed(self) -> bool:
        if self.bearer in self.gcs.tokens:
            return True
        if self.bearer:
            self._refuse(401, "Invalid Credentials")
        else:
            self._refuse(401, "Anonymous caller does not have storage.objects.get access")
        return False

    def _refuse(self, status: int, message: str) -> None:
        self.answer_json(status, {"error": {"code": status, "message": message}})

    def _objects(self, bucket: str) -> dict[str, Object] | None:
        objects = self.gcs.buckets.get(bucket)
        if objects is None:
            self._refuse(404, "The specified bucket does not exist.")
        return objects

    # -- what is asked for

    def _list(self, bucket: str) -> None:
        objects = self._objects(bucket)
        if objects is None:
            return
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter", "")
        names = [name for name in sorted(objects) if name.startswith(prefix)]
        entries: list[tuple[str, bool]] = []
        for name in names:
            below = name[len(prefix) :]
            folder = bool(delimiter) and delimiter in below
            entry = prefix + below.partition(delimiter)[0] + delimiter if folder else name
            if (entry, folder) not in entries:
                entries.append((entry, folder))
        start = int(self.query.get("pageToken") or 0)
        most = min(self.gcs.page, int(self.query.get("maxResults") or 1000))
        page = entries[start : start + most]
        told: dict[str, Any] = {"kind": "storage#objects"}
        told["items"] = [objects[n].resource(bucket, n) for n, folder in page if not folder]
        told["prefixes"] = [name for name, folder in page if folder]
        if start + most < len(entries):
            told["nextPageToken"] = str(start + most)
        self.answer_json(200, {name: value for name, value in told.items() if value})

    def _object(self, bucket: str, name: str, media: bool) -> None:
        objects = self._objects(bucket)
        if objects is None:
            return
        found = objects.get(name)
        if found is None:
            self._refuse(404, f"No such object: {bucket}/{name}")
        elif not media:
            self.answer_json(200, found.resource(bucket, name))
        else:
            with self.gcs.lock:
                self.gcs.downloads.append(name)
                cut = self.gcs.cut > 0
                self.gcs.cut -= cut
            self.answer_part(found.content, cut=cut, x_goog_generation=str(found.generation))

    # -- uploads

    def _upload(self, bucket: str, objects: dict[str, Object], body: bytes) -> None:
        kind = self.query.get("uploadType")
        if "upload_id" in self.query:
            self._take_chunk(self.query["upload_id"], body)
        elif kind == "multipart":
            self._take_whole(bucket, objects, body)
        elif kind == "resumable":
            self._begin_upload(bucket, body)
        else:
            self._refuse(400, f"uploadType {kind} is invalid")

    def _take_whole(self, bucket: str, objects: dict[str, Object], body: bytes) -> None:
        boundary = re.search(r'boundary="?([^";]+)"?', self.headers["Content-Type"])
        if boundary is None:
            self._refuse(400, "the multipart boundary is invalid")
            return
        mark = b"--" + boundary[1].encode()
        _, _, rest = body.partition(mark)
        told, _, rest = rest.partition(mark)
        # What is uploaded may hold the mark, too; the end of its last line belongs to the last mark.
        line = b"\r\n" if rest.startswith(b"\r\n") else b"\n"
        data = _behind_head(rest[: rest.rfind(mark)]).removesuffix(line)
        name = json.loads(_behind_head(told))["name"]
        self.answer_json(200, self.gcs.store(objects, name, data).resource(bucket, name))

    def _begin_upload(self, bucket: str, body: bytes) -> None:
        name = self.query.get("name") or json.loads(body or b"{}").get("name")
        if not name:
            self._refuse(400, "the name of the object is invalid")
            return
        number = secrets.token_urlsafe(16)
        self.gcs.uploads[number] = (bucket, name, bytearray())
        place = f"{self.gcs.url}/upload/storage/v1/b/{bucket}/o"
        self.answer(200, Location=f"{place}?uploadType=resumable&upload_id={number}")

    def _take_chunk(self, number: str, data: bytes) -> None:
        if number not in self.gcs.uploads:
            self._refuse(404, "No such upload")
            return
        bucket, name, held = self.gcs.uploads[number]
        found = re.fullmatch(
            r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", self.headers.get("Content-Range", "")
        )
        if found is None or (found[1] and int(found[1]) != len(held)):
            self._refuse(400, "Content-Range is invalid")
            return
        last = found[3] != "*" and len(held) + len(data) == int(found[3])
        if not last and len(data) % (256 << 10):
            # Every chunk but the last has to be a multiple of 256 KiB.
            self._refuse(400, "the size of the chunk is invalid")
            return
        held += data
        if not last:
            self.answer(308, Range=f"bytes=0-{len(held) - 1}")
            return
        del self.gcs.uploads[number]
        made = self.gcs.store(self.gcs.buckets[bucket], name, bytes(held))
        self.answer_json(200, made.resource(bucket, name))


def _behind_head(part: bytes) -> bytes:
    """What follows the empty line of one part of a multipart body."""
    found = re.search(rb"\r?\n\r?\n", part)
    return part[found.end() :] if found else b""


def _unbased(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@contextlib.contextmanager
def gcs() -> Iterator[Gcs]:
    """A server for as long as the block lasts."""
    made = Gcs()

    class Own(_Answers):
        gcs = made

    with serving(Own) as url:
        made.url = url
        yield made
