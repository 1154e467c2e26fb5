"""The emulated API keeps the rules of its description, seen by a client that knows nothing of how it is made."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.emulators.lambda_cloud import Emulator, Options
from tests.emulators.plain_client import Client, basic, public_key
from tests.emulators.until import until

pytestmark = pytest.mark.process

FAST = Options(
    time_scale=100, request_interval_s=0, launch_interval_s=0, machines=False, listing_lag_s=0
)
INVALID = (400, "global/invalid-parameters")
MISSING = (404, "global/object-does-not-exist")


@pytest.fixture(scope="module")
def cloud() -> Iterator[Emulator]:
    with Emulator(FAST) as running:
        yield running


@pytest.fixture(scope="module")
def api(cloud: Emulator) -> Client:
    client = Client(cloud)
    client.add_key()
    return client


# -- authentication


@pytest.mark.parametrize("scheme", ["Bearer {}", "bearer {}", "Basic {}", "curl"])
def test_a_key_is_taken_in_every_documented_way(api: Client, scheme: str) -> None:
    """As a bearer, as curl's -u sends it, and bare behind Basic."""
    key = api.cloud.api_key
    header = basic(f"{key}:") if scheme == "curl" else scheme.format(key)
    assert api.ask("GET", "/regions", authorization=header).status == 200


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer wrong", "Token {}", "Basic wrong", "{}", "password", "Bearer {}x"],
)
def test_anything_else_is_401(api: Client, header: str | None) -> None:
    """A request without a supported header fails, and so does one with another key."""
    key = api.cloud.api_key
    sent = basic(f"{key}:{key}") if header == "password" else header and header.format(key)
    answer = api.ask("GET", "/instances", authorization=sent)
    assert answer.refused == (401, "global/invalid-api-key")


def test_the_account_can_be_out_of_order(api: Client) -> None:
    """403 with the code that says what is wrong."""
    try:
        api.cloud.set_account(active=False)
        assert api.get("/instances").refused == (403, "global/account-inactive")
        api.cloud.set_account(address=False)
        assert api.get("/instances").status == 200
        assert api.launch().refused == (403, "global/invalid-address")
        made = api.post("/filesystems", {"name": "a", "region": "us-east-1"})
        assert made.refused == (403, "global/invalid-address")
    finally:
        api.cloud.set_account()


def test_a_key_may_be_kept_from_seeing_instances(api: Client) -> None:
    """403, by the description for these two alone; what needs no look at an instance is done."""
    id = api.launched()
    try:
        api.cloud.set_account(instances=False)
        for path in ("/instances", f"/instances/{id}", "/instances/nobody"):
            assert api.get(path).refused == (403, "global/forbidden")
        assert api.get("/ssh-keys").status == 200
        assert api.terminate(id).status == 200
    finally:
        api.cloud.set_account()
    assert api.status(id) in ("terminating", "terminated")


def test_a_revoked_key_opens_nothing_and_a_new_one_does(api: Client) -> None:
    """The account goes on."""
    keys = api.get("/ssh-keys").data
    api.cloud.revoke_key()
    assert api.get("/ssh-keys").refused == (401, "global/invalid-api-key")
    api.cloud.replace_key()
    assert api.get("/ssh-keys").data == keys


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/nothing"), ("GET", "/tickets"), ("PUT", "/instances"), ("DELETE", "/regions")],
)
def test_an_address_without_an_operation_is_404(api: Client, method: str, path: str) -> None:
    """In the documented envelope."""
    assert api.ask(method, path).refused == (404, "global/not-found")


# -- what is sold


