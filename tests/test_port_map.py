"""The override that tells where an emulated machine's SSH server is, and that nothing else changes by it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dayfly.errors import ConfigurationError
from dayfly.infra import port_map


def test_without_the_override_the_address_is_the_provider_s() -> None:
    """The only case outside of an emulator."""
    assert port_map.endpoint("i-1", "192.0.2.7", 22) == ("192.0.2.7", 22)


def test_an_instance_in_the_map_is_reached_where_the_map_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others, such as a machine that is this computer, stay where they are."""
    file = tmp_path / "ports.json"
    file.write_text('{"i-1": {"host": "127.0.0.1", "port": 40022}}')
    monkeypatch.setenv(port_map.VARIABLE, str(file))
    assert port_map.endpoint("i-1", "192.0.2.7", 22) == ("127.0.0.1", 40022)
    assert port_map.endpoint("local-1", "127.0.0.1", 9) == ("127.0.0.1", 9)


@pytest.mark.parametrize("text", [None, "", "[]", '{"i-1": 7}', '{"i-1": {"host": "127.0.0.1"}}'])
def test_a_map_that_cannot_be_read_is_named(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Falling back to the address would knock at a stranger's door."""
    file = tmp_path / "ports.json"
    if text is not None:
        file.write_text(text)
    monkeypatch.setenv(port_map.VARIABLE, str(file))
    with pytest.raises(ConfigurationError, match=r"DAYFLY_SSH_PORT_MAP.*unset it"):
        port_map.endpoint("i-1", "192.0.2.7", 22)


def test_several_emulators_have_a_file_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As folders in PATH; the first that knows the instance says where it is."""
    for number in (1, 2):
        place = {"host": "127.0.0.1", "port": 7000 + number}
        (tmp_path / f"{number}.json").write_text(json.dumps({f"i-{number}": place}))
    files = os.pathsep.join(str(tmp_path / f"{number}.json") for number in (1, 2))
    monkeypatch.setenv(port_map.VARIABLE, files)
    assert port_map.endpoint("i-2", "198.51.100.2", 22) == ("127.0.0.1", 7002)
    assert port_map.endpoint("i-3", "198.51.100.3", 22) == ("198.51.100.3", 22)
