"""Lambda Cloud's API: typed answers, errors by code, bounds, patience with what reads, and none with what creates."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from dayfly.errors import ConfigurationError
from dayfly.infra import lambda_endpoint, lambda_http, lambda_key
from dayfly.infra.lambda_api import LambdaApi
from dayfly.infra.lambda_errors import ApiError, Unanswered, code_in, kind_of
from dayfly.infra.lambda_key import LambdaKey
from dayfly.infra.lambda_records import Launch
from dayfly.infra.pace import Pace
from tests.emulators.lambda_cloud.emulator import Emulator
from tests.emulators.lambda_cloud.options import Options

pytestmark = pytest.mark.process

_SPOILT = [
    {"kind": "drop_before"},
    {"kind": "drop_after"},
    {"kind": "truncate"},
    {"kind": "not_json"},
    {"kind": "empty"},
    {"kind": "status", "status": 502},
    {"kind": "status", "status": 500, "acts": True},
]
_CPU = "cpu_4x_general"


@pytest.fixture(scope="module")
def cloud() -> Iterator[Emulator]:
    """One emulator for this file, without machines, pace and lag."""
    options = Options(
        machines=False,
        request_interval_s=0,
        launch_interval_s=0,
        listing_lag_s=0,
        time_scale=20,
        page_size=2,
        quota=20,
    )
    with Emulator(options) as emulator:
        yield emulator


@pytest.fixture(autouse=True)
def as_new(cloud: Emulator) -> Iterator[None]:
    """No fault and no stopped account is left for the next test."""
    yield
    cloud.clear_faults()
    cloud.set_account()


class Patience:
    """A clock that sleeping alone moves."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def now(self) -> float:
        return sum(self.slept)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture
def patience() -> Patience:
    """Of the client."""
    return Patience()


def _client(url: str, key: str, folder: Path, patience: Patience) -> LambdaApi:
    pace = Pace(folder, key, {"request": 0.0, "launch": 0.0})
    return LambdaApi(LambdaKey(key, "a test"), url, pace, now=patience.now, sleep=patience.sleep)


@pytest.fixture
def api(cloud: Emulator, tmp_path: Path, patience: Patience) -> LambdaApi:
    """A client of it."""
    return _client(cloud.url, cloud.api_key, tmp_path, patience)


def _launch(key: str = "k", **changes: Any) -> Launch:
    values: dict[str, Any] = {
        "name": "a-run",
        "region": "us-east-1",
        "instance_type": _CPU,
        "ssh_key": key,
        "tags": {"dayfly-run": "0" * 32},
        "user_data": "#cloud-config\n",
    }
    return Launch(**values | changes)


@pytest.fixture
def key(api: LambdaApi) -> Iterator[str]:
    """Name of a key in the account."""
    public = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICN+lJwsONkwrdsSnQsu1ydUkIuIg5oOC+Eslvmtt60T"
    id = api.add_ssh_key("k", public)
    yield "k"
    api.delete_ssh_key(id)


def test_types_come_with_prices_sizes_and_regions(api: LambdaApi) -> None:
    """As records; a second question may have another answer."""
    types = {row.name: row for row in api.instance_types()}
    a100 = types["gpu_1x_a100"]
    assert (a100.price_cents_per_hour, a100.vcpus, a100.memory_gib, a100.gpus) == (199, 30, 200, 1)
    assert (a100.gpu_description, a100.architecture) == ("A100 (40 GB PCIe)", "x86_64")
    assert "us-east-1" in a100.regions
    assert "us-east-1" in api.regions()
    assert api.file_systems() == []