def test_types_have_price_specs_and_the_regions_with_capacity(api: Client) -> None:
    """In the documented shape; what is left out of the listing is what has none."""
    api.cloud.set_capacity("gpu_1x_h100_pcie", "us-west-1", 0)
    types = api.get("/instance-types").data
    one = types["gpu_1x_a100_sxm4"]["instance_type"]
    assert one["description"] == "1x A100 (40 GB SXM4)"
    assert one["gpu_description"] == "A100 (40 GB SXM4)"
    assert one["price_cents_per_hour"] == 199
    assert one["specs"] == {"vcpus": 30, "memory_gib": 220, "storage_gib": 512, "gpus": 1}
    assert types["gpu_1x_gh200"]["instance_type"]["architecture"] == "arm64"
    listed = types["gpu_1x_h100_pcie"]["regions_with_capacity_available"]
    assert {"name": "us-east-1", "description": "Virginia, USA"} in listed
    assert "us-west-1" not in [region["name"] for region in listed]


def test_regions_and_images_are_listed(api: Client) -> None:
    """Every image names its region and architecture; ids are unique."""
    names = {region["name"] for region in api.get("/regions").data}
    images = api.get("/images").data
    assert {image["region"]["name"] for image in images} == names
    assert {image["architecture"] for image in images} == {"x86_64", "arm64"}
    assert len({image["id"] for image in images}) == len(images)


# -- SSH keys


def test_a_key_is_stored_once_by_name(api: Client) -> None:
    """The second of a name is refused; without a public key a pair is made, whose private half is shown this once."""
    made = api.post("/ssh-keys", {"name": "made"}).data
    assert made["private_key"].startswith("-----BEGIN RSA PRIVATE KEY-----")
    again = api.post("/ssh-keys", {"name": "made", "public_key": public_key()})
    assert again.refused == INVALID
    assert "must be unique" in again.json["error"]["message"]
    (shown,) = [key for key in api.get("/ssh-keys").data if key["name"] == "made"]
    assert set(shown) == {"id", "name", "public_key"}
    assert api.delete(f"/ssh-keys/{made['id']}").data == {}
    assert api.delete(f"/ssh-keys/{made['id']}").refused == (404, "global/not-found")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": "n" * 65},
        {"name": 1},
        {"name": "n", "public_key": ""},
        {"name": "n", "public_key": "ssh-ed25519 nonsense"},
        {"name": "n", "public_key": "k" * 4097},
        {"name": "n", "other": 1},
        [],
        b"not json",
        None,
    ],
)
def test_a_key_that_is_not_as_described_is_refused(api: Client, body: Any) -> None:
    """By every field."""
    assert api.post("/ssh-keys", body).refused == INVALID


# -- launches


@pytest.mark.parametrize(
    "changed",
    [
        {"region_name": None},
        {"region_name": "mars-1"},
        {"instance_type_name": None},
        {"ssh_key_names": None},
        {"ssh_key_names": []},
        {"ssh_key_names": ["key", "key"]},
        {"ssh_key_names": "key"},
        {"ssh_key_names": [1]},
        {"name": "n" * 65},
        {"hostname": ""},
        {"hostname": "Upper"},
        {"hostname": "-a"},
        {"hostname": "a_b"},
        {"hostname": "a" * 64},
        {"hostname": "a\n"},
        {"user_data": "u" * 1_000_001},
        {"user_data": 1},
        {"tags": [{"key": "k", "value": "v"}]},
        {"tags": [{"key": "Upper", "value": "v"}]},
        {"tags": [{"key": "k" * 56, "value": "v"}]},
        {"tags": [{"key": "key", "value": "v" * 129}]},
        {"tags": [{"key": "key"}]},
        {"tags": {"key": "value"}},
        {"image": {}},
        {"image": {"id": "a", "family": "b"}},
        {"quantity": 2},
        {"file_system_mounts": [{"mount_point": "/etc", "file_system_id": "a"}]},
        {"spot": True},
    ],
)
def test_a_launch_that_is_not_as_described_is_refused(api: Client, changed: dict[str, Any]) -> None:
    """And nothing is made of it; the message names the field."""
    before = len(api.cloud.events("launch_accepted"))
    refused = api.launch(**changed)
    assert refused.refused == INVALID
    assert next(iter(changed)) in refused.json["error"]["message"] or "image" in changed
    assert len(api.cloud.events("launch_accepted")) == before


