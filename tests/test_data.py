"""Data arguments: what lies here is sent by content, what lies behind a URL is fetched there, and each is a path."""

from __future__ import annotations

import collections
import dataclasses
import email.utils
import errno
import hashlib
import http.client
import io
import json
import os
import re
import socket
import ssl
import sys
import threading
import time
import traceback
import urllib.error
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import dayfly
from dayfly import Data
from dayfly.errors import DataFailed, SpecError
from dayfly.runtime import cargo, fetched, fetched_objects, payload
from dayfly.runtime.agent import frames
from dayfly.runtime.cargo import Cargo, with_backends
from dayfly.runtime.data import here
from dayfly.runtime.environment import Recipe
from dayfly.runtime.local_tree import Blob, LocalTree
from dayfly.runtime.records import Task
from dayfly.runtime.session import Session
from tests import far
from tests.proxy import proxy
from tests.test_session import Logs, Runs, pickler, runs, server

__all__ = ["pickler", "runs", "server"]
SHA = hashlib.sha256(b"x").hexdigest()


# -- what it may be


@pytest.mark.parametrize(
    ("source", "how", "words"),
    [
        ("", {}, "name a file"),
        (b"x", {}, "name a file"),
        ("./none", {}, "no such file or folder"),
        ("ftp://host/x", {}, "known: "),
        ("http2://host/x", {}, "did you mean 'http'"),
        ("https:///x", {}, "no host"),
        ("http://host/x", {}, "use https, or give sha256="),
        ("https://host/x", {"sha256": "abc"}, "no SHA-256"),
        ("https://host/x", {"options": {"anon": True}}, "not for web servers"),
        (".", {"sha256": SHA}, "are for URLs"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_written(
    source: Any, how: dict[str, Any], words: str
) -> None:
    """With what to write instead."""
    with pytest.raises(SpecError, match=re.escape(words)):
        Data(source, **how)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("https://user:hush@host/x", "Data('https://host/x'): an address is shown"),
        ("HTTPS://hush@host/x", "sign it behind a '?'"),
        ("https://user:hu/sh@host/x", "is no port"),
        ("https://user:hu?sh@host/x", "is no port"),
        ("https://user:p@hush@host/x?y", "Data('https://host/x')"),
        ("s3://key:hush@bucket/x", "Data('s3://bucket/x'): an address is shown"),
        ("abfs://box:hush@account.dfs.core.windows.net/x", "give it by secrets="),
    ],
)
def test_an_address_with_a_password_is_refused_and_not_shown(source: str, words: str) -> None:
    """The machine would print it into the log."""
    with pytest.raises(SpecError, match=re.escape(words)) as refused:
        Data(source)
    assert not re.search("hu.?sh", str(refused.value))


@pytest.mark.parametrize(
    "source",
    [
        "abfs://box@account.dfs.core.windows.net/x",
        "https://host:8443/@scope/x",
        "hf://datasets/owner/name@main/x",
        "s3://arn:aws:s3:eu-central-1:123456789012:accesspoint/box/x@1",
    ],
)
def test_what_only_looks_like_a_user_is_taken(source: str) -> None:
    """A container before its account, a port, a revision, a name of a resource."""
    assert str(Data(source)) == source


def test_a_signature_or_an_option_is_never_shown() -> None:
    """A signed URL is a key."""
    data = Data("s3://bucket/x?X-Amz-Signature=abcdef", options={"secret": "hush-hush"})
    assert repr(data) == "Data('s3://bucket/x')"
    assert data != Data("s3://bucket/x?X-Amz-Signature=abcdef")
    with pytest.raises(SpecError, match="fetched by a machine"):
        os.fspath(data)


def test_a_function_that_is_called_here_gets_the_path_here(tmp_path: Path) -> None:
    """`.local` and plain `open` take it as what it is."""

    @dayfly.cluster(provider="local")
    def size(path: Path, *, other: Path) -> int:
        return path.stat().st_size + other.stat().st_size

    (tmp_path / "x").write_text("four")
    assert size.local(Data(tmp_path / "x"), other=Data(tmp_path / "x")) == 8
    assert {Data(tmp_path / "x"): 1}[Data(str(tmp_path / "x"))] == 1


class Pair(NamedTuple):
    """Of which a part may be Data."""

    path: Any
    more: Any


@dataclasses.dataclass(frozen=True)
class Config:
    """That nobody may change, but is made anew."""

    train: Any
    depth: int = 3


def test_a_function_that_is_called_here_gets_the_path_at_any_depth(tmp_path: Path) -> None:
    """As on a machine; what is in two places stays one thing, and each thing of its kind."""
    (tmp_path / "x").write_text("four")
    data, path = Data(tmp_path / "x"), tmp_path / "x"

    @dayfly.cluster(provider="local")
    def given(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    shared, table = [data], collections.defaultdict(list, {"a": [data], data: 1})
    (one, two, pair, by_name, config), named = given.local(
        {"a": shared},
        (shared, {data}),
        Pair(data, frozenset([data])),
        table,
        Config([data]),
        x=data,
    )
    assert (one, two, named) == ({"a": [path]}, ([path], {path}), {"x": path})
    assert one["a"] is two[0]
    assert pair == Pair(path, frozenset([path]))
    assert type(pair) is Pair
    assert by_name == {"a": [path], path: 1}
    assert by_name["new"] == []
    assert config == Config([path])
    assert shared == [data]


def test_what_holds_no_data_is_given_to_a_function_here_as_it_is() -> None:
    """So that what it changes of it is changed for its caller, as by any call; also what holds itself."""
    ring: list[Any] = [1, {"a": (2,)}, Config(4)]
    ring.append(ring)
    plain = [1.5] * 10
    assert here(ring) is ring
    assert here({"a": plain})["a"] is plain


# -- a tree of this computer


def furnish(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for number in range(300):
        (folder / f"{number}.txt").write_text(str(number % 100) * 50)
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "large.bin").write_bytes(bytes(range(251)) * 12_000)
    (folder / "empty").mkdir()
    (folder / "nothing").touch()
    (folder / "tool").write_text("#!/bin/sh\n")
    (folder / "tool").chmod(0o755)
    (folder / "linked").symlink_to("deep")
    return folder


def test_a_list_of_a_folder_is_of_its_content_alone(tmp_path: Path) -> None:
    """The same at another place and time; each content is there once; links are followed."""
    one, two = (
        LocalTree(furnish(tmp_path / "a" / "set")),
        LocalTree(furnish(tmp_path / "b" / "set")),
    )
    assert one.listing() == two.listing()
    assert one.count == 300 + 2 + 2
    assert len(one.blobs()) == 100 + 1 + 2
    (tmp_path / "b" / "set" / "1.txt").write_text("other")
    assert LocalTree(tmp_path / "b" / "set").listing() != one.listing()


def test_what_must_not_or_cannot_travel_stays_here_with_a_word(tmp_path: Path) -> None:
    """Secrets, what the folder's own file names, pipes, and links to nothing or in a circle."""
    folder = tmp_path / "set"
    furnish(folder)
    (folder / ".env").write_text("TOKEN=x")
    (folder / "cache").mkdir()
    (folder / "cache" / "x").touch()
    (folder / ".dayflyignore").write_text("cache/\n")
    (folder / "deep" / "up").symlink_to("..")
    (folder / "gone").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")
    tree = LocalTree(folder)
    assert tree.left_out["set/.env"] == "it looks like a file of secrets (.env)"
    assert "line 1" in tree.left_out["set/cache"]
    assert tree.left_out["set/deep/up"] == "it is a link to a folder above it"
    assert tree.left_out["set/gone"] == "it is a link to nothing"
    assert tree.left_out["set/pipe"].startswith("it is no file")
    assert "cache" not in tree.listing().decode().replace(".dayflyignore", "")
    (said,) = Cargo({"k": Data(folder)}).warnings()
    assert "set/.env: it looks like" in said
    assert "; and 1 more" in said


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path) -> None:
    """And one that went."""
    (tmp_path / "x").write_text("four")
    tree = LocalTree(tmp_path / "x")
    (tmp_path / "x").write_text("seven..")
    with pytest.raises(DataFailed, match="was changed while it was read"):
        tree.listing()
    tree = LocalTree(tmp_path / "x")
    (tmp_path / "x").unlink()
    with pytest.raises(DataFailed, match="cannot be read"):
        tree.blobs()


def test_a_file_that_may_not_be_read_is_refused_before_anything_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its path, how many there are, and what to do; one that stays here anyway may be as it is."""
    (folder := tmp_path / "set").mkdir()
    (folder / "open").touch()
    (folder / ".dayflyignore").write_text("/own\n")
    closed = {folder / name for name in ("1.txt", "tool", "own")}
    for file in closed:
        file.touch()
        file.chmod(0o200)
    access = os.access
    # For root nothing is closed.
    monkeypatch.setattr(os, "access", lambda at, mode: Path(at) not in closed and access(at, mode))
    with pytest.raises(
        SpecError, match=r"set/1.txt' \(and 1 more\) may not .*mode is --w-------\)"
    ):
        Cargo({"k": Data(folder)})
    with pytest.raises(SpecError, match=r"user \(its mode is --w-------\): change that$"):
        Cargo({"k": Data(folder / "tool")})
    LocalTree(folder, whole=True)


def test_what_takes_long_to_send_is_said_before(tmp_path: Path) -> None:
    """From ten gigabytes on, with what may be cheaper."""
    with (tmp_path / "x").open("wb") as file:
        file.truncate(11 * 10**9)
    made = Cargo({"k": Data(tmp_path / "x")})
    assert made.size == 11 * 10**9
    assert "11.0 GB" in made.warnings()[0]
    assert "file_systems=" in made.warnings()[0]


def test_the_machine_gets_what_fetches_there(tmp_path: Path) -> None:
    """Only where it is needed, and not twice."""
    recipe = Recipe("3.11", "numpy\nS3FS>=2024\n", (), "a list (2 packages)")
    urls = [Data("s3://b/x"), Data("hf://datasets/a/b"), Data("https://host/x"), Data(tmp_path)]
    made = with_backends(recipe, urls)
    assert made.requirements == "numpy\nS3FS>=2024\nfsspec\nhuggingface_hub\n"
    assert "fsspec, huggingface_hub for its data" in made.source
    assert with_backends(recipe, urls[2:]) is recipe


# -- to a machine


def bring(made: Cargo, session: Session, server: Any, progress: Any = lambda *_: None) -> Any:
    return made.bring(session, server.machine.cache_dir, progress)


def task(runs: Runs, function: Any, *arguments: Any, variables: dict[str, str]) -> Task:
    packed = payload.pack(function, arguments, {})
    keys = runs.server.keys
    sealed = packed.task.sealed(keys.hmac_key, keys.run_id, frames.TASK_SEQ)
    return Task(sealed, os.path.realpath(sys.executable), runs.pickler, variables=variables)


@pytest.mark.sshd
def test_a_folder_is_a_path_on_the_machine(runs: Runs, tmp_path: Path) -> None:
    """Over a connection that is cut again and again; the second time nothing is sent, and what was changed there is."""

    def function(given: dict[str, list[Path]]) -> Any:
        (folder,) = given["sets"]
        texts = [(folder / f"{n}.txt").read_text() == str(n % 100) * 50 for n in range(300)]
        large = (folder / "linked" / "er" / "large.bin").read_bytes() == bytes(range(251)) * 12_000
        modes = os.access(folder / "tool", os.X_OK), (folder / "0.txt").stat().st_mode & 0o777
        return folder.name, all(texts), large, (folder / "empty").is_dir(), modes, str(folder)

    data = Data(furnish(tmp_path / "set"))
    packed = payload.pack(function, ({"sets": [data]},), {})
    cuts, seen = [200_000, 1_400_000, 2_400_000], list[int]()
    with (
        proxy(runs.server.machine.port) as between,
        Session(runs.server.through(between.port), runs.server.keys) as session,
    ):

        def progress(have: int, total: int) -> None:
            seen.append(have)
            assert total == 3_012_000 + 10 + sum(len(str(n)) * 50 for n in range(100))
            # What is written until the cut is noticed goes nowhere, and is no moment for the next.
            if cuts and have > cuts[0] and between.connections + len(cuts) > 3:
                cuts.pop(0)
                between.cut()

        variables = bring(Cargo(packed.data), session, runs.server, progress)
        session.start(task(runs, function, {"sets": [data]}, variables=variables))
        session.follow(Logs())
        value = runs.outcome(session).value
        assert value[:5] == ("set", True, True, True, (True, 0o400))
        assert not cuts
        assert between.connections >= 4
        seen.clear()
        bring(Cargo(packed.data), session, runs.server, progress)
        assert [have for have in seen if have] == seen[:1] or not seen
        changed = Path(value[5]) / "0.txt"
        changed.chmod(0o600)
        changed.write_text("9" * 50)
        seen.clear()
        bring(Cargo(packed.data), session, runs.server, progress)
        blob = hashlib.sha256(b"0" * 50).hexdigest()
        assert (runs.server.home.parent / "cache" / "blobs" / blob).read_bytes() == b"0" * 50


@pytest.mark.sshd
def test_what_has_no_room_there_or_has_changed_is_refused(runs: Runs, tmp_path: Path) -> None:
    """Before anything of it is sent, and before anything of it is believed."""
    file = tmp_path / "x"
    file.write_bytes(b"x" * 600_000)
    small = tmp_path / "y"
    small.write_bytes(b"y")

    def send(session: Session, *blobs: Blob) -> None:
        session.transfer(cargo._Sending(blobs, lambda *_: None).run)

    with runs.session() as session:
        with pytest.raises(DataFailed, match=r"the machine has .* free: ask for more with disk="):
            send(session, Blob("ab" * 32, file, 1 << 60))
        with pytest.raises(DataFailed, match="x was changed while it was sent"):
            send(session, Blob("cd" * 32, file, 600_000))
        with pytest.raises(DataFailed, match="x was changed while it was sent"):
            send(session, Blob("ef" * 32, file, 700_000))
        with pytest.raises(DataFailed, match="y was changed while it was sent"):
            send(session, Blob("12" * 32, small, 1))
        small.unlink()
        with pytest.raises(DataFailed, match="y cannot be read any more"):
            send(session, Blob("12" * 32, small, 1))
        assert session.status().state == "absent"


# -- from a web server


class Site(BaseHTTPRequestHandler):
    """Serves `content` with a tag and parts of it; the first `cut` answers end early."""

    content, etag, cut, ranges, asked = b"", '"one"', 0, True, list[str]()
    # With no size said, it ends with a last piece; and what the next requests get instead: a status, which may have a time to wait behind it,
    # "gone", or nothing yet.
    sized, troubles = True, list[int | str]()
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        kind = type(self)
        wanted = self.headers.get("Range")
        kind.asked.append(wanted or self.headers.get("If-None-Match") or "all")
        self.close_connection = True
        trouble = kind.troubles.pop(0) if kind.troubles else ""
        if trouble == "gone":
            return None
        if trouble == "silent":
            threading.Event().wait(1)
            return None
        if trouble:
            status, _, wait = str(trouble).partition(" ")
            self.send_response(int(status))
            if wait:
                self.send_header("Retry-After", wait)
            return self.end_headers()
        if self.path.startswith("/missing"):
            return self.send_error(404)
        if self.headers.get("If-None-Match") == kind.etag:
            self.send_response(304)
            return self.end_headers()
        start = 0
        if wanted and self.headers.get("If-Range") == kind.etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("ETag", kind.etag)
        if kind.ranges:
            self.send_header("Accept-Ranges", "bytes")
        body = kind.content[start:]
        if kind.sized:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        # Counted before it is sent: whoever has it may say at once what the next one is to be.
        cut, kind.cut = kind.cut, max(0, kind.cut - 1)
        sent = body[: len(body) // 2] if cut else body
        self.wfile.write(sent if kind.sized else b"%x\r\n%b\r\n" % (len(sent), sent))
        if not kind.sized and not cut:
            self.wfile.write(b"0\r\n\r\n")
        return None

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Its address; what is fetched goes below `tmp_path`."""
    content = bytes(range(256)) * 9000
    usual = {"content": content, "etag": '"one"', "cut": 0, "asked": [], "ranges": True}
    for name, value in {**usual, "sized": True, "troubles": []}.items():
        monkeypatch.setattr(Site, name, value)
    monkeypatch.setattr(fetched, "PAUSE_S", 0.001)
    monkeypatch.setattr(fetched_objects, "PAUSE_S", 0.001)
    monkeypatch.setenv("DAYFLY_DATA", json.dumps({"store": str(tmp_path / "store"), "paths": {}}))
    monkeypatch.setenv("DAYFLY_RUN", "f" * 32)
    monkeypatch.setenv("HOME", str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as web:
        serving = threading.Thread(target=web.serve_forever, args=(0.01,))
        serving.start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()
        serving.join()


def test_a_file_behind_a_url_is_fetched_once_for_each_version(
    site: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its tag; what was changed in place is fetched again; the name is the URL's."""
    url = f"{site}/sets/train%20a.bin?signature=hush"
    path = fetched.fetched("k", url, None, {})
    assert path.name == "train a.bin"
    assert path.read_bytes() == Site.content
    assert fetched.fetched("k", url, None, {}).read_bytes() == Site.content
    assert Site.asked == ["all", '"one"']
    assert "hush" not in capsys.readouterr().err
    path.chmod(0o600)
    path.write_bytes(b"changed")
    assert fetched.fetched("k", url, None, {}).read_bytes() == Site.content
    assert Site.asked[2:] == ["all"]
    Site.content, Site.etag = b"another", '"two"'
    assert fetched.fetched("k", url, None, {}).read_bytes() == b"another"
    digest = hashlib.sha256(b"another").hexdigest()
    asked = len(Site.asked)
    assert fetched.fetched("k", url, digest, {}).read_bytes() == b"another"
    assert len(Site.asked) == asked


def test_a_download_goes_on_where_it_broke(site: str) -> None:
    """The rest of the same version; without parts, or with another version meanwhile, it is not made of two."""
    Site.cut = 2
    assert fetched.fetched("k", f"{site}/a", None, {}).read_bytes() == Site.content
    assert Site.asked == ["all", "bytes=1152000-", "bytes=1728000-"]
    Site.cut, Site.ranges = 1, False
    with pytest.raises(OSError, match=r"Data\('http://.*/b'\) could not be fetched: .*1152000"):
        fetched.fetched("k", f"{site}/b", None, {})
    assert not list((Path(os.environ["HOME"]) / "store").glob("*.part"))


@pytest.mark.parametrize("sized", [True, False])
def test_a_server_that_is_gone_for_a_moment_is_asked_again(
    site: str, monkeypatch: pytest.MonkeyPatch, sized: bool
) -> None:
    """As one that starts anew in the midst of a download; where no size was said, half of a file is not taken for all of it."""
    asked, gone = fetched._asked, [1, 2]

    def refused(url: str, headers: dict[str, str]) -> Any:
        if "Range" in headers and gone:
            gone.pop()
            raise urllib.error.URLError(ConnectionRefusedError())
        return asked(url, headers)

    monkeypatch.setattr(fetched, "_asked", refused)
    Site.cut, Site.sized = 1, sized
    assert fetched.fetched("k", f"{site}/a", None, {}).read_bytes() == Site.content
    assert (Site.asked, gone) == (["all", "bytes=1152000-"], [])


def test_half_a_file_of_a_server_that_stays_away_is_not_kept(site: str) -> None:
    """Under its tag it would be served again and again."""
    Site.cut, Site.sized, Site.troubles = 1, False, ["", *["gone"] * 6]
    with pytest.raises(OSError, match="could not be fetched: RemoteDisconnected"):
        fetched.fetched("k", f"{site}/a", None, {})
    assert Site.asked == ["all", *["bytes=1152000-"] * 6]
    assert list((Path(os.environ["HOME"]) / "store").iterdir()) == []
    assert fetched.fetched("k", f"{site}/a", None, {}).read_bytes() == Site.content


@pytest.mark.parametrize("before", [[], [""]], ids=["at first", "in the midst"])
def test_a_server_that_is_busy_silent_or_ends_is_asked_again(
    site: str, monkeypatch: pytest.MonkeyPatch, before: list[str]
) -> None:
    """Six times in a row, whatever it is; then the last trouble is told."""
    monkeypatch.setattr(fetched, "_TIMEOUT_S", 0.5)
    Site.cut = len(before)
    troubles: list[int | str] = [503, 429, "gone", "silent", 408]
    Site.troubles = [*before, *troubles]
    assert fetched.fetched("k", f"{site}/a", None, {}).read_bytes() == Site.content
    assert len(Site.asked) == len(before) + 6
    Site.cut, Site.troubles = len(before), [*before, *[502] * 6]
    with pytest.raises(OSError, match="HTTP Error 502"):
        fetched.fetched("k", f"{site}/b", None, {})
    assert Site.troubles == []


def test_a_server_that_says_when_to_come_again_is_waited_for(
    site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In seconds, or as a date; what is no time is none; and for too long nobody waits on a machine that costs money."""
    slept = list[float]()
    monkeypatch.setattr(time, "sleep", slept.append)
    soon = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    Site.troubles = ["429 2", f"503 {soon}", "429 soon", "503 -3"]
    assert fetched.fetched("k", f"{site}/a", None, {}).read_bytes() == Site.content
    assert slept[0] == 2.0
    assert 25 < slept[1] <= 30
    assert max(slept[2:]) < 0.1
    Site.troubles = ["429 3600"]
    with pytest.raises(OSError, match=r"429.* it asks to come again in 3600 s"):
        fetched.fetched("k", f"{site}/b", None, {})
    assert len(slept) == 4


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_final_at_once(site: str, status: int) -> None:
    """Also of the rest of a file."""
    Site.troubles = [status]
    with pytest.raises(OSError, match=str(status)):
        fetched.fetched("k", f"{site}/a", None, {})
    Site.cut, Site.troubles = 1, ["", status]
    with pytest.raises(OSError, match=str(status)):
        fetched.fetched("k", f"{site}/a", None, {})
    assert Site.asked == ["all", "all", "bytes=1152000-"]


def test_a_certificate_that_is_not_trusted_is_final() -> None:
    """And so is an address that is none; a name that is not found may be by the next time."""
    wrong = urllib.error.URLError(ssl.SSLCertVerificationError(1, "self-signed"))
    assert fetched._is_final(wrong)
    assert fetched._is_final(http.client.InvalidURL("a b"))
    assert not fetched._is_final(urllib.error.URLError(socket.gaierror(-3, "temporary")))
    assert not fetched._is_final(http.client.BadStatusLine("nothing"))


def test_a_full_disk_is_no_broken_connection(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be full the next time, too."""

    class Full(io.BytesIO):
        def write(self, *_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    answer = fetched._asked(f"{site}/a", {})
    with pytest.raises(OSError, match="No space left"):
        fetched._copy(answer, Full(), fetched.Progress("x"))
    assert answer.closed


@pytest.mark.parametrize(
    ("path", "sha256", "words"), [("/a", SHA, f"and not {SHA}"), ("/missing", None, "404")]
)
def test_what_is_not_there_or_is_not_it_is_an_error(
    site: str, path: str, sha256: str | None, words: str
) -> None:
    """And is not kept, nor is the connection."""
    with pytest.raises(OSError, match=words) as refused:
        fetched.fetched("k", site + path, sha256, {})
    cause = refused.value.__cause__
    assert not isinstance(cause, urllib.error.HTTPError) or cause.closed
    store = Path(os.environ["HOME"]) / "store"
    assert list(store.iterdir()) == []


def test_a_server_that_leads_away_from_https_is_not_followed() -> None:
    """Anybody on the way could alter what comes; a digest tells."""
    fetched._check_safe("https://a/x", "https://b/x", None)
    fetched._check_safe("https://a/x", "http://b/x", SHA)
    with pytest.raises(OSError, match="give sha256="):
        fetched._check_safe("HTTPS://a/x", "http://b/x", None)


def test_a_call_fetches_without_dayfly(site: str, tmp_path: Path) -> None:
    """The code for it travels with the call."""
    digest = hashlib.sha256(Site.content).hexdigest()
    value = far.call(tmp_path, lambda given: given.read_bytes(), Data(f"{site}/x", sha256=digest))
    assert value == Site.content


def test_a_file_system_of_fsspec_is_fetched_once_for_each_version(
    site: str, tmp_path: Path
) -> None:
    """A folder, and a file; the file system here is that of this computer."""
    folder = tmp_path / "bucket" / "set"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a").write_text("a")
    (folder / "b").write_text("bb")
    path = fetched.fetched("k", f"file://{folder}", None, {})
    assert (path.name, (path / "deep" / "a").read_text(), (path / "b").read_text()) == (
        "set",
        "a",
        "bb",
    )
    kept = (path / "b").stat().st_ino
    (folder / "deep" / "a").write_text("changed")
    path = fetched.fetched("k", f"file://{folder}", None, {})
    assert (path / "deep" / "a").read_text() == "changed"
    assert (path / "b").stat().st_ino == kept
    digest = hashlib.sha256(b"bb").hexdigest()
    assert fetched.fetched("k", f"file://{folder}/b", digest, {}).read_text() == "bb"
    with pytest.raises(OSError, match="and not"):
        fetched.fetched("k", f"file://{folder}/b", SHA, {})
    with pytest.raises(OSError, match="could not be fetched"):
        fetched.fetched("k", f"file://{folder}/none", None, {})


def test_a_tag_that_is_an_md5_is_held_against_the_file(tmp_path: Path) -> None:
    """As S3's are, but for what was uploaded in parts; the size is held always."""
    (tmp_path / "x").write_bytes(b"x")
    right = hashlib.md5(b"x", usedforsecurity=False).hexdigest()
    check = fetched_objects.check_version
    check(tmp_path / "x", {"size": 1, "ETag": f'"{right}"'}, "x")
    check(tmp_path / "x", {"size": 1, "ETag": f'"{right}-2"'}, "x")
    with pytest.raises(OSError, match="not what its ETag says"):
        check(tmp_path / "x", {"size": 1, "ETag": "0" * 32}, "x")
    with pytest.raises(OSError, match="has 1 bytes, and 2 were announced"):
        check(tmp_path / "x", {"size": 2}, "x")


@pytest.mark.parametrize(
    ("right", "wrong", "label"),
    [
        ({"md5Hash": "ndTkYSaMgDT1yFZOFVxnpg=="}, {"md5Hash": "A" * 22 + "=="}, "md5Hash"),
        ({"lfs": {"sha256": SHA}}, {"lfs": {"sha256": "0" * 64}}, "SHA-256"),
        (
            {"blob_id": "c1b0730e0133447badcfd47fd144e254807b06e1"},
            {"blob_id": "0" * 40},
            "Git id",
        ),
    ],
)
def test_what_other_stores_say_of_a_file_is_held_against_it(
    tmp_path: Path, right: dict[str, Any], wrong: dict[str, Any], label: str
) -> None:
    """Google's MD5, a hub's SHA-256 of what is large, and Git's id of what is not."""
    (tmp_path / "x").write_bytes(b"x")
    fetched_objects.check_version(tmp_path / "x", {"size": 1, **right}, "x")
    with pytest.raises(OSError, match=f"not what its {label} says"):
        fetched_objects.check_version(tmp_path / "x", {"size": 1, **wrong}, "x")


def test_nothing_of_a_url_s_query_or_of_options_is_in_an_error(
    site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor in the lines of what the library has raised, which come home as the cause."""

    def raises(*_: Any, **given: Any) -> Any:
        raise OSError(f"GET {given['options']['deep']['secret']} failed")

    monkeypatch.setattr(fetched, "from_file_system", raises)
    hidden = {"deep": {"secret": "hush-hush"}, "anon": True}
    with pytest.raises(OSError, match=r"GET \[secret\] failed") as refused:
        fetched.fetched("k", "s3://bucket/x", None, hidden)
    assert refused.value.__cause__ is None
    # Not in the call's own line, which is one of the traceback's.
    signed = f"{site}/missing?signature=hush-hush"
    with pytest.raises(OSError, match="404") as missing:
        fetched.fetched("k", signed, None, {})
    assert "hush" not in "".join(traceback.format_exception(missing.value))


def test_a_fetch_that_takes_long_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Now and then, on the function's own log."""
    progress = fetched.Progress("s3://bucket/x")
    progress.total = 4_000_000
    progress.add(1_000_000)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(fetched, "_TOLD_EVERY_S", 0.0)
    progress.add(1_000_000)
    assert capsys.readouterr().err == "dayfly: s3://bucket/x: 2.0 of 4.0 MB so far\n"
