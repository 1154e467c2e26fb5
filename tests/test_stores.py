"""Data behind the URLs of buckets and of a hub: a machine fetches it with the libraries themselves, from servers on loopback."""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dayfly import Data
from dayfly.runtime import payload
from dayfly.runtime.agent import frames
from dayfly.runtime.cargo import Cargo
from dayfly.runtime.records import Task
from tests.emulators.gcs import gcs
from tests.emulators.hub import hub
from tests.emulators.s3 import KEY, KEY_ID, s3
from tests.proxy import proxy
from tests.test_session import Outcome, Runs, pickler, runs, server

__all__ = ["pickler", "runs", "server"]
pytestmark = pytest.mark.sshd
LARGE = bytes(range(251)) * 80_000


@dataclass(frozen=True)
class Place:
    """One store.

    Attributes:
        base: of its URLs.
        put: puts a content at a path below.
        options: for its file system.
        secrets: what the function's process has to be given.
        broken: while it lasts one download breaks half way; gives the options that lead there.
        closed: while it lasts nobody may see anything; gives the options and the secrets with which it is tried.
        hidden: what must not be shown, whatever happens.
    """

    base: str
    put: Callable[[str, bytes], None]
    options: dict[str, Any]
    secrets: dict[str, str]
    broken: Callable[[], AbstractContextManager[dict[str, Any]]]
    closed: Callable[[], AbstractContextManager[tuple[dict[str, Any], dict[str, str]]]]
    hidden: tuple[str, ...]


@contextlib.contextmanager
def _s3() -> Iterator[Place]:
    with s3() as store:
        bucket = store.make("data")
        region = {"AWS_DEFAULT_REGION": "us-east-1"}

        def options(port: int) -> dict[str, Any]:
            return {"endpoint_url": f"http://127.0.0.1:{port}", "key": KEY_ID, "secret": KEY}

        @contextlib.contextmanager
        def broken() -> Iterator[dict[str, Any]]:
            with proxy(store.port) as between, _cut_once(between):
                yield options(between.port)

        @contextlib.contextmanager
        def closed() -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
            with store.demand_credentials():
                yield options(store.port), region

        yield Place(
            f"s3://{bucket}",
            lambda path, data: store.put(f"{bucket}/{path}", data),
            options(store.port),
            region,
            broken,
            closed,
            (KEY, KEY_ID),
        )


@contextlib.contextmanager
def _cut_once(between: Any) -> Iterator[None]:
    """The first connection that has carried so much is reset, and no other."""
    between.cut_after = 150_000
    over = threading.Event()

    def watch() -> None:
        while not between.cuts and not over.wait(0.005):
            pass
        between.cut_after = None

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
        assert between.cuts >= 1
    finally:
        over.set()
        watching.join()


@contextlib.contextmanager
def _gs() -> Iterator[Place]:
    with gcs() as store:
        # What it would ask Google about a bucket by another protocol first.
        plain = {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}

        @contextlib.contextmanager
        def broken() -> Iterator[dict[str, Any]]:
            store.cut = 1
            yield store.options
            assert store.cut == 0

        @contextlib.contextmanager
        def closed() -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
            # It is never shown, since nobody needs it.
            yield {**store.options, "token": "anon"}, plain

        key = store.account["private_key"].splitlines()[1]
        yield Place(
            "gs://data",
            lambda path, data: store.put(f"data/{path}", data),
            store.options,
            plain,
            broken,
            closed,
            (key,),
        )


@contextlib.contextmanager
def _hf() -> Iterator[Place]:
    with hub() as store:
        quiet = {
            "HF_ENDPOINT": store.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }

        @contextlib.contextmanager
        def broken() -> Iterator[dict[str, Any]]:
            store.cut = 1
            yield {}
            assert store.cut == 0

        @contextlib.contextmanager
        def closed() -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
            yield {}, {**quiet, "HF_TOKEN": f"hf_{secrets.token_hex(17)}"}

        yield Place(
            "hf://datasets/owner/set",
            lambda path, data: store.put(f"datasets/owner/set/{path}", data),
            {},
            {**quiet, "HF_TOKEN": store.token},
            broken,
            closed,
            (store.token,),
        )