@pytest.mark.parametrize(
    "changed",
    [
        {"instance_type_name": "gpu_1x_abacus"},
        {"ssh_key_names": ["nobody's"]},
        {"image": {"family": "windows"}},
        {"image": {"family": "gpu-base-22-04"}, "instance_type_name": "gpu_1x_gh200"},
        {"file_system_names": ["nothing"]},
        {"file_system_mounts": [{"mount_point": "/data/x", "file_system_id": "a"}]},
        {"firewall_rulesets": [{"id": "a"}]},
    ],
)
def test_a_launch_that_names_what_does_not_exist_is_404(
    api: Client, changed: dict[str, Any]
) -> None:
    """With the code that clients branch on."""
    assert api.launch(**changed).refused == MISSING


def test_the_largest_allowed_values_are_allowed(api: Client) -> None:
    """Each at its limit."""
    tags = [{"key": "k" * 55, "value": "v" * 128}, {"key": "a:b-1", "value": ""}]
    id = api.launched(
        name="n" * 64,
        hostname="0" + "a" * 62,
        user_data="#" * 1_000_000,
        tags=tags,
        quantity=1,
        image={"family": "ubuntu-lts"},
    )
    row = api.get(f"/instances/{id}").data
    assert row["tags"] == tags
    assert row["name"] == "n" * 64


def test_an_instance_is_shown_as_described(api: Client) -> None:
    """From booting without an ip to active with one, with its secrets, and never its user data."""
    id = api.launched(name="shown", user_data="#cloud-config\n# canary\n")
    until(lambda: "ip" in api.get(f"/instances/{id}").data and api.status(id) == "active")
    row = api.get(f"/instances/{id}").data
    assert re.fullmatch(r"(198\.51\.100|203\.0\.113|192\.0\.2)\.\d+", row["ip"])
    assert row["hostname"] == row["ip"].replace(".", "-")
    assert row["region"] == {"name": "us-east-1", "description": "Virginia, USA"}
    assert row["instance_type"]["name"] == "gpu_1x_a10"
    assert row["ssh_key_names"] == ["key"]
    assert row["jupyter_token"] in row["jupyter_url"]
    assert row["actions"]["terminate"] == {"available": True}
    assert set(row["actions"]) == {"migrate", "rebuild", "restart", "cold_reboot", "terminate"}
    assert "canary" not in json.dumps(row)
    assert row in api.get("/instances").data
    assert api.get("/instances?cluster_id=a").data == []


def test_a_launch_without_capacity_is_refused_and_names_other_regions(api: Client) -> None:
    """The listing is advice: it can say yes where there is nothing, and no where there is."""
    api.cloud.set_capacity("gpu_8x_v100_n", "us-east-1", 0, listed=True)
    api.cloud.set_capacity("gpu_8x_v100_n", "us-west-1", 1, listed=False)
    api.cloud.set_capacity("gpu_8x_v100_n", "us-west-2", 5)
    wanted = {"instance_type_name": "gpu_8x_v100_n"}
    refused = api.launch(**wanted)
    assert refused.refused == (400, "instance-operations/launch/insufficient-capacity")
    assert "us-west-2" in refused.json["error"]["suggestion"]
    assert "us-west-1" not in refused.json["error"]["suggestion"]
    listed = api.get("/instance-types").data["gpu_8x_v100_n"]["regions_with_capacity_available"]
    assert [region["name"] for region in listed] == ["us-west-2", "us-east-1"]
    last = api.launched(**wanted, region_name="us-west-1")
    assert api.launch(**wanted, region_name="us-west-1").status == 400
    api.terminate(last)
    until(lambda: api.status(last) == "terminated")
    api.launched(**wanted, region_name="us-west-1")


