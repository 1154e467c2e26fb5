"""The contract, held against every provider that is there."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from dayfly.infra import providers
from dayfly.infra.dynamic import DynamicProvider
from dayfly.infra.found import Found
from dayfly.infra.providers.base import Provider
from dayfly.infra.spec import Spec
from tests.emulators import worlds
from tests.own_machine import OwnMachine, own_machine

EVERY = [providers.load(name) for name in providers.names()]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnMachine]:
    """A machine of one's own, for providers that take one."""
    with own_machine(tmp_path_factory.mktemp("own")) as machine:
        yield machine


@pytest.fixture(scope="module")
def clouds(host: OwnMachine) -> Iterator[dict[str, str]]:
    """An empty world for each provider that is elsewhere, as the environment tells of it."""
    with worlds.empty() as found:
        yield found | host.variables


@pytest.fixture(autouse=True)
def reachable(clouds: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each provider finds its world."""
    for name, value in clouds.items():
        monkeypatch.setenv(name, value)


def test_the_names_are_the_files() -> None:
    """No registry: a file in the folder is a provider, and nothing else is."""
    files = {file.stem for file in Path(providers.__file__).parent.glob("*.py")} - {
        "__init__",
        "base",
    }
    assert {type(provider).__module__.rpartition(".")[2] for provider in EVERY} == files
    with pytest.raises(KeyError):
        providers.load("nowhere")


@pytest.mark.parametrize("provider", EVERY, ids=lambda p: p.name)
class TestContract:
    """What every provider owes."""

    def test_it_says_its_name_and_limits(self, provider: Provider) -> None:
        """The name is the one that `provider=` takes; the limits are what proof and bill need."""
        assert provider.name in providers.names()
        limits = provider.limits
        assert limits.listing_lag_s >= 0
        assert limits.late_create_s >= 0
        assert limits.billing_increment_s > 0
        assert limits.if_this_computer_dies
        assert limits.console

    def test_its_offers_are_priced_and_cheapest_first(
        self, provider: Provider, host: OwnMachine
    ) -> None:
        """Each with a source and a date."""
        named = host.name if "host" in provider.takes else None
        offers = provider.offers(Spec(provider=provider.name, host=named))
        assert offers
        assert [o.usd_per_hour for o in offers] == sorted(o.usd_per_hour for o in offers)
        for offer in offers:
            assert offer.provider == provider.name
            assert offer.source
            assert offer.as_of

    def test_an_empty_world_has_an_empty_inventory(self, provider: Provider) -> None:
        """Nothing of another owner is ever listed."""
        assert list(provider.inventory("nobody-at-all")) == []

    def test_without_an_owner_all_that_is_ours_is_listed_whoever_s_it_is(
        self, provider: Provider
    ) -> None:
        """What carries no tag of ours comes with none, and is never taken for a run's."""
        for found in provider.inventory(None):
            assert bool(found.run) == bool(found.tags), found

    def test_its_credentials_are_among_the_variables_that_it_may_see(
        self, provider: Provider
    ) -> None:
        """And whatever looks like one is declared as one: no timer has it."""
        assert set(provider.credentials) <= set(provider.environment)
        for name in provider.environment:
            looks_like_one = name.endswith(("_KEY", "_TOKEN", "_SECRET", "_PASSWORD"))
            assert not looks_like_one or name in provider.credentials, name

    def test_an_instance_that_is_not_there_has_no_address(self, provider: Provider) -> None:
        """Nor is that an error."""
        assert provider.address("no-such-instance") is None

    def test_terminating_what_is_gone_is_success(self, provider: Provider) -> None:
        """Teardown may be tried again at any time."""
        provider.terminate(Found("instance", "gone", {"dayfly-run": "0" * 32}))

    def test_an_unknown_instance_is_terminated_or_unknown(self, provider: Provider) -> None:
        """In the standard words."""
        assert provider.instance_state("no-such-instance") in ("terminated", "unknown")

    def test_an_error_without_a_known_code_is_unknown(self, provider: Provider) -> None:
        """No guess from prose."""
        assert provider.failure("something odd happened") == "unknown"

    def test_its_dynamic_classes_are_referred_to_by_name(self, provider: Provider) -> None:
        """A state holds a dotted name and nothing else; the SDK serialises to exactly that."""
        from pulumi.dynamic.dynamic import serialize_provider

        for cls in provider.dynamic():
            assert issubclass(cls, DynamicProvider)
            assert not vars(cls())
            assert cls.serialize_as_secret_always is False
            assert serialize_provider(cls()) == cls.reference()


def test_the_dotted_names_are_a_wire_format() -> None:
    """They stand in the state of every stack that is up: a rename would strand those."""
    names = {base64.b64decode(cls.reference()) for provider in EVERY for cls in provider.dynamic()}
    assert names == {
        b"\x80\x04\x958\x00\x00\x00\x00\x00\x00\x00\x8c\x1cdayfly.infra.providers.local\x94\x8c\x10InstanceProvider\x94\x93\x94)\x81\x94.",
        b"\x80\x04\x955\x00\x00\x00\x00\x00\x00\x00\x8c\x1cdayfly.infra.providers.local\x94\x8c\rReadyProvider\x94\x93\x94)\x81\x94.",
        b"\x80\x04\x954\x00\x00\x00\x00\x00\x00\x00\x8c\x1ddayfly.infra.lambda_resources\x94\x8c\x0bKeyProvider\x94\x93\x94)\x81\x94.",
        b"\x80\x04\x958\x00\x00\x00\x00\x00\x00\x00\x8c\x1ddayfly.infra.lambda_resources\x94\x8c\x0fRulesetProvider\x94\x93\x94)\x81\x94.",
        b"\x80\x04\x959\x00\x00\x00\x00\x00\x00\x00\x8c\x1ddayfly.infra.lambda_resources\x94\x8c\x10InstanceProvider\x94\x93\x94)\x81\x94.",
        b"\x80\x04\x956\x00\x00\x00\x00\x00\x00\x00\x8c\x1ddayfly.infra.lambda_resources\x94\x8c\rReadyProvider\x94\x93\x94)\x81\x94.",
        b"\x80\x04\x951\x00\x00\x00\x00\x00\x00\x00\x8c\x1adayfly.infra.ssh_resources\x94\x8c\x0bKeyProvider\x94\x93\x94)\x81\x94.",
        b"\x80\x04\x953\x00\x00\x00\x00\x00\x00\x00\x8c\x1adayfly.infra.ssh_resources\x94\x8c\rReadyProvider\x94\x93\x94)\x81\x94.",
    }
