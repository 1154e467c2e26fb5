"""The engine is given a state only if all that it names is its run's: it deletes whatever a state names, whoever wrote that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from dayfly.infra import aws_endpoint, aws_session
from dayfly.infra.offers import Offer
from dayfly.infra.run import Run, new_id
from dayfly.infra.spec import Spec
from dayfly.stacks import intent, journal
from dayfly.stacks.owned import Owned
from dayfly.stacks.state import State, StateUnusable
from dayfly.stacks.workspace import Workspace
from tests import runs
from tests.emulators.aws import Aws
from tests.test_aws import launch, specified

_SUBSCRIPTION = "6f1d2c3b-0000-4a5e-9b7c-0123456789ab"
_REGIONS = {"azure": "eastus", "gcp": "us-central1-a", "aws": "us-east-1b", "local": "loopback"}
Resource = dict[str, Any]


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """An empty AWS account without machines."""
    with Aws(machines=False, ending_s=0.1) as world:
        for name, value in world.environment().items():
            monkeypatch.setenv(name, value)
        yield world


@pytest.fixture
def accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A subscription and a project; nobody is asked for anything."""
    monkeypatch.setenv("AZURE_SUBSCRIPTION_ID", _SUBSCRIPTION)
    monkeypatch.setenv("DAYFLY_GCP_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "mine")


def _opened(workspace: Workspace, provider: str) -> Run:
    offer = Offer(provider, _REGIONS[provider], "some", 2, 1 << 30, 1.0, as_of="", source="")
    return intent.write(workspace, new_id(), Spec(provider=provider), offer)


def _custom(type: str, id: str, **values: Any) -> Resource:
    return {"type": type, "id": id, "custom": True, "urn": "u", "inputs": values, "outputs": values}


def _check(run: Run, *resources: Resource, pending: bool = False) -> None:
    state = State((), tuple({"resource": each} for each in resources))
    state = state if pending else State(resources, ())
    Owned(journal.read(run.directory), run.owner).check(state)


def _refused(run: Run, resource: Resource) -> None:
    for pending in (False, True):
        with pytest.raises(StateUnusable, match="not known to be this run's"):
            _check(run, resource, pending=pending)


@pytest.mark.parametrize("provider", ["azure", "gcp", "local"])
@pytest.mark.parametrize(
    "type", ["command:local:Command", "aws:ec2/instance:Instance", "pulumi:providers:command"]
)
def test_a_type_that_no_run_of_the_provider_has_is_refused(
    workspace: Workspace, accounts: None, provider: str, type: str
) -> None:
    """A command that an edited state holds would be run here, as whoever closes the run."""
    run = _opened(workspace, provider)
    _refused(run, _custom(type, f"x-{run.id}", delete="rm -rf ~"))


def test_at_azure_all_is_in_the_run_s_own_group(workspace: Workspace, accounts: None) -> None:
    """In whatever case Azure writes it; another group, or another subscription, is somebody's."""
    run = _opened(workspace, "azure")
    group = f"/subscriptions/{_SUBSCRIPTION}/resourceGroups/dayfly-{run.id}"
    type, machine = "azure-native:resources:ResourceGroup", "azure-native:compute:VirtualMachine"
    _check(
        run,
        _custom(type, group),
        _custom(type, group.replace("resourceGroups", "resourcegroups").upper()),
        _custom(machine, f"{group}/providers/Microsoft.Compute/virtualMachines/m"),
        _custom(machine, ""),
    )
    for id in (
        f"/subscriptions/{_SUBSCRIPTION}/resourceGroups/PRODUCTION",
        f"/subscriptions/{_SUBSCRIPTION}/resourceGroups/dayfly-{'e' * 32}",
        f"{group}-2",
        group.replace("6f1d", "0000"),
        f"/subscriptions/{_SUBSCRIPTION}",
    ):
        _refused(run, _custom(type, id))


_AZURE = {
    "__internal": {},
    "disablePulumiPartnerId": "true",
    "environment": "public",
    "location": "eastus",
    "subscriptionId": _SUBSCRIPTION,
    "useDefaultAzureCredential": "true",
    "version": "3.29.0",
}
_GCP = {
    "__internal": {},
    "addPulumiAttributionLabel": "false",
    "computeCustomEndpoint": "http://127.0.0.1:9/compute/v1/",
    "defaultLabels": "{}",
    "project": "mine",
    "region": "us-central1",
    "version": "10.2.0",
}


_EDITS: dict[str, list[dict[str, Any]]] = {
    "azure": [{"subscriptionId": "other"}, {"location": "x"}, {"clientSecret": "s"}],
    "gcp": [{"project": "p"}, {"computeCustomEndpoint": "https://x"}, {"credentials": "{}"}],
}


@pytest.mark.parametrize(
    ("provider", "plugin", "settings"), [("azure", "azure-native", _AZURE), ("gcp", "gcp", _GCP)]
)
def test_a_plugin_is_set_as_the_run_s_program_sets_it(
    workspace: Workspace, accounts: None, provider: str, plugin: str, settings: dict[str, Any]
) -> None:
    """No other account or address, no credential of somebody's, and no plugin from elsewhere."""
    run, type = _opened(workspace, provider), f"pulumi:providers:{plugin}"
    edits = _EDITS[provider]
    _check(run, _custom(type, "uuid", **settings))
    elsewhere: list[dict[str, Any]] = [
        {"pluginDownloadURL": "https://x"},
        {"__internal": {"pluginDownloadURL": "x"}},
    ]
    for edit in [*edits, *elsewhere]:
        _refused(run, _custom(type, "uuid", **settings | edit))
        _refused(run, _custom(type, "uuid", **settings) | {"outputs": settings | edit})


def test_at_compute_engine_names_tell(workspace: Workspace, accounts: None) -> None:
    """By the properties too, by which the plugin goes, and not only by the id."""
    run = _opened(workspace, "gcp")
    name, type = f"dayfly-{run.id}-8500b575-1796047200", "gcp:compute/instance:Instance"
    where = "projects/mine/zones/us-central1-a/instances"
    _check(
        run,
        _custom(type, f"{where}/{name}", name=name, project="mine", zone="us-central1-a"),
        _custom(type, f"{where}/{name}-1", name=f"{name}-1"),
        _custom("gcp:compute/network:Network", f"projects/mine/global/networks/{name}"),
    )
    _refused(run, _custom(type, f"{where}/database"))
    _refused(run, _custom(type, f"{where}/dayfly-{'e' * 32}-8500b575-1796047200"))
    _refused(run, _custom(type, f"{where}/{name}", name="database"))
    _refused(run, _custom(type, f"{where}/{name}", project="theirs"))
    _refused(run, _custom(type, f"projects/theirs/zones/us-central1-a/instances/{name}"))


def test_at_aws_tags_tell(workspace: Workspace, cloud: Aws) -> None:
    """Of what there is; an instance that is not there any more is nobody's, and was never launched here or has ended."""
    run = _opened(workspace, "aws")
    ours = launch(run).partition("/")[2]
    theirs = launch(replace(run, id="e" * 32), name="theirs").partition("/")[2]
    ec2 = aws_session.client("ec2", "us-east-1")
    groups = {
        each["GroupName"]: each["GroupId"]
        for each in ec2.describe_security_groups()["SecurityGroups"]
    }
    mine = next(id for name, id in groups.items() if name not in ("default", "theirs"))
    type, group = "aws:ec2/instance:Instance", "aws:ec2/securityGroup:SecurityGroup"
    key = "aws:ec2/keyPair:KeyPair"
    _check(
        run,
        _custom(type, ours, region="us-east-1"),
        _custom(type, "i-0123456789abcdef0"),
        _custom(group, mine),
        _custom(key, f"dayfly-{run.id}"),
    )
    _refused(run, _custom(type, theirs))
    _refused(run, _custom(type, ours, region="eu-west-1"))
    _refused(run, _custom(group, groups["default"]))
    _refused(run, _custom(key, "everybody"))


def test_at_aws_a_way_is_the_run_s_with_its_table(workspace: Workspace, cloud: Aws) -> None:
    """It carries no tags; a subnet of somebody's would lose its routes."""
    run, type = _opened(workspace, "aws"), "aws:ec2/routeTableAssociation:RouteTableAssociation"
    ec2 = aws_session.client("ec2", "us-east-1")
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="172.31.250.0/24")["Subnet"]["SubnetId"]
    for owner, check in ((run, _check), (None, _refused)):
        made = ec2.create_route_table(VpcId=vpc, TagSpecifications=specified(owner, "route-table"))
        table = made["RouteTable"]["RouteTableId"]
        way = ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)["AssociationId"]
        check(run, _custom(type, way))
        ec2.disassociate_route_table(AssociationId=way)