def test_an_instance_can_only_be_renamed(api: Client) -> None:
    """Tags stay as they were launched."""
    id = api.launched(name="before")
    assert api.post(f"/instances/{id}", {"name": "after"}).data["name"] == "after"
    assert api.post(f"/instances/{id}", {"name": "n" * 65}).refused == INVALID
    assert api.post(f"/instances/{id}", {"tags": []}).refused == INVALID
    assert api.post("/instances/nobody", {"name": "n"}).refused == MISSING


# -- the end of instances


def test_a_terminated_instance_lingers_and_is_then_unlisted(api: Client) -> None:
    """Terminating at once, terminated a little later, for a while in the listing, then nowhere."""
    id = api.launched()
    (shown,) = api.terminate(id).data["terminated_instances"]
    assert (shown["id"], shown["status"]) == (id, "terminating")
    assert shown["actions"]["terminate"]["reason_code"] == "vm-is-terminating"
    until(lambda: api.status(id) == "terminated")
    row = api.get(f"/instances/{id}").data
    assert "ip" not in row
    assert row in api.get("/instances").data
    assert api.terminate(id).data["terminated_instances"] == [row]
    until(lambda: api.get(f"/instances/{id}").status == 404)
    assert api.get(f"/instances/{id}").refused == MISSING
    assert id not in [row["id"] for row in api.get("/instances").data]
    assert api.terminate(id).refused == MISSING


def test_terminate_ends_all_or_none(api: Client) -> None:
    """One unknown id and nothing happens."""
    first, second = api.launched(), api.launched()
    assert api.terminate(first, "nobody").refused == MISSING
    assert api.terminate().refused == INVALID
    assert api.post("/instance-operations/terminate", {}).refused == INVALID
    assert {api.status(first), api.status(second)} <= {"booting", "active"}
    assert len(api.terminate(first, second, first).data["terminated_instances"]) == 2


def test_an_instance_may_be_unhealthy_or_preempted(api: Client) -> None:
    """An unhealthy one goes on costing money, a preempted one does not, and neither comes back by itself."""
    sick, taken = api.launched(), api.launched()
    api.cloud.mark(sick, "unhealthy")
    api.cloud.mark(taken, "preempted")
    time.sleep(0.1)
    assert (api.status(sick), api.status(taken)) == ("unhealthy", "preempted")
    assert {sick: True, taken: False} == {
        id: id in [row["id"] for row in api.cloud.live()] for id in (sick, taken)
    }
    assert api.terminate(sick, taken).status == 200
    until(lambda: api.status(sick) == "terminated")
    assert api.status(taken) == "preempted"


def test_a_restart_boots_again_and_not_while_it_boots(api: Client) -> None:
    """409 for one that is not up."""
    id = api.launched()
    until(lambda: api.status(id) == "active")
    body = {"instance_ids": [id]}
    assert api.post("/instance-operations/restart", body).data["restarted_instances"][0]["id"] == id
    assert api.post("/instance-operations/restart", body).refused == (409, "global/conflict")
    until(lambda: api.status(id) == "active")
    api.terminate(id)
    assert api.post("/instance-operations/restart", body).refused == (409, "global/conflict")


# -- file systems


