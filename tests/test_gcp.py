"""Compute Engine: what is offered, what is declared, and what its API is asked, against the emulator's real HTTP server."""

from __future__ import annotations

import ipaddress
import json
import math
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dayfly.errors import BudgetExceeded, ConfigurationError, NoCapacity, ProvisionFailed, SpecError
from dayfly.infra import (
    cost,
    gcp_account,
    gcp_errors,
    gcp_prices,
    gcp_stack,
    port_map,
    providers,
    run_names,
)
from dayfly.infra.found import Found
from dayfly.infra.gcp_errors import GcpError
from dayfly.infra.gcp_place import Place
from dayfly.infra.offers import Offer
from dayfly.infra.providers.gcp import Gcp
from dayfly.infra.run import Run, new_id
from dayfly.infra.spec import Spec
from dayfly.runtime.market import offers as market
from tests import declared
from tests.emulators.gcp import Emulator
from tests.emulators.until import until

GCP = providers.load("gcp")
_CACHE = "dayfly.infra.gcp_prices.platformdirs.user_cache_path"


@pytest.fixture(scope="module")
def world() -> Iterator[Emulator]:
    """Rows alone: no machine has to boot."""
    with Emulator(machines=False) as emulator:
        yield emulator


@pytest.fixture
def cloud(world: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """As the environment tells of it, and empty again afterwards."""
    for name, value in world.environment().items():
        monkeypatch.setenv(name, value)
    yield world
    world.set(full=[], quotas={}, forbidden=False, throttled=0, stuck={}, prices_down=False)
    world.set(delete_s=0.0, preempt_s=3.0)
    until(lambda: not _cleared(GCP), timeout_s=20)
    assert world.rows() == {}


def _cleared(provider: Any) -> list[Found]:
    found = list(provider.inventory(None))
    for each in found:
        provider.terminate(each)
    return found


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No emulator, no credentials, no project."""
    for name in GCP.environment:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(gcp_account.CONFIG_VARIABLE, str(tmp_path))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """One run."""
    now = time.time()
    return Run(new_id(), "me-here", now, now + 1800, tmp_path, "ssh-ed25519 AAAA", "ssh-ed25519 BB")


@pytest.mark.usefixtures("nowhere")
class TestOffline:
    """What the package itself knows."""

    def test_a_plan_needs_no_credentials_and_a_run_says_what_is_missing(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Credentials first, then the project, each with its fix."""
        assert GCP.offers(Spec(provider="gcp", gpu="T4"))
        assert "gcloud auth application-default login" in GCP.preflight()[0]
        assert not GCP.is_configured()
        with pytest.raises(ConfigurationError, match="application-default login"):
            GCP.inventory("me")
        file = tmp_path / "application_default_credentials.json"
        file.write_text("{}")
        assert "GOOGLE_CLOUD_PROJECT" in GCP.preflight()[0]
        file.write_text(json.dumps({"project_id": "my-project"}))
        assert GCP.preflight() == []
        assert gcp_account.project() == "my-project"
        monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "another")
        assert gcp_account.project() == "another"
        monkeypatch.setenv(gcp_account.KEY_FILE_VARIABLE, str(tmp_path / "nothing.json"))
        assert "nothing.json: there is no such file" in GCP.preflight()[0]

    def test_a_quota_project_is_not_taken_where_gcloud_has_another(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Nobody guesses who pays: both are named; where they are one, or a variable says, that is it."""
        file = tmp_path / "application_default_credentials.json"
        file.write_text(json.dumps({"quota_project_id": "for-quotas", "type": "authorized_user"}))
        assert gcp_account.project() == "for-quotas"
        (tmp_path / "configurations").mkdir()
        (tmp_path / "active_config").write_text("work\n")
        active = tmp_path / "configurations" / "config_work"
        active.write_text("[core]\naccount = me@example.com\nproject = my-work\n")
        with pytest.raises(ConfigurationError, match="'my-work' is gcloud's, 'for-quotas' the"):
            gcp_account.project()
        assert not GCP.is_configured()
        monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "my-work")
        assert gcp_account.project() == "my-work"
        monkeypatch.delenv("GOOGLE_CLOUD_PROJECT")
        active.write_text("[core]\nproject = for-quotas\n")
        assert gcp_account.project() == "for-quotas"
        file.write_text(json.dumps({"project_id": "of-the-key", "type": "service_account"}))
        active.write_text("[core]\nproject = my-work\n")
        assert gcp_account.project() == "of-the-key"

    @pytest.mark.parametrize(("accounts", "is_set_up"), [("default/\nme@x/\n", True), ("", False)])
    def test_a_machine_of_google_s_is_set_up_if_it_has_a_service_account(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, accounts: str, is_set_up: bool
    ) -> None:
        """By its metadata server, which is asked once; one that does not answer has none."""
        product = tmp_path / "product_name"
        product.write_text("Google Compute Engine\n")
        monkeypatch.setattr(gcp_account, "_PRODUCT", product)
        asked: list[tuple[str, str | None]] = []

        class Metadata(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append((self.path, self.headers.get("Metadata-Flavor")))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(accounts.encode())

            def log_message(self, format: str, *args: Any) -> None:
                """Nobody reads it."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            host = f"127.0.0.1:{server.server_address[1]}"
            monkeypatch.setenv("GCE_METADATA_HOST", host)
            assert GCP.is_configured() is is_set_up
            assert GCP.is_configured() is is_set_up
            server.shutdown()
        assert asked == [("/computeMetadata/v1/instance/service-accounts/", "Google")]
        monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")
        assert not GCP.is_configured()
        assert "gcloud auth application-default login" in GCP.preflight()[0]

    def test_zones_are_rungs_at_a_price_with_disk_and_address(self) -> None:
        """Beside each other, as far as the catalog's prices hold."""
        offers = GCP.offers(Spec(provider="gcp", instance_type="a2-highgpu-1g"))
        assert [o.region for o in offers] == [f"us-central1-{letter}" for letter in "abcf"]
        (rate,) = {o.usd_per_hour for o in offers}
        assert rate == pytest.approx(3.673385 + 100 * 0.10 / 730 + 0.005, abs=1e-5)
        assert all("100 GB disk and address" in o.source for o in offers)
        (zone,) = GCP.offers(
            Spec(provider="gcp", instance_type="a2-highgpu-1g", region="us-central1-c")
        )
        assert zone.region == "us-central1-c"
        (large, *_) = GCP.offers(Spec(provider="gcp", instance_type="a2-highgpu-1g", disk="1TB"))
        assert large.usd_per_hour == pytest.approx(3.673385 + 1050 * 0.10 / 730 + 0.005, abs=1e-5)

    def test_one_h100_is_sold_as_spot_alone(self) -> None:
        """Whose price is only known live; eight are sold to everybody."""
        with pytest.raises(SpecError, match="only known live"):
            GCP.offers(Spec(provider="gcp", instance_type="a3-highgpu-1g"))
        assert GCP.offers(Spec(provider="gcp", instance_type="a3-highgpu-8g"))
        assert "a3-highgpu-2g" not in {o.instance_type for o in GCP.price_list()}

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"max_runtime": "121d"}, "ends a machine by its own clock"),
            ({"nodes": 101}, "at most 100 machines"),
        ],
    )
    def test_what_compute_engine_would_not_take_is_refused(
        self, options: dict[str, Any], words: str
    ) -> None:
        """Before anything is spent."""
        with pytest.raises(SpecError, match=words):
            GCP.offers(Spec(provider="gcp", gpu="T4", **options))

    def test_an_emulator_elsewhere_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Requests to one carry no credentials, and are for this computer alone."""
        monkeypatch.setenv(gcp_account.URL_VARIABLE, "http://example.com")
        with pytest.raises(ConfigurationError, match="emulators on this computer only"):
            GCP.offers(Spec(provider="gcp", gpu="T4"))


class TestLive:
    """With credentials: zones by the API, prices by the catalogue."""

    def test_prices_are_added_up_from_their_parts(self, cloud: Emulator) -> None:
        """Cores, memory, GPU, disk and address, each region's own; the cheapest zone that has all of it first."""
        offers = GCP.offers(Spec(provider="gcp", gpu="T4"))
        assert [o.region for o in offers] == [
            *("us-central1-a", "us-central1-b", "us-central1-c", "us-west1-a", "us-west1-b"),
            *("europe-west4-a", "europe-west4-b"),
        ]
        parts = 8 * 0.031611 + 30 * 0.004237 + 0.35
        extras = 100 * 0.1 / 730 + 0.005
        assert offers[0].usd_per_hour == pytest.approx(parts + extras, abs=1e-5)
        assert offers[-1].usd_per_hour == pytest.approx(1.1 * (parts + extras), abs=1e-5)
        assert offers[0].source.startswith("Google Cloud Billing catalogue")
        assert offers[0].as_of == time.strftime("%Y-%m-%d", time.gmtime())

    def test_spot_has_its_own_prices(self, cloud: Emulator) -> None:
        """First, and then on demand, if both will do; one H100 as Spot alone."""
        offers = GCP.offers(Spec(provider="gcp", gpu="T4", region="us-west1", spot="prefer"))
        assert [(o.region, o.spot) for o in offers] == [
            ("us-west1-a", True),
            ("us-west1-b", True),
            ("us-west1-a", False),
            ("us-west1-b", False),
        ]
        parts = 8 * 0.00665 + 30 * 0.00089 + 0.14
        extras = 100 * 0.1 / 730
        assert offers[0].usd_per_hour == pytest.approx(1.2 * parts + extras + 0.0025, abs=1e-5)
        assert "1.2 times the spot price of now, which nothing caps" in offers[0].source
        parts = 8 * 0.031611 + 30 * 0.004237 + 0.35
        assert offers[2].usd_per_hour == pytest.approx(parts + extras + 0.005, abs=1e-5)
        assert "caps" not in offers[2].source
        (one, *_) = GCP.offers(Spec(provider="gcp", instance_type="a3-highgpu-1g", spot=True))
        assert (one.spot, one.usd_per_hour > 2.25) == (True, True)
        with pytest.raises(SpecError, match="only known live"):
            GCP.offers(Spec(provider="gcp", instance_type="a3-highgpu-1g"))

    def test_what_is_allowed_has_room_for_a_spot_price_that_rises(self, cloud: Emulator) -> None:
        """By a fifth: the worst case, the time that `max_cost` pays for, and what `max_price` lets through."""
        spec = Spec(provider="gcp", gpu="T4", region="us-west1-a", spot=True, max_runtime="10h")
        (offer,) = GCP.offers(spec)
        now = 8 * 0.00665 + 30 * 0.00089 + 0.14
        risen = 1.2 * now + 100 * 0.1 / 730 + 0.0025
        assert cost.worst_case_usd(spec, offer) == pytest.approx(10 * risen, abs=1e-4)
        limited = replace(spec, max_cost=5 * risen)
        assert cost.allowed_runtime_s(limited, offer) == pytest.approx(5 * 3600, rel=1e-3)
        with pytest.raises(BudgetExceeded):
            cost.within_price(replace(spec, max_price=1.1 * now), [offer])

    def test_a_machine_type_that_the_catalog_does_not_have_is_asked_for_by_name(
        self, cloud: Emulator
    ) -> None:
        """One without a GPU; what nobody has is refused with what is like it."""
        (first, *_) = GCP.offers(Spec(provider="gcp", instance_type="e2-standard-4"))
        assert (first.cores, first.gpus, first.memory_bytes) == (4, 0, 16 << 30)
        parts = 4 * 0.02181159 + 16 * 0.00292353
        assert first.usd_per_hour == pytest.approx(parts + 60 * 0.1 / 730 + 0.005, abs=1e-5)
        with pytest.raises(SpecError, match="no instance_type 'e2-standrd-4'"):
            GCP.offers(Spec(provider="gcp", instance_type="e2-standrd-4"))
        with pytest.raises(SpecError, match="no region 'us-centrl1'"):
            GCP.offers(Spec(provider="gcp", gpu="T4", region="us-centrl1"))

    def test_without_the_catalogue_the_package_s_prices_serve_and_say_so(
        self, cloud: Emulator
    ) -> None:
        """In the region that they are of; in another one that is asked for by name they say that they are not its own."""
        cloud.set(prices_down=True)
        offers = GCP.offers(Spec(provider="gcp", gpu="T4"))
        assert {o.region[:-2] for o in offers} == {"us-central1"}
        assert all(o.source.startswith("GCP list price") and o.as_of == "2026" for o in offers)
        (other, *_) = GCP.offers(Spec(provider="gcp", gpu="T4", region="europe-west4"))
        assert "of us-central1, other regions differ" in other.source
        notes: list[str] = []
        assert market(provider="gcp", gpu="T4", note=notes.append)
        assert "gcp: the catalog's prices" in notes[0]

    def test_a_zone_without_the_machine_is_no_capacity(self, cloud: Emulator) -> None:
        """With what is elsewhere."""
        with pytest.raises((NoCapacity, SpecError), match="us-central1-f"):
            GCP.offers(Spec(provider="gcp", gpu="T4", region="us-central1-f"))

    def test_what_the_real_catalogue_is_read_from_is_kept_for_a_day(
        self, cloud: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Thirty thousand rows are not read for every call."""
        found, read = gcp_account.credentials(), gcp_prices.read
        with monkeypatch.context() as patch:
            patch.setattr(_CACHE, lambda _: tmp_path / "cache")
            patch.setattr(gcp_account, "URL", cloud.url)
            patch.setattr(gcp_prices, "read", lambda _, found: read(cloud.url, found))
            first = gcp_prices.current(cloud.url, found)
            cloud.set(prices_down=True)
            assert gcp_prices.current(cloud.url, found) == first
            with pytest.raises(GcpError):
                gcp_prices.current(cloud.url, found, time.time() + 25 * 3600)


# As the engine prints them; the first two were recorded by others (terraform-docs-samples#974, terraform-provider-google#20573).
_SAID = {
    "* Error waiting for instance to create: The zone 'projects/p/zones/us-central1-c' does not have enough resources"
    " available to fulfill the request.  '(resource type:compute)'.": "capacity",
    "Error: Error waiting for instance to create: Quota 'CPUS_PER_VM_FAMILY' exceeded.  Limit: 176.0 in region us-central1.": "quota",
    "Error waiting for instance to create: Quota 'GPUS_ALL_REGIONS' exceeded.  Limit: 0.0 globally.": "quota",
    "ZONE_RESOURCE_POOL_EXHAUSTED: The zone 'projects/p/zones/us-central1-a' is full": "capacity",
    # Recorded by others: of the code ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS, which is not printed.
    "* Error waiting for instance to create: A c2d-standard-32 VM instance is currently unavailable in the us-east1-c zone."
    " Try requesting the VM in another zone.": "capacity",
    "Error waiting for instance to create: A a3-highgpu-4g VM instance with 4 nvidia-h100-80gb accelerator(s) and 8 local"
    " SSD(s) is currently unavailable in the us-central1-c zone. Consider trying your request in the us-central1-b,"
    " us-central1-a zone(s), which currently has capacity to accommodate your request.": "capacity",
    "Error waiting for instance to create: Instance failed to start due to preemption.": "capacity",
    "UNSUPPORTED_OPERATION: Instance failed to start due to preemption.": "capacity",
    "UNSUPPORTED_OPERATION: Operation is not supported": "unknown",
    "S3 is currently unavailable in the us-east1-c zone": "unknown",
    "Error creating Network: googleapi: Error 403: Quota 'NETWORKS' exceeded.  Limit: 5.0 globally., quotaExceeded": "quota",
    "Error creating instance: googleapi: Error 403: Required 'compute.instances.create' permission for"
    " 'projects/p/zones/z/instances/i', forbidden": "auth",
    "Error creating instance: googleapi: Error 403: Rate Limit Exceeded, rateLimitExceeded": "rate_limit",
    "Error creating Firewall: googleapi: Error 409: The resource 'projects/p/global/firewalls/f' already exists,"
    " alreadyExists": "invalid",
    "Error creating instance: googleapi: Error 400: Invalid value for field 'resource.machineType', invalid": "invalid",
    "Error creating instance: googleapi: Error 403: no\nMore details:\nReason: forbidden, Message: no": "auth",
    "Error creating Network: googleapi: Error 503: The service is currently unavailable., backendError": "transient",
    "google: could not find default credentials. See https://cloud.google.com/docs/authentication": "auth",
    "Error waiting for instance to create: timeout while waiting for state to become 'DONE'": "unknown",
    "there are not enough resources, the quota is exceeded and it is forbidden": "unknown",
}


@pytest.mark.parametrize(("said", "kind"), _SAID.items(), ids=range(len(_SAID)))
def test_a_failure_is_told_apart_by_what_never_varies(said: str, kind: str) -> None:
    """By code or reason where there is one; of an operation the plugin prints a sentence alone."""
    assert GCP.failure(said) == kind


def test_whose_quota_it_is_decides_what_else_is_ruled_out() -> None:
    """Of all regions, or of one."""
    assert gcp_errors.is_global_quota("Quota 'GPUS_ALL_REGIONS' exceeded.  Limit: 0.0 globally.")
    assert gcp_errors.is_global_quota("Quota 'NETWORKS' exceeded.  Limit: 5.0 globally.")
    assert not gcp_errors.is_global_quota(
        "Quota 'NVIDIA_T4_GPUS' exceeded.  Limit: 1.0 in region us-east1."
    )


@pytest.mark.usefixtures("cloud")
# pulumi_gcp.compute imports all of itself, its deprecated names too.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestDeclared:
    """The program, run without an engine."""

    def test_exactly_these_with_nobody_else_let_in(self, run: Run) -> None:
        """One network of its own with one way in; labels on what takes them, names on what does not."""
        (offer, *_) = GCP.offers(Spec(provider="gcp", gpu="T4"))
        (run.directory / "host_key").write_text("PRIVATE")
        found = {
            each.name: each for each in declared.by(Spec(provider="gcp", gpu="T4"), offer, run)
        }
        seen = {name: each.inputs for name, each in found.items()}
        assert {name: each.type for name, each in found.items()} == {
            "gcp": "pulumi:providers:gcp",
            "network": "gcp:compute/network:Network",
            "subnetwork": "gcp:compute/subnetwork:Subnetwork",
            "firewall": "gcp:compute/firewall:Firewall",
            "instance": "gcp:compute/instance:Instance",
        }
        name = run_names.of(run)
        for part in ("network", "subnetwork", "firewall", "instance"):
            assert seen[part]["name"] == name
            assert run.id in seen[part]["description"]
            assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name)
        firewall, instance = seen["firewall"], seen["instance"]
        assert firewall["sourceRanges"] == ["127.0.0.1/32"]
        assert firewall["targetTags"] == instance["tags"] == [name]
        assert firewall["allows"] == [{"protocol": "tcp", "ports": ["22"]}]
        assert "serviceAccount" not in instance
        assert instance["labels"] == run.tags
        disk = instance["bootDisk"]
        assert disk["autoDelete"] is True
        assert disk["initializeParams"]["labels"] == run.tags
        assert disk["initializeParams"]["image"].endswith("common-cu129-ubuntu-2404-nvidia-580")
        assert instance["guestAccelerators"] == [{"type": "nvidia-tesla-t4", "count": 1}]
        assert instance["scheduling"] == {
            "provisioningModel": "STANDARD",
            "preemptible": False,
            "automaticRestart": False,
            "onHostMaintenance": "TERMINATE",
            "instanceTerminationAction": "DELETE",
            # The deadline itself, rounded up to a second: no duration, which would begin when the machine runs.
            "terminationTime": _rfc3339(run.deadline),
        }
        assert seen["instance"]["scheduling"]["terminationTime"].endswith("Z")
        metadata = instance["metadata"]
        assert found["instance"].secrets == ("metadata.user-data",)
        assert metadata["ssh-keys"] == "ubuntu:ssh-ed25519 AAAA me-here"
        assert (metadata["enable-oslogin"], metadata["block-project-ssh-keys"]) == ("FALSE", "TRUE")
        assert "PRIVATE" in metadata["user-data"]

    @pytest.mark.parametrize(("nodes", "gpus"), [(1, 1), (3, 0)])
    def test_its_disks_are_its_own_and_nobody_is_let_in_from_everywhere(
        self, run: Run, nodes: int, gpus: int
    ) -> None:
        """Exactly these inputs, nothing that others could read, and no way in but from one address or its own machines.

        Without a key that is named Compute Engine encrypts a disk with "Google-owned and Google-managed encryption keys"
        (https://docs.cloud.google.com/compute/docs/disks/customer-supplied-encryption); so there is none among them.
        """
        spec = Spec(provider="gcp", nodes=nodes, disk="100GB")
        type = "n1-standard-8+nvidia-tesla-t4" if gpus else "e2-standard-4"
        offer = Offer("gcp", "us-west1-a", type, 8, 30 << 30, 0.8, gpus=gpus)
        found = declared.by(spec, offer, run)
        machines = [each.inputs for each in found if each.type == Gcp.machine]
        project, family = gcp_stack._GPU_IMAGE if gpus else gcp_stack._PLAIN_IMAGE["x86_64"]
        for node, machine in enumerate(machines):
            labels = run.tags | ({"dayfly-node": str(node)} if node else {})
            assert machine["bootDisk"] == {
                "autoDelete": True,
                "initializeParams": {
                    "image": f"projects/{project}/global/images/family/{family}",
                    "size": 150 if gpus else 110,
                    "type": "pd-balanced",
                    "labels": labels,
                },
            }
            # No other disk that would outlive it, and nobody on it who may act in the project.
            beside = ("attachedDisks", "scratchDisks", "serviceAccount", "resourcePolicies")
            assert [name for name in beside if name in machine] == []
            (interface,) = machine["networkInterfaces"]
            assert interface["accessConfigs"] == [{}]
        assert len(machines) == nodes
        # Disks, images and snapshots of their own, and whatever shares something with others, are other types.
        assert {each.type for each in found} == {
            "pulumi:providers:gcp",
            "gcp:compute/network:Network",
            "gcp:compute/subnetwork:Subnetwork",
            "gcp:compute/firewall:Firewall",
            Gcp.machine,
        }
        rules = [each.inputs for each in found if each.type == "gcp:compute/firewall:Firewall"]
        assert len(rules) == (2 if nodes > 1 else 1)
        for rule in rules:
            # The plugin makes 0.0.0.0/0 of a rule with neither (github.com/hashicorp/terraform-provider-google/issues/6789).
            assert rule.get("sourceRanges") or rule.get("sourceTags")
            assert rule["targetTags"] == [run_names.of(run)]
            ranges = [ipaddress.ip_network(each) for each in rule.get("sourceRanges", ())]
            assert all(each.prefixlen == each.max_prefixlen for each in ranges)
            assert rule["direction"] == "INGRESS"

    def test_several_machines_reach_each_other_and_nobody_else_them(self, run: Run) -> None:
        """Spot, Hyperdisk for the newest, plain Ubuntu without a GPU, an image of one's own."""
        spec = Spec(provider="gcp", nodes=2, spot=True, image="projects/p/global/images/mine")
        offer = Offer("gcp", "us-west1-a", "a3-highgpu-8g", 208, 1 << 40, 9.0, gpus=8, spot=True)
        seen = {each.name: each.inputs for each in declared.by(spec, offer, run)}
        assert [seen[n]["name"] for n in ("instance", "instance-1")] == [
            run_names.of(run),
            f"{run_names.of(run)}-1",
        ]
        inner = seen["firewall-inner"]
        assert (inner["sourceTags"], inner["targetTags"]) == ([run_names.of(run)],) * 2
        assert "sourceRanges" not in inner
        assert run_names.run_in(inner["name"]) == run.id
        second = seen["instance-1"]
        assert second["labels"] == {**run.tags, "dayfly-node": "1"}
        assert second["scheduling"]["provisioningModel"] == "SPOT"
        assert second["bootDisk"]["initializeParams"]["type"] == "hyperdisk-balanced"
        assert second["bootDisk"]["initializeParams"]["image"] == "projects/p/global/images/mine"
        assert "guestAccelerators" not in second
        plain = replace(offer, instance_type="e2-standard-4", gpus=0, spot=False)
        closed = Spec(provider="gcp", allow_cidr="203.0.113.0/24")
        seen = {each.name: each.inputs for each in declared.by(closed, plain, run)}
        assert "ubuntu-os-cloud" in seen["instance"]["bootDisk"]["initializeParams"]["image"]
        assert seen["firewall"]["sourceRanges"] == ["203.0.113.0/24"]

    @pytest.mark.parametrize("left_s", [-60.0, 5.0])
    def test_a_deadline_that_is_past_makes_no_machine(self, run: Run, left_s: float) -> None:
        """Compute Engine's own clock could not end it; what is declared twice ends at the same moment."""
        (offer, *_) = GCP.offers(Spec(provider="gcp", gpu="T4"))
        with pytest.raises(ProvisionFailed, match="is past, or less than 30 s away") as caught:
            gcp_stack._ends_at(replace(run, deadline=time.time() + left_s))
        assert caught.value.kind == "invalid"
        spec, later = Spec(provider="gcp", gpu="T4"), replace(run, created=run.created + 120)
        first, second = (
            next(each.inputs for each in declared.by(spec, offer, which) if each.name == "instance")
            for which in (run, later)
        )
        assert first["scheduling"] == second["scheduling"]


def _rfc3339(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(math.ceil(moment)))


def _make(cloud: Emulator, run: Run, *, spot: bool = False, action: str = "DELETE") -> Place:
    """Network, subnetwork, rule and instance of a run, by the API itself."""
    name, remark = run_names.of(run), f"of {run.owner}"
    base = "projects/dayfly-test"
    named = {"name": name, "description": remark}
    network = f"{base}/global/networks/{name}"
    subnetwork = f"{base}/regions/us-central1/subnetworks/{name}"
    _post(cloud, f"{base}/global/networks", named)
    _post(
        cloud,
        f"{base}/regions/us-central1/subnetworks",
        named | {"network": network, "ipCidrRange": "10.0.0.0/24"},
    )
    rule = {"IPProtocol": "tcp", "ports": ["22"]}
    _post(
        cloud,
        f"{base}/global/firewalls",
        named | {"network": network, "sourceRanges": ["198.51.100.1/32"], "allowed": [rule]},
    )
    zone = f"{base}/zones/us-central1-a"
    _post(
        cloud,
        f"{zone}/instances",
        {
            "name": name,
            "labels": run.tags,
            "machineType": f"{zone}/machineTypes/e2-standard-4",
            "networkInterfaces": [{"subnetwork": subnetwork, "accessConfigs": [{}]}],
            "disks": [
                {
                    "autoDelete": True,
                    "initializeParams": {
                        "sourceImage": "projects/ubuntu-os-cloud/global/images/family/ubuntu-2404-lts-amd64",
                        "labels": run.tags,
                    },
                }
            ],
            "scheduling": {
                "provisioningModel": "SPOT" if spot else "STANDARD",
                "automaticRestart": False,
                "onHostMaintenance": "TERMINATE",
                "instanceTerminationAction": action,
            },
        },
    )
    return Place("dayfly-test", "instances", name, "us-central1-a")


def _post(cloud: Emulator, path: str, body: dict[str, Any]) -> None:
    import requests

    answer = requests.post(f"{cloud.url}/compute/v1/{path}", json=body, timeout=10)
    assert answer.status_code == 200, answer.text
    until(lambda: f"{path}/{body['name']}" in cloud.rows(), timeout_s=10)


class TestApi:
    """Through Google's own client library."""

    def test_all_of_a_run_is_found_and_ended(self, cloud: Emulator, run: Run) -> None:
        """By labels and names; what is in use is left for the next round; whoever is not asked for is not listed."""
        place = _make(cloud, run)
        until(lambda: GCP.instance_state(str(place)) == "running", timeout_s=10)
        found = list(GCP.inventory("me-here"))
        assert sorted(each.kind for each in found) == [
            *("disk", "instance", "network", "network", "network")
        ]
        assert {each.run for each in found} == {run.id}
        assert {each.tags["dayfly-owner"] for each in found} == {"me-here"}
        assert {each.id for each in found} == set(cloud.rows())
        assert list(GCP.inventory("me-her")) == []
        assert {each.tags["dayfly-owner"] for each in GCP.inventory(None)} == {"me-here"}
        host, port = GCP.address(str(place)) or ("", 0)
        assert (host.startswith("198.51.100."), port) == (True, 22)
        until(lambda: not _cleared(GCP), timeout_s=20)
        assert GCP.instance_state(str(place)) == "unknown"

    def test_whoever_has_moved_is_let_in_by_the_run_s_own_rule(
        self, cloud: Emulator, run: Run
    ) -> None:
        """Beside those whom it lets in; once is enough."""
        place = _make(cloud, run)
        assert GCP.admit(str(place)) == "22/tcp from 127.0.0.1/32 (this computer's own address)"
        (rule,) = cloud.rows("firewalls").values()
        assert rule["sourceRanges"] == ["198.51.100.1/32", "127.0.0.1/32"]
        assert GCP.admit(str(place)) == ""

    def test_one_that_was_taken_back_is_called_so_from_the_first_second(
        self, cloud: Emulator, run: Run
    ) -> None:
        """While it stops and when it is gone, by Compute Engine's own record, and not every one that is gone is."""
        cloud.set(preempt_s=1.0)
        place = _make(cloud, run, spot=True)
        until(lambda: GCP.instance_state(str(place)) == "running", timeout_s=10)
        cloud.preempt(str(place))
        assert cloud.rows()[str(place)]["status"] == "STOPPING"
        assert GCP.instance_state(str(place)) == "preempted"
        (listed,) = (each for each in GCP.inventory(None) if each.kind == "instance")
        # What it holds is still there, and has to be waited for.
        assert listed.state == "stopping"
        until(lambda: str(place) not in cloud.rows(), timeout_s=10)
        assert GCP.instance_state(str(place)) == "preempted"
        other = place._replace(name="dayfly-another")
        assert GCP.instance_state(str(other)) == "unknown"

    def test_one_that_was_taken_back_and_not_deleted_is_no_machine_that_is_ill(
        self, cloud: Emulator, run: Run
    ) -> None:
        """Where somebody has changed its termination action, it is TERMINATED, and its disk is listed."""
        cloud.set(preempt_s=0.0)
        place = _make(cloud, run, spot=True, action="STOP")
        until(lambda: GCP.instance_state(str(place)) == "running", timeout_s=10)
        cloud.preempt(str(place))
        until(lambda: cloud.rows()[str(place)]["status"] == "TERMINATED", timeout_s=10)
        assert GCP.instance_state(str(place)) == "preempted"
        assert {each.kind for each in GCP.inventory("me-here")} >= {"instance", "disk"}

    @pytest.mark.parametrize("spot", [True, False])
    def test_one_that_somebody_deletes_is_stopping(
        self, cloud: Emulator, run: Run, spot: bool
    ) -> None:
        """Also a Spot machine: there is no record that it was taken back."""
        place = _make(cloud, run, spot=spot)
        until(lambda: GCP.instance_state(str(place)) == "running", timeout_s=10)
        cloud.set(delete_s=1.0)
        GCP.terminate(Found("instance", str(place)))
        assert GCP.instance_state(str(place)) == "stopping"
        cloud.set(delete_s=0.0)
        until(lambda: str(place) not in cloud.rows(), timeout_s=10)
        assert GCP.instance_state(str(place)) == "unknown"

    def test_instances_of_others_carry_no_tags_of_ours(self, cloud: Emulator, run: Run) -> None:
        """They are listed where everything is asked for, and with nothing that says whose they are."""
        named = replace(run, id="f" * 32)
        place = _make(cloud, named)
        row = {"labels": {"team": "other"}}
        import requests

        requests.patch(f"{cloud.url}/compute/v1/{place}", json=row, timeout=10).raise_for_status()
        until(lambda: cloud.rows()[str(place)]["labels"] == row["labels"], timeout_s=5)
        (found,) = [each for each in GCP.inventory(None) if each.kind == "instance"]
        assert (found.id, found.tags) == (str(place), {})

    @pytest.mark.parametrize(
        ("fault", "code", "kind"),
        [
            ({"forbidden": True}, "forbidden", "auth"),
            ({"throttled": 1}, "rateLimitExceeded", "rate_limit"),
        ],
    )
    def test_a_listing_that_is_refused_proves_nothing(
        self, cloud: Emulator, fault: dict[str, Any], code: str, kind: str
    ) -> None:
        """It raises, with the API's own reason."""
        cloud.set(**fault)
        with pytest.raises(GcpError) as caught:
            GCP.inventory("me")
        assert (caught.value.code, caught.value.kind) == (code, kind)
        assert GCP.failure(str(caught.value)) == kind
        cloud.set(forbidden=False, throttled=0)

    def test_nobody_who_answers_is_transient(
        self, cloud: Emulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And nothing is concluded from it."""
        with monkeypatch.context() as patch, pytest.raises(GcpError) as caught:
            patch.setenv(gcp_account.URL_VARIABLE, "http://127.0.0.1:9")
            GCP.inventory("me")
        assert (caught.value.code, caught.value.kind) == ("dayfly/unreachable", "transient")

    def test_what_is_no_resource_of_theirs_is_not_asked_for(self, cloud: Emulator) -> None:
        """An id of another kind."""
        assert GCP.instance_state("i-1") == "unknown"
        assert GCP.admit("i-1") == ""
        GCP.terminate(Found("instance", "i-1"))


@pytest.mark.parametrize("through", ["key", "refresh"])
def test_no_network_is_no_refusal_of_the_log_in(
    monkeypatch: pytest.MonkeyPatch, through: str
) -> None:
    """Google's token service does not answer: that is transient, and nothing says to log in again."""
    from google.auth.exceptions import RefreshError
    from google.auth.transport.requests import Request
    from google.oauth2.credentials import Credentials

    found = Credentials(
        None,
        refresh_token="r",
        token_uri="http://127.0.0.1:9/token",
        client_id="c",
        client_secret="s",
    )
    with pytest.raises(GcpError) as caught, gcp_errors.asking("listing instances"):
        try:
            found.refresh(Request())
        except Exception as error:
            if through == "key":
                raise
            # As google.auth.compute_engine does.
            raise RefreshError(error) from error
    assert (caught.value.code, caught.value.kind) == ("dayfly/unreachable", "transient")
    assert "auth application-default login" not in str(caught.value)
    with pytest.raises(GcpError) as caught, gcp_errors.asking("listing instances"):
        raise RefreshError("invalid_grant")
    assert caught.value.kind == "auth"


def test_places_are_read_as_they_are_written() -> None:
    """As ids and as the API's addresses."""
    for text in (
        "projects/p/zones/us-central1-a/instances/i",
        "projects/p/zones/us-central1-a/disks/d",
        "projects/p/regions/us-central1/subnetworks/s",
        "projects/p/global/networks/n",
        "projects/p/global/firewalls/f",
    ):
        assert str(Place.of(f"https://www.googleapis.com/compute/v1/{text}")) == text
    assert Place.of("projects/p/global/images/i") is None


def test_its_variables_are_places_and_not_credentials() -> None:
    """A key file's name is no key; nothing of the user's but these reaches the engine."""
    assert Gcp.credentials == ()
    assert port_map.VARIABLE in Gcp.environment
