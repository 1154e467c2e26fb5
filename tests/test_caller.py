"""Who may reach a machine: what the Spec says, this computer, or, said aloud, anybody."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from pathlib import Path

import pytest

from dayfly.errors import ConfigurationError
from dayfly.infra import caller, providers
from dayfly.infra.offers import Offer
from dayfly.infra.run import Run, new_id
from dayfly.infra.spec import Spec


def test_what_the_spec_says_is_taken_as_it_is() -> None:
    """Nobody is asked."""
    said = caller.allowed("203.0.113.0/24", "https://cloud.invalid")
    assert str(said) == "22/tcp from 203.0.113.0/24 (allow_cidr)"


def test_an_emulator_on_this_computer_lets_this_computer_in() -> None:
    """The way to it is loopback, and no service outside is asked."""
    assert caller.allowed(None, "http://127.0.0.1:1/api/v1").cidr == "127.0.0.1/32"


def test_behind_a_router_the_address_is_asked_for_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A private address is of no use in a firewall."""
    private = ipaddress.IPv4Address("192.168.1.5")
    monkeypatch.setattr(caller, "_address_towards", lambda url: private)
    monkeypatch.setattr(
        caller, "_address_seen_by", lambda service: ipaddress.IPv4Address("203.0.113.9")
    )
    said = caller.allowed(None, "https://cloud.invalid")
    assert said.cidr == "203.0.113.9/32"
    assert caller.SERVICE in said.why


def test_an_address_that_nobody_knows_is_said_aloud(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may knock then, and the text says how to narrow it."""
    monkeypatch.setattr(caller, "_address_towards", lambda url: None)
    monkeypatch.setattr(caller, "SERVICE", "http://127.0.0.1:1")
    said = caller.allowed(None, "https://cloud.invalid")
    assert said.cidr == "0.0.0.0/0"
    assert "set allow_cidr" in str(said)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A real one, which has a key."""
    return Run(new_id(), "me", 0.0, 2e9, tmp_path, "ssh-ed25519 AAAA", "ssh-ed25519 BBBB")


# pulumi_gcp.compute imports all of itself, its deprecated names too.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "place"), [("aws", "us-east-1"), ("azure", "eastus"), ("gcp", "us-central1-a")]
)
def test_no_run_lets_everybody_in_because_nobody_knows_the_address(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, place: str
) -> None:
    """On none of the clouds: it is refused before anything is declared, with the option that settles it."""
    monkeypatch.setattr(caller, "own", lambda _: None)
    offer = Offer(name, place, "x", 4, 1 << 34, 1.0)
    with pytest.raises(ConfigurationError, match="set allow_cidr"):
        providers.load(name).declare(Spec(provider=name), offer, run)


def test_a_preview_may_show_it_and_a_spec_may_say_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What makes nothing lets nobody in; who writes everybody means that."""
    monkeypatch.setattr(caller, "own", lambda _: None)
    preview = replace(run, public_key="")
    assert caller.of_run(Spec(), preview, "https://cloud.invalid").cidr == "0.0.0.0/0"
    everybody = Spec(allow_cidr="0.0.0.0/0")
    assert caller.of_run(everybody, run, "https://cloud.invalid").why == "allow_cidr"