def test_a_file_system_belongs_to_a_region_and_is_kept_while_in_use(api: Client) -> None:
    """Mounted at its default or where the launch says; deleted only when nothing has it."""
    made = api.post("/filesystems", {"name": "data-1", "region": "us-west-1"}).data
    assert made["mount_point"] == "/lambda/nfs/data-1"
    assert made["is_in_use"] is False
    wrong = api.launch(file_system_names=["data-1"])
    assert wrong.refused == (400, "instance-operations/launch/file-system-in-wrong-region")
    mounts = [{"mount_point": "/data/x", "file_system_id": made["id"]}]
    id = api.launched(
        region_name="us-west-1", file_system_names=["data-1"], file_system_mounts=mounts
    )
    row = api.get(f"/instances/{id}").data
    assert (row["file_system_names"], row["file_system_mounts"]) == (["data-1"], mounts)
    assert [each["is_in_use"] for each in api.get("/file-systems").data] == [True]
    in_use = api.delete(f"/filesystems/{made['id']}")
    assert in_use.refused == (400, "filesystems/filesystem-in-use")
    api.terminate(id)
    until(lambda: api.status(id) == "terminated")
    assert [each["name"] for each in api.get("/file-systems").data] == ["data-1"]
    assert api.delete(f"/filesystems/{made['id']}").data == {"deleted_ids": [made["id"]]}
    assert api.delete(f"/filesystems/{made['id']}").refused == MISSING


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        ({"name": "1a", "region": "us-east-1"}, INVALID),
        ({"name": "a_b", "region": "us-east-1"}, INVALID),
        ({"name": "a" * 61, "region": "us-east-1"}, INVALID),
        ({"name": "a", "region": "mars-1"}, INVALID),
        ({"name": "a"}, INVALID),
        ({"name": "taken", "region": "us-west-1"}, (400, "global/duplicate")),
    ],
)
def test_a_file_system_that_is_not_as_described_is_refused(
    api: Client, body: Any, refused: tuple[int, str]
) -> None:
    """A name of which there is one already has a code of its own."""
    api.post("/filesystems", {"name": "taken", "region": "us-east-1"})
    assert api.post("/filesystems", body).refused == refused


# -- firewalls

RULE = {
    "protocol": "tcp",
    "port_range": [22, 22],
    "source_network": "203.0.113.9/32",
    "description": "ssh",
}


def test_a_ruleset_belongs_to_a_region_and_is_kept_while_in_use(api: Client) -> None:
    """A launch in another region refuses it; while a machine has it, it cannot be deleted."""
    body = {"name": "set", "region": "us-east-1", "rules": [RULE]}
    made = api.post("/firewall-rulesets", body).data
    assert made["rules"] == [RULE]
    wanted = [{"id": made["id"]}]
    assert api.launch(firewall_rulesets=wanted, region_name="us-west-1").refused == INVALID
    id = api.launched(firewall_rulesets=wanted)
    path = f"/firewall-rulesets/{made['id']}"
    assert api.get(path).data["instance_ids"] == [id]
    assert api.delete(path).refused == (400, "firewall-rulesets/firewall-ruleset-in-use")
    api.terminate(id)
    until(lambda: api.status(id) == "terminated")
    assert api.delete(path).data == {}
    assert api.delete(path).refused == MISSING
    assert api.get(path).refused == MISSING


def test_rulesets_can_be_changed_and_some_regions_have_none(api: Client) -> None:
    """Name, rules or both; us-south-1 has no firewall."""
    none = api.post("/firewall-rulesets", {"name": "n", "region": "us-south-1", "rules": []})
    assert none.refused == INVALID
    made = api.post("/firewall-rulesets", {"name": "n", "region": "us-east-2", "rules": []}).data
    path = f"/firewall-rulesets/{made['id']}"
    assert api.ask("PATCH", path, {"name": "m"}).data["name"] == "m"
    assert api.ask("PATCH", path, {"rules": [RULE]}).data["rules"] == [RULE]
    assert api.get("/firewall-rulesets").data == [api.get(path).data]
    assert api.delete(path).status == 200


