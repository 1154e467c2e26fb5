"""A Machine is made from a stack's outputs."""

from __future__ import annotations

import pytest

from dayfly.infra.machine import Machine

OUTPUTS = {
    "id": "i-1",
    "host": "127.0.0.1",
    "port": 2222.0,
    "user": "u",
    "host_key": "ssh-ed25519 AAAA",
    "provider": "local",
    "region": "r",
    "instance_type": "t",
    "worst_case_usd": 3.0,
}


def test_a_port_from_the_engine_is_a_whole_number() -> None:
    """The engine hands every number over as a float."""
    machine = Machine.from_outputs(OUTPUTS)
    assert machine.port == 2222
    assert isinstance(machine.port, int)


def test_a_missing_output_is_named() -> None:
    """A provider that forgot one gets its name."""
    with pytest.raises(ValueError, match="'host_key'"):
        Machine.from_outputs({name: value for name, value in OUTPUTS.items() if name != "host_key"})