def test_at_aws_a_plugin_is_set_as_the_run_s_program_sets_it(
    workspace: Workspace, cloud: Aws
) -> None:
    """Its lists are kept as JSON."""
    run, type = _opened(workspace, "aws"), "pulumi:providers:aws"
    endpoints = str(aws_endpoint.settings()).replace("'", '"')
    settings = {
        "__internal": {},
        "region": "us-east-1",
        "endpoints": endpoints,
        "version": "7.51.1",
    }
    _check(run, _custom(type, "uuid", **settings))
    _check(run, _custom(type, "uuid", **settings, allowedAccountIds='["123456789012"]'))
    for edit in (
        {"region": "eu-west-1"},
        {"endpoints": '[{"ec2": "https://x"}]'},
        {"allowedAccountIds": '["210987654321"]'},
        {"accessKey": "AKIA"},
        {"profile": "work"},
        {"assumeRoles": "[]"},
    ):
        _refused(run, _custom(type, "uuid", **settings | edit))
    local = runs.opened(workspace)
    with pytest.raises(StateUnusable):
        _check(journal.read(workspace.directory(local)).run, _custom(type, "uuid", **settings))


def test_what_cannot_be_asked_is_not_given_to_the_engine(
    workspace: Workspace, cloud: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider's own way is gone then, which says what it could not find out."""
    run = _opened(workspace, "aws")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOTHER")
    with pytest.raises(StateUnusable, match="cannot be asked"):
        _check(run, _custom("aws:ec2/instance:Instance", "i-0123456789abcdef0"))