@pytest.mark.parametrize(
    "changed",
    [
        {"protocol": "sctp"},
        {"port_range": [22]},
        {"port_range": [0, 22]},
        {"port_range": [23, 22]},
        {"port_range": [22, 70000]},
        {"port_range": None},
        {"protocol": "icmp"},
        {"source_network": "300.0.0.1/8"},
        {"source_network": "10.0.0.1/8"},
        {"source_network": "::/0"},
        {"description": "d" * 129},
        {"description": None},
    ],
)
def test_a_rule_that_is_not_as_described_is_refused(api: Client, changed: dict[str, Any]) -> None:
    """Ports for all but ICMP, networks without host bits."""
    rule = {name: value for name, value in (RULE | changed).items() if value is not None}
    body = {"name": "n", "region": "us-east-1", "rules": [rule]}
    assert api.post("/firewall-rulesets", body).refused == INVALID


def test_account_wide_rules_can_be_read_and_overwritten(api: Client) -> None:
    """The account's own, and the global ruleset; one address without a mask is a /32."""
    assert [rule["protocol"] for rule in api.get("/firewall-rules").data] == ["tcp", "icmp"]
    rule = RULE | {"source_network": "203.0.113.9"}
    assert api.ask("PUT", "/firewall-rules", {"data": [rule]}).data == [RULE]
    shown = api.ask("PATCH", "/firewall-rulesets/global", {"rules": [RULE]}).data
    assert shown["id"] == "global"
    assert api.get("/firewall-rulesets/global").data == shown
    assert api.ask("PATCH", "/firewall-rulesets/global", {"name": "n"}).refused == INVALID


# -- pace and paging


def test_a_request_that_comes_too_early_is_429() -> None:
    """Only the account's own requests count; what the description does not say, when to come back, is optional."""
    with Emulator(Options(request_interval_s=1000, machines=False, retry_after=True)) as cloud:
        api = Client(cloud)
        assert api.ask("GET", "/regions", authorization="Bearer wrong").status == 401
        assert api.get("/regions").status == 200
        too_early = api.get("/regions")
        assert too_early.status == 429
        assert 900 < int(too_early.headers["Retry-After"]) <= 1000
        assert api.ask("GET", "/regions", authorization="Bearer wrong").status == 401
        assert cloud.health()["requests_refused"] == 1


def test_launches_have_a_pace_of_their_own() -> None:
    """One that is refused for it is no launch; everything else may still be asked."""
    with Emulator(Options(request_interval_s=0, launch_interval_s=1000, machines=False)) as cloud:
        api = Client(cloud)
        api.add_key()
        assert api.launch().status == 200
        too_early = api.launch()
        assert too_early.status == 429
        assert "Retry-After" not in too_early.headers
        assert api.get("/regions").status == 200
        assert len(cloud.events("launch_accepted")) == 1
        assert cloud.health()["launches_refused"] == 1


def test_a_listing_lags_and_comes_in_pages() -> None:
    """A new instance is there by its id before it is listed; the token leads on to the end."""
    options = Options(
        request_interval_s=0, launch_interval_s=0, machines=False, listing_lag_s=0.4, page_size=2
    )
    with Emulator(options) as cloud:
        api = Client(cloud)
        api.add_key()
        ids = [api.launched() for _ in range(5)]
        assert api.get("/instances").json == {"data": []}
        assert api.status(ids[0]) == "booting"
        until(lambda: "page_token" in api.get("/instances").json)
        time.sleep(0.4)
        found, query = [], ""
        while True:
            page = api.get(f"/instances{query}").json
            found += [row["id"] for row in page["data"]]
            if "page_token" not in page:
                break
            query = f"?page_token={page['page_token']}"
        assert found == ids
        assert api.get("/instances?page_token=nonsense").refused == INVALID


def test_the_quota_counts_what_is_alive() -> None:
    """And says so with a code of its own."""
    options = Options(
        request_interval_s=0, launch_interval_s=0, machines=False, quota=1, terminating_s=0
    )
    with Emulator(options) as cloud:
        api = Client(cloud)
        api.add_key()
        id = api.launched()
        assert api.launch().refused == (400, "global/quota-exceeded")
        api.terminate(id)
        until(lambda: api.status(id) == "terminated")
        assert api.launch().status == 200
