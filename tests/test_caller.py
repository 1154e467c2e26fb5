"""Who may reach a machine: what the Spec says, this computer, or, said aloud, anybody."""

from __future__ import annotations

import ipaddress

import pytest

from dayfly.infra import caller


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