@pytest.fixture(scope="module", params=[_s3, _gs, _hf], ids=["s3", "gs", "hf"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with request.param() as made:
        yield made


def fetch(runs: Runs, data: Data, given: dict[str, str]) -> Outcome:
    """How a job ends that finds what it was given: the name, and the digest of each file."""

    def function(path: Path) -> tuple[str, dict[str, str]]:
        files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        found = {
            "" if p == path else p.relative_to(path).as_posix(): hashlib.sha256(
                p.read_bytes()
            ).hexdigest()
            for p in files
        }
        return path.name, found

    packed, keys = payload.pack(function, (data,), {}), runs.server.keys
    with runs.session() as session:
        cache = runs.server.machine.cache_dir
        variables = Cargo(packed.data).bring(session, cache, lambda *_: None)
        sealed = packed.task.sealed(keys.hmac_key, keys.run_id, frames.TASK_SEQ)
        # The interpreter that has the libraries: that of this virtual environment.
        task = Task(
            sealed,
            sys.executable,
            runs.pickler,
            variables=variables,
            secrets=given,
        )
        session.start(task)
        outcome = runs.outcome(session)
    # Another job is another run's.
    runs.job.rename(runs.job.with_name(f"former-{secrets.token_hex(4)}"))
    return outcome


def digests(**contents: bytes) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}


def kept(runs: Runs) -> dict[str, int]:
    """Which contents the machine keeps, and in which files."""
    folder = Path(runs.server.machine.cache_dir, "urls")
    names = re.compile(r"[0-9a-f]{64}")
    return {p.name: p.stat().st_ino for p in folder.iterdir() if names.fullmatch(p.name)}


def refusal(outcome: Outcome, place: Place) -> str:
    """Why a job's data could not be had; nothing that is hidden is said anywhere."""
    assert outcome.header["outcome"] == "raised", outcome.header
    assert isinstance(outcome.value, OSError)
    said = f"{outcome.value}\n{outcome.header['traceback']}\n{outcome.stderr.decode()}"
    assert not [secret for secret in place.hidden if secret in said]
    return str(outcome.value)


def test_a_folder_comes_once_in_each_version(runs: Runs, place: Place) -> None:
    """Another job on the same machine fetches what has changed since, and nothing else."""
    middle = b"b" * 300_000
    for path, content in (("a", b"a"), ("deep/b", middle), ("deep/c", LARGE[: 3 << 20])):
        place.put(f"one/{path}", content)
    data = Data(f"{place.base}/one", options=place.options)
    first = fetch(runs, data, place.secrets)
    expected = {
        **digests(a=b"a"),
        "deep/b": hashlib.sha256(middle).hexdigest(),
        "deep/c": hashlib.sha256(LARGE[: 3 << 20]).hexdigest(),
    }
    assert first.value == ("one", expected)
    assert f"{place.base}/one: 3.4 MB".encode() in first.stderr
    before = kept(runs)
    place.put("one/a", b"changed")
    assert fetch(runs, data, place.secrets).value == ("one", {**expected, **digests(a=b"changed")})
    after = kept(runs)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == set(digests(a=b"changed").values())


def test_one_file_is_held_against_its_digest(runs: Runs, place: Place) -> None:
    """Another one is not kept, and not handed over; a folder has none."""
    place.put("two/x.bin", b"x" * 1000)
    right = hashlib.sha256(b"x" * 1000).hexdigest()

    def asked(path: str, sha256: str) -> Outcome:
        data = Data(f"{place.base}/{path}", sha256=sha256, options=place.options)
        return fetch(runs, data, place.secrets)

    wrong = asked("two/x.bin", "0" * 64)
    assert f"its SHA-256 is {right}, and not {'0' * 64}" in refusal(wrong, place)
    assert kept(runs) == {}
    assert asked("two/x.bin", right).value == ("x.bin", {"": right})
    folder = asked("two", right)
    assert "sha256= is for one file, and this is a folder" in refusal(folder, place)


def test_what_is_not_there_is_said(runs: Runs, place: Place) -> None:
    """A file, a folder and a bucket that nobody has made."""
    place.put("three/x", b"x")
    for url in (f"{place.base}/three/none", f"{place.base}-none/x/y"):
        said = refusal(fetch(runs, Data(url, options=place.options), place.secrets), place)
        assert said.startswith(f"Data({url!r}) could not be fetched: ")


def test_who_may_not_see_it_is_told_so_without_a_word_of_the_credentials(
    runs: Runs, place: Place
) -> None:
    """Whatever the library says of them."""
    place.put("four/x", b"x")
    with place.closed() as (options, given):
        outcome = fetch(runs, Data(f"{place.base}/four/x", options=options), given)
    assert "could not be fetched: " in refusal(outcome, place)
    assert kept(runs) == {}


def test_a_key_that_google_refuses_is_shown_to_it_once(runs: Runs) -> None:
    """Its own file system would go on with it for half a minute, and say nothing of the reason."""
    with gcs() as store, gcs() as other:
        store.put("data/x", b"x")
        account = {**store.account, "private_key": other.account["private_key"]}
        data = Data("gs://data/x", options={**store.options, "token": account})
        outcome = fetch(runs, data, {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"})
        away = {**store.account, "token_uri": "http://127.0.0.1:9/token"}
        data = Data("gs://data/x", options={**store.options, "token": away})
        gone = fetch(runs, data, {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"})
    assert str(outcome.value).endswith("are refused: invalid_grant: Invalid JWT Signature.")
    assert store.refused == 1
    # Nobody has refused it there.
    assert "TransportError" in str(gone.value)
    assert account["private_key"].splitlines()[1] not in outcome.header["traceback"]
    assert outcome.stderr == b""


@pytest.mark.parametrize("size", [400_000, len(LARGE)], ids=["small", "in pieces"])
def test_a_download_that_breaks_goes_on(runs: Runs, place: Place, size: int) -> None:
    """What comes is whole; of a large file only the piece that broke comes again."""
    data = LARGE[:size]
    place.put(f"five/{size}", data)
    with place.broken() as options:
        given = Data(f"{place.base}/five/{size}", options=options)
        value = fetch(runs, given, place.secrets).value
    assert value == (str(size), digests(**{"": data}))
    assert list(kept(runs)) == [hashlib.sha256(data).hexdigest()]


def test_credentials_come_as_variables_too(runs: Runs) -> None:
    """As a function is given them by `secrets=`: those of the library, and fsspec's own settings."""
    settings = {"FSSPEC_S3_KEY": KEY_ID, "FSSPEC_S3_SECRET": KEY}
    with s3() as store:
        store.make("data")
        store.put("data/x", b"x")
        for given in (store.variables(), {**settings, "FSSPEC_S3_ENDPOINT_URL": store.url}):
            outcome = fetch(runs, Data("s3://data/x"), given)
            assert outcome.value == ("x", digests(**{"": b"x"}))
