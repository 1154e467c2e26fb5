"""What a run at AWS declares: exactly these resources, tagged, encrypted, closed to all but the caller, and ended by themselves."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from dayfly.errors import SpecError
from dayfly.infra import aws_endpoint, aws_network, aws_offers, aws_prices, aws_session
from dayfly.infra.offers import Offer
from dayfly.infra.providers.aws import PROVIDER
from dayfly.infra.run import Run
from dayfly.infra.spec import Spec
from dayfly.stacks import recorder
from dayfly.stacks.intent import make_key
from tests import declared
from tests.declared import Declared

GPU = Offer("aws", "us-east-1", "g5.xlarge", 4, 16 << 30, 1.0, 1, "A10G", arch="x86_64")
PLAIN = Offer("aws", "eu-west-1b", "m7i.large", 2, 8 << 30, 0.1, arch="x86_64")
ALLOWED = "198.51.100.7/32"


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    """What every fork of these tests needs, once."""
    PROVIDER.load_sdk(GPU)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that is about to be brought up, with its keys."""
    public, host = make_key(tmp_path / "user_key"), make_key(tmp_path / "host_key")
    return Run("a" * 32, "me", 1000.0, 4600.0, tmp_path, public, host)


def graph(run: Run, offer: Offer = GPU, **options: Any) -> tuple[dict[str, Declared], list[Any]]:
    """The resources by name, and the outputs."""
    spec = Spec(provider="aws", allow_cidr=ALLOWED, **options)
    found, outputs = declared.whole(
        spec,
        offer,
        run,
        told={"publicIp": "203.0.113.5", "privateIp": "10.77.0.5"},
        answer=lambda asked: {"value": f"ami of {asked.get('name')}", "id": "ami-by-name"},
    )
    return {each.name: each for each in found}, outputs


def test_in_a_default_network_it_is_a_key_a_firewall_and_the_machine(run: Run) -> None:
    """And the settings of the plugin, which hold no credential and few retries."""
    found, (machine,) = graph(run)
    assert {name: each.type for name, each in found.items()} == {
        "aws": "pulumi:providers:aws",
        "key": "aws:ec2/keyPair:KeyPair",
        "firewall": "aws:ec2/securityGroup:SecurityGroup",
        "instance": "aws:ec2/instance:Instance",
    }
    settings = found["aws"].inputs
    assert not {"accessKey", "secretKey", "token", "profile", "endpoints"} & set(settings)
    assert (settings["region"], settings["maxRetries"]) == ("us-east-1", "2")
    assert found["key"].inputs["publicKey"] == run.public_key
    assert (machine["id"], machine["host"], machine["port"]) == (
        "us-east-1/instance-id",
        "203.0.113.5",
        22,
    )
    assert (machine["host_key"], machine["host_key_bootstrap"]) == (run.host_key, True)
    assert machine["firewall"] == f"22/tcp from {ALLOWED} (allow_cidr)"


def test_the_plugin_works_in_the_account_of_the_run_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for whoever destroys the stack with other credentials; a preview asks nobody whose these are."""
    monkeypatch.setattr(aws_session, "account", lambda: "123456789012")
    monkeypatch.setattr(aws_session, "has_credentials", lambda: True)
    monkeypatch.setattr(aws_network, "default_subnet", lambda *_, **__: "subnet-1")
    found, _ = graph(run)
    assert json.loads(found["aws"].inputs["allowedAccountIds"]) == ["123456789012"]
    found, _ = graph(replace(run, public_key=""))
    assert "allowedAccountIds" not in found["aws"].inputs


def test_without_a_default_network_it_brings_one_of_its_own(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the zone of the offer, with a way out; group and machine are in it."""
    monkeypatch.setattr(aws_network, "default_subnet", lambda *_, **__: None)
    found, _ = graph(run, PLAIN)
    assert set(found) == {
        *("aws", "key", "firewall", "instance"),
        *("network", "subnet", "gateway", "routes", "way-out"),
    }
    assert found["aws"].inputs["region"] == "eu-west-1"
    assert found["subnet"].inputs["availabilityZone"] == "eu-west-1b"
    assert found["firewall"].inputs["vpcId"] == "network-id"
    assert found["instance"].inputs["subnetId"] == "subnet-id"
    assert found["routes"].inputs["routes"] == [
        {"cidrBlock": "0.0.0.0/0", "gatewayId": "gateway-id"}
    ]