def test_a_machine_comes_and_goes_and_all_pages_are_read(
    api: LambdaApi, cloud: Emulator, key: str
) -> None:
    """Its row carries what it was launched with; ending it twice is no error until it is forgotten."""
    ids = [api.launch(_launch(key, name=f"run-{number}")) for number in range(3)]
    rows = {row.id: row for row in api.instances()}
    assert set(ids) <= set(rows)
    assert rows[ids[0]].name == "run-0"
    assert rows[ids[0]].tags == {"dayfly-run": "0" * 32}
    for id in [*ids, *ids]:
        api.terminate(id)
    assert api.instance(ids[0]).state in ("stopping", "terminated")
    with pytest.raises(ApiError) as gone:
        api.terminate("0" * 32)
    assert gone.value.gone


def test_deleting_what_is_gone_is_success(api: LambdaApi) -> None:
    """A teardown may be tried again at any time."""
    rules = [
        {
            "protocol": "tcp",
            "port_range": [22, 22],
            "source_network": "203.0.113.7/32",
            "description": "",
        }
    ]
    id = api.add_ruleset("r", "us-east-1", rules)
    assert [ruleset.name for ruleset in api.rulesets() if ruleset.id == id] == ["r"]
    for _ in range(2):
        api.delete_ruleset(id)
        api.delete_ssh_key("0" * 32)


@pytest.mark.parametrize(
    ("account", "launch", "code", "kind"),
    [
        ({"active": False}, {}, "global/account-inactive", "auth"),
        ({"address": False}, {}, "global/invalid-address", "auth"),
        ({}, {"ssh_key": "nobody"}, "global/object-does-not-exist", "invalid"),
        ({}, {"instance_type": "gpu_9x"}, "global/object-does-not-exist", "invalid"),
        ({}, {"name": "n" * 65}, "global/invalid-parameters", "invalid"),
        (
            {},
            {"instance_type": "gpu_1x_gh200", "region": "us-west-1"},
            "instance-operations/launch/insufficient-capacity",
            "capacity",
        ),
    ],
)
def test_a_refusal_is_typed_by_its_code(
    api: LambdaApi,
    cloud: Emulator,
    key: str,
    *,
    account: dict[str, bool],
    launch: dict[str, str],
    code: str,
    kind: str,
) -> None:
    """And the message has code and fix, but no key."""
    cloud.set_capacity("gpu_1x_gh200", "us-west-1", 0)
    cloud.set_account(**account)
    with pytest.raises(ApiError) as refused:
        api.launch(_launch(key, **launch))
    cloud.set_account()
    assert not isinstance(refused.value, Unanswered)
    assert (refused.value.code, refused.value.kind) == (code, kind)
    assert code_in(str(refused.value)) == code
    assert kind_of(code_in(f"error: update failed\nerror: {refused.value}")) == kind
    assert ("Fix: " in str(refused.value)) == (kind == "auth")
    assert cloud.api_key not in str(refused.value) + repr(refused.value)


def test_a_key_that_may_not_see_instances_is_told_so(
    api: LambdaApi, cloud: Emulator, patience: Patience
) -> None:
    """Nothing is concluded from it, "there is none" least of all; nothing is tried again."""
    cloud.set_account(instances=False)
    asks: list[Callable[[], object]] = [api.instances, lambda: api.instance("0" * 32)]
    for ask in asks:
        with pytest.raises(ApiError, match="Fix: use a key of a member who may") as refused:
            ask()
        assert (refused.value.code, refused.value.kind) == ("global/forbidden", "auth")
        assert not refused.value.gone
    assert patience.slept == []


def test_a_full_quota_stops_at_once_with_the_fix(cloud: Emulator, tmp_path: Path) -> None:
    """No other region would help."""
    options = Options(machines=False, request_interval_s=0, launch_interval_s=0, quota=0)
    with Emulator(options) as full:
        api = _client(full.url, full.api_key, tmp_path, Patience())
        public = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICN+lJwsONkwrdsSnQsu1ydUkIuIg5oOC+Eslvmtt60T"
        api.add_ssh_key("k", public)
        with pytest.raises(ApiError, match=r"Fix: .*support") as refused:
            api.launch(_launch())
    assert refused.value.kind == "quota"