def test_a_public_address_is_asked_for_in_the_default_subnet_of_the_zone(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plugin asks for none without a subnet, and a default one may give none by itself."""
    monkeypatch.setattr(aws_network, "default_subnet", lambda *_, **__: "subnet-1b")
    found, _ = graph(run, PLAIN)
    assert set(found) == {"aws", "key", "firewall", "instance"}
    assert found["instance"].inputs["subnetId"] == "subnet-1b"
    assert found["instance"].inputs["associatePublicIpAddress"] is True


@pytest.mark.parametrize("own_network", [False, True])
def test_everything_carries_the_run_s_tags(
    run: Run, monkeypatch: pytest.MonkeyPatch, own_network: bool
) -> None:
    """By its own, and by those of the plugin; a volume, which gets none of those, by the machine's word."""
    there = None if own_network else aws_network.ANY
    monkeypatch.setattr(aws_network, "default_subnet", lambda *_, **__: there)
    found, _ = graph(run, nodes=2)
    for name, each in found.items():
        # An association is no thing that could carry any.
        if name not in ("aws", "way-out"):
            assert {n: v for n, v in each.inputs["tags"].items() if n != "Name"} == run.tags, name
    assert json.loads(found["aws"].inputs["defaultTags"]) == {"tags": run.tags}
    assert found["instance"].inputs["volumeTags"] == run.tags


def test_nobody_but_the_caller_gets_in(run: Run) -> None:
    """Port 22 from one address; machines of one run reach each other, and nobody else reaches them."""
    found, _ = graph(run)
    (rule,) = found["firewall"].inputs["ingress"]
    assert rule == {"protocol": "tcp", "fromPort": 22, "toPort": 22, "cidrBlocks": [ALLOWED]}
    two, machines = graph(run, nodes=2)
    _, among = two["firewall"].inputs["ingress"]
    assert among == {"protocol": "-1", "fromPort": 0, "toPort": 0, "self": True}
    assert len(machines) == 2
    assert "instance-1" in two


def test_the_machine_is_hardened_and_ends_with_all_it_has(run: Run) -> None:
    """IMDSv2 of one hop; an encrypted volume that goes with it; what switches itself off is ended."""
    inputs = graph(run)[0]["instance"].inputs
    assert inputs["metadataOptions"] == {
        "httpEndpoint": "enabled",
        "httpTokens": "required",
        "httpPutResponseHopLimit": 1,
    }
    assert inputs["rootBlockDevice"] == {
        "volumeType": "gp3",
        "volumeSize": 97,
        "encrypted": True,
        "deleteOnTermination": True,
    }
    assert inputs["instanceInitiatedShutdownBehavior"] == "terminate"
    assert "instanceMarketOptions" not in inputs
    assert "iamInstanceProfile" not in inputs


def test_a_spot_machine_is_asked_for_once_and_ends_when_it_is_taken_back(run: Run) -> None:
    """In the zone whose price it is."""
    inputs = graph(run, replace(GPU, spot=True, region="us-east-1c"))[0]["instance"].inputs
    assert inputs["availabilityZone"] == "us-east-1c"
    assert inputs["instanceMarketOptions"] == {
        "marketType": "spot",
        "spotOptions": {
            "spotInstanceType": "one-time",
            "instanceInterruptionBehavior": "terminate",
            # The rate without volume and address, which is what is paid at most.
            "maxPrice": f"{1.0 - aws_prices.beside_usd_per_hour(97):.6f}",
        },
    }


def test_the_image_has_the_driver_where_there_is_a_gpu(run: Run) -> None:
    """By AWS's own parameter; plain Ubuntu is Canonical's; `image=` is an id, a parameter or a name."""

    def image(offer: Offer, **options: Any) -> Any:
        return graph(run, offer, **options)[0]["instance"].inputs["ami"]

    assert "base-oss-nvidia-driver-gpu-ubuntu-24.04/latest" in image(GPU)
    assert "deeplearning/ami/arm64/" in image(replace(GPU, arch="arm64"))
    assert "canonical/ubuntu/server/24.04/stable/current/amd64/" in image(PLAIN)
    assert image(GPU, image="ami-0abc") == "ami-0abc"
    assert image(GPU, image="/my/parameter") == "ami of /my/parameter"
    assert image(GPU, image="my image *") == "ami-by-name"


def test_the_disk_is_what_is_asked_for_beside_the_image(run: Run) -> None:
    """An image with several CUDAs takes 65 GB by itself; more than a volume holds is refused before anything is made."""

    def disk(offer: Offer, size: str) -> Any:
        return graph(run, offer, disk=size)[0]["instance"].inputs["rootBlockDevice"]["volumeSize"]

    assert (disk(GPU, "500GB"), disk(PLAIN, "500GB")) == (565, 508)
    with pytest.raises(SpecError, match="16319GB at most"):
        aws_offers.ladder(Spec(provider="aws", disk="17TB"))


def test_the_user_data_is_a_secret_and_ends_the_machine_after_its_deadline(
    run: Run, tmp_path: Path
) -> None:
    """At every boot; the shell itself reckons, a clock that is behind makes it no longer, one that is ahead no shorter than a minute."""
    instance = graph(run)[0]["instance"]
    assert instance.secrets == ("userData",)
    config = yaml.safe_load(instance.inputs["userData"])
    assert config["ssh_keys"]["ed25519_private"] == (tmp_path / "host_key").read_text()
    (file,) = config["write_files"]
    assert file["path"].startswith("/var/lib/cloud/scripts/per-boot/")
    assert config["runcmd"] == [[file["path"]]]
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "shutdown").write_text('#!/bin/sh\necho "$@"\n')

    def asked(now: float) -> str:
        (tools / "date").write_text(f"#!/bin/sh\necho {int(now)}\n")
        for tool in tools.iterdir():
            tool.chmod(0o755)
        done = subprocess.run(
            ["sh", "-c", file["content"]],
            env={"PATH": f"{tools}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    # An hour from its creation, and six minutes in which logind would keep people out.
    assert asked(run.created) == "-h +66"
    assert asked(run.deadline - 60) == "-h +7"
    assert asked(0.0) == "-h +66"
    assert asked(run.deadline + 10**6) == "-h +1"


def test_an_emulator_is_told_to_the_plugin_by_aws_s_own_variables(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for all services, or one for each."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_EC2", "http://127.0.0.1:1")
    assert aws_endpoint.given() == {"ec2": "http://127.0.0.1:1"}
    assert aws_endpoint.is_here()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://elsewhere.example")
    settings = graph(run)[0]["aws"].inputs
    (endpoints,) = json.loads(settings["endpoints"])
    assert endpoints == {
        "ec2": "http://127.0.0.1:1",
        "ssm": "https://elsewhere.example",
        "sts": "https://elsewhere.example",
    }
    assert settings["skipCredentialsValidation"] == "true"
    monkeypatch.delenv("AWS_ENDPOINT_URL_EC2")
    assert not aws_endpoint.is_here()


def test_the_recorder_lists_the_same(run: Run) -> None:
    """What `dayfly plan` shows without an engine."""
    spec = Spec(provider="aws", allow_cidr=ALLOWED)
    listed = recorder.resources(spec, GPU, run)
    names = {(each["type"], each["name"]) for each in listed}
    assert names == {(each.type, each.name) for each in graph(run)[0].values()}