def test_a_wrong_key_is_told_without_the_key(
    cloud: Emulator, tmp_path: Path, patience: Patience
) -> None:
    """At once: nothing is tried again."""
    api = _client(cloud.url, "secret-wrong-key", tmp_path, patience)
    with pytest.raises(ApiError, match="make a new key") as refused:
        api.instances()
    assert refused.value.kind == "auth"
    assert patience.slept == []
    for text in (str(refused.value), repr(refused.value), repr(api)):
        assert "secret-wrong-key" not in text


@pytest.mark.parametrize("fault", _SPOILT, ids=lambda fault: "-".join(map(str, fault.values())))
def test_what_only_reads_is_tried_again(
    api: LambdaApi, cloud: Emulator, patience: Patience, fault: dict[str, Any]
) -> None:
    """Two bad answers are survived, with growing waits that are not the same for everybody."""
    cloud.add_faults([{"op": "list_ssh_keys", "at": at, **fault} for at in (1, 2)])
    assert api.ssh_keys() == []
    assert len(patience.slept) == 2


@pytest.mark.parametrize("fault", _SPOILT, ids=lambda fault: "-".join(map(str, fault.values())))
def test_what_creates_is_sent_once_and_says_that_it_does_not_know(
    api: LambdaApi, cloud: Emulator, key: str, fault: dict[str, Any]
) -> None:
    """Whatever became of the answer."""
    before = cloud.health()["calls"].get("launch", 0)
    cloud.add_faults([{"op": "launch", "at": 1, **fault}])
    with pytest.raises(Unanswered):
        api.launch(_launch(key))
    cloud.clear_faults()
    assert cloud.health()["calls"]["launch"] == before + 1
    for row in api.instances():
        api.terminate(row.id)


def test_an_api_that_asks_to_wait_is_waited_for(
    api: LambdaApi, cloud: Emulator, patience: Patience
) -> None:
    """Retry-After is honoured; one beyond the bound is an error that says so."""
    cloud.add_faults(
        [{"op": "list_ssh_keys", "at": 1, "kind": "status", "status": 429, "retry_after_s": 200}]
    )
    # The emulator's time goes twenty times as fast.
    assert api.ssh_keys() == []
    assert patience.slept[0] >= 10
    cloud.add_faults(
        [{"op": "list_ssh_keys", "kind": "status", "status": 429, "retry_after_s": 20 * 3600}]
    )
    with pytest.raises(ApiError) as refused:
        api.ssh_keys()
    assert (refused.value.kind, refused.value.code) == ("rate_limit", "http/429")


def test_patience_ends(api: LambdaApi, cloud: Emulator, patience: Patience) -> None:
    """An API that is down for good is an error within the bound."""
    cloud.add_faults([{"op": "list_ssh_keys", "kind": "status", "status": 503}])
    with pytest.raises(ApiError) as down:
        api.ssh_keys()
    assert down.value.kind == "transient"
    assert 80 < sum(patience.slept) < 110


def test_standing_in_line_uses_up_no_patience(
    cloud: Emulator, tmp_path: Path, patience: Patience
) -> None:
    """Where two hundred runs share a key, a request's turn may come after minutes."""

    class Line(Pace):
        def wait(self, kind: str, check: Callable[[], None] = lambda: None) -> None:
            patience.sleep(200.0)

    cloud.add_faults([{"op": "list_ssh_keys", "kind": "status", "status": 429, "at": [1, 2]}])
    line = Line(tmp_path, cloud.api_key, {})
    key = LambdaKey(cloud.api_key, "a test")
    api = LambdaApi(key, cloud.url, line, now=patience.now, sleep=patience.sleep)
    assert api.ssh_keys() == []
    assert sum(patience.slept) > 600


def test_an_answer_that_drips_is_given_up(
    api: LambdaApi, cloud: Emulator, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte is in time, and all of them together are not."""
    monkeypatch.setattr(lambda_http, "_TOTAL_S", 0.2)
    cloud.add_faults([{"op": "launch", "at": 1, "kind": "trickle", "delay_s": 1}])
    with pytest.raises(Unanswered, match="longer than"):
        api.launch(_launch(key))
    for row in api.instances():
        api.terminate(row.id)


def test_an_answer_that_never_comes_is_given_up(
    api: LambdaApi, cloud: Emulator, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The read bound."""
    monkeypatch.setattr(lambda_http, "_READ_S", 0.2)
    cloud.add_faults([{"op": "launch", "at": 1, "kind": "hold_answer"}])
    with pytest.raises(Unanswered, match="no answer"):
        api.launch(_launch(key))
    cloud.release()
    for row in api.instances():
        api.terminate(row.id)


def test_a_request_that_was_never_sent_has_made_nothing(tmp_path: Path) -> None:
    """Nobody listens: that is no doubt, but a plain failure."""
    api = _client("http://127.0.0.1:1/api/v1", "k", tmp_path, Patience())
    with pytest.raises(ApiError) as refused:
        api.launch(_launch())
    assert not isinstance(refused.value, Unanswered)
    assert refused.value.code == "dayfly/unreachable"


class _Canned(BaseHTTPRequestHandler):
    status, body, headers_seen = 200, b"", dict[str, str]()

    def do_GET(self) -> None:
        type(self).headers_seen = dict(self.headers)
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.end_headers()
        self.wfile.write(self.body)

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture
def canned() -> Iterator[str]:
    """A server that answers whatever a test says; its address."""
    with HTTPServer(("127.0.0.1", 0), _Canned) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


@pytest.mark.parametrize(
    ("status", "body", "code", "doubt"),
    [
        (302, b"", "dayfly/unanswered", True),
        (200, b"[1]", "dayfly/unanswered", True),
        (200, b'{"data": 7}', "dayfly/unanswered", True),
        (200, b'{"data": {"instance_ids": []}}', "dayfly/unanswered", True),
        (200, b'{"data": {"instance_ids": [""]}}', "dayfly/unanswered", True),
        (400, b"<html>", "dayfly/unanswered", True),
        (504, b"<html>", "http/504", True),
        (500, b'{"error": {"code": "global/unknown", "message": "?"}}', "global/unknown", True),
        (403, b"<html>", "global/forbidden", False),
        (401, b"", "global/invalid-api-key", False),
        (429, b"<html>", "http/429", False),
    ],
)
def test_an_answer_of_another_shape_is_a_doubt_unless_it_is_a_refusal(
    canned: str, tmp_path: Path, *, status: int, body: bytes, code: str, doubt: bool
) -> None:
    """No redirect is followed, so that the key goes nowhere else."""
    _Canned.status, _Canned.body = status, body
    with pytest.raises(ApiError) as error:
        _client(canned, "k", tmp_path, Patience()).launch(_launch())
    assert (error.value.code, isinstance(error.value, Unanswered)) == (code, doubt)


def test_half_a_listing_is_an_error(canned: str, tmp_path: Path) -> None:
    """Absence is concluded from listings."""
    _Canned.status, _Canned.body = 200, b'{"data": [{"id": "i-1"}]}'
    with pytest.raises(ApiError, match="not as documented"):
        _client(canned, "k", tmp_path, Patience()).instances()


def test_the_key_is_not_replaced_by_one_of_a_netrc(
    canned: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which requests would otherwise prefer."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login other password theirs\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    _Canned.status, _Canned.body = 200, b'{"data": []}'
    _client(canned, "mine", tmp_path, Patience()).ssh_keys()
    assert _Canned.headers_seen["Authorization"] == "Bearer mine"


class TestKey:
    """Where the key comes from."""

    def test_the_variable_comes_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """And says so; the value itself is not in the repr."""
        monkeypatch.setenv(lambda_key.VARIABLE, " the-secret\n")
        key = lambda_key.load()
        assert (key.secret, key.origin) == ("the-secret", "environment variable LAMBDA_API_KEY")
        assert "the-secret" not in repr(key)
        assert key.redacted("a the-secret b") == "a *** b"

    def test_a_file_of_one_s_own_will_do(self) -> None:
        """Nobody else may read it."""
        file = lambda_key.key_file()
        assert not lambda_key.is_there()
        file.parent.mkdir(parents=True)
        file.write_text("the-secret\n")
        for mode in (0o640, 0o604):
            file.chmod(mode)
            with pytest.raises(ConfigurationError, match=r"chmod 600") as refused:
                lambda_key.load()
            assert "the-secret" not in str(refused.value)
        file.chmod(0o600)
        assert (lambda_key.load().secret, lambda_key.is_there()) == ("the-secret", True)

    def test_what_cannot_be_read_is_named_with_the_next_step(self) -> None:
        """A folder in its place, or a file in the place of its folder; bytes that are no text are no key."""
        file = lambda_key.key_file()
        file.mkdir(parents=True)
        with pytest.raises(ConfigurationError, match=r"lambda_api_key.*directory.*chmod 600"):
            lambda_key.load()
        file.rmdir()
        file.write_bytes(b"\xff\xfe")
        file.chmod(0o600)
        with pytest.raises(ConfigurationError, match="holds no API key"):
            lambda_key.load()
        file.unlink()
        file.parent.rmdir()
        file.parent.write_text("")
        with pytest.raises(ConfigurationError, match=r"lambda_api_key.*chmod 600"):
            lambda_key.load()

    def test_without_one_the_message_says_where_to_get_it(self) -> None:
        """Both ways."""
        with pytest.raises(ConfigurationError, match=r"api-keys.*LAMBDA_API_KEY.*chmod 600"):
            lambda_key.load()

    @pytest.mark.parametrize("value", ["two words", "schlüssel", "line\nbreak"])
    def test_what_cannot_be_a_key_is_not_repeated(
        self, value: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It may be a secret all the same."""
        monkeypatch.setenv(lambda_key.VARIABLE, value)
        with pytest.raises(ConfigurationError, match="holds no API key") as refused:
            lambda_key.load()
        assert value not in str(refused.value)


class TestEndpoint:
    """The overrides for emulators."""

    def test_it_is_lambda_s_own_unless_said_otherwise(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A slash at the end changes nothing."""
        assert lambda_endpoint.base_url() == "https://cloud.lambda.ai/api/v1"
        assert not lambda_endpoint.is_emulated()
        monkeypatch.setenv("LAMBDA_API_URL", "http://127.0.0.1:8080/api/v1/")
        assert lambda_endpoint.base_url() == "http://127.0.0.1:8080/api/v1"
        assert lambda_endpoint.is_emulated()

    def test_the_key_is_never_sent_in_clear(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """But to this computer."""
        for url in ("http://cloud.lambda.ai/api/v1", "http://10.0.0.7/", "ftp://127.0.0.1"):
            monkeypatch.setenv("LAMBDA_API_URL", url)
            with pytest.raises(ConfigurationError, match="only sent over https"):
                lambda_endpoint.base_url()

    def test_time_goes_faster_on_an_emulator_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The real API would count every request that comes too early."""
        assert lambda_endpoint.time_scale() == 1.0
        monkeypatch.setenv("LAMBDA_TIME_SCALE", "10")
        with pytest.raises(ConfigurationError, match="emulators only"):
            lambda_endpoint.time_scale()
        monkeypatch.setenv("LAMBDA_API_URL", "http://127.0.0.1:8080")
        assert lambda_endpoint.time_scale() == 10.0
        for wrong in ("0.5", "fast", "inf", "nan"):
            monkeypatch.setenv("LAMBDA_TIME_SCALE", wrong)
            with pytest.raises(ConfigurationError, match="at least 1"):
                lambda_endpoint.time_scale()


def test_a_code_that_nobody_has_described_is_unknown() -> None:
    """Upstream faults pass by themselves."""
    assert kind_of("global/brand-new") == "unknown"
    assert kind_of("provider/internal-unavailable") == "transient"
    assert code_in("something odd happened") == ""
