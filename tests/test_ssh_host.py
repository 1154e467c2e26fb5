"""A host is what `ssh` makes of it: names that are none are refused, and its configuration says where it is and what leads there."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dayfly.errors import ConfigurationError, SpecError
from dayfly.infra.ssh_host import SshHost, resolve
from dayfly.infra.ssh_pin import chosen, fingerprint, known
from tests.sshd import write_key


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The configuration that this process's `ssh` reads, empty."""
    file = tmp_path / "config"
    file.touch()
    (tmp_path / "bin").mkdir()
    wrapper = tmp_path / "bin" / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F "{file}" "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    yield file


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("gpu-box", ("gpu-box", "", 0)),
        ("me@10.0.0.5:2222", ("10.0.0.5", "me", 2222)),
        ("me@realm@box", ("box", "me@realm", 0)),
        ("[fe80::1]:22", ("fe80::1", "", 22)),
    ],
)
def test_a_name_is_taken_apart(name: str, found: tuple[str, str, int]) -> None:
    """As people write it."""
    host = SshHost.parse(name)
    assert (host.host, host.user, host.port) == found


@pytest.mark.parametrize(
    "name",
    ["-oProxyCommand=id", "a b", "a;b", "", "me@", "box:0", "box:65536", "a/b", "-l@x", "x\ny"],
)
def test_what_is_no_host_is_refused(name: str) -> None:
    """What looks like an option before anything else; the message says what to write."""
    with pytest.raises(SpecError, match=r"~/\.ssh/config"):
        SshHost.parse(name)


def test_the_configuration_says_where_it_is(config: Path) -> None:
    """User, port, the name of its host key, and the files that may know it."""
    config.write_text(
        "Host box\n HostName 10.1.2.3\n Port 2200\n User me\n UserKnownHostsFile /a /b\n GlobalKnownHostsFile /c\n"
        "Host named\n HostName 10.1.2.4\n HostKeyAlias other\n Port 99\n"
    )
    place = resolve(SshHost.parse("box"))
    assert (place.host, place.port, place.user, place.proxy) == ("10.1.2.3", 2200, "me", "")
    assert (place.known_as, place.known_in) == ("[10.1.2.3]:2200", ("/a", "/b", "/c"))
    assert resolve(SshHost.parse("you@box:7")).known_as == "[10.1.2.3]:7"
    assert resolve(SshHost.parse("you@box:7")).user == "you"
    assert resolve(SshHost.parse("named")).known_as == "other"


def test_jumps_and_proxies_become_one_command(config: Path) -> None:
    """What cannot be one is refused, with the sign that is not known."""
    config.write_text(
        "Host inside\n HostName 10.1.2.3\n ProxyJump a,me@b:2222\n"
        "Host proxied\n HostName 10.1.2.4\n User me\n ProxyCommand nc -X 5 %h %p # %r %n %%\n"
        "Host odd\n ProxyCommand way %C\n"
        "Host passed\n ProxyCommand way\n ProxyUseFdpass yes\n"
    )
    assert resolve(SshHost.parse("inside")).proxy == (
        "ssh -o BatchMode=yes -o ConnectTimeout=15 -J a -W '[10.1.2.3]:22' -l me -p 2222 -- b"
    )
    assert resolve(SshHost.parse("proxied")).proxy == "nc -X 5 10.1.2.4 22 # me proxied %"
    with pytest.raises(ConfigurationError, match=r"'%C'.*ProxyJump"):
        resolve(SshHost.parse("odd"))
    with pytest.raises(ConfigurationError, match="ProxyUseFdpass"):
        resolve(SshHost.parse("passed"))


def test_a_fault_of_the_configuration_is_told(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In ssh's own words; and so is that there is no ssh."""
    config.write_text("Nonsense yes\n")
    with pytest.raises(ConfigurationError, match=r"(?i)nonsense"):
        resolve(SshHost.parse("box"))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigurationError, match="No such file"):
        resolve(SshHost.parse("box"))


def test_known_hosts_are_searched_also_where_they_are_hashed(tmp_path: Path) -> None:
    """Keys of authorities, and revoked ones, are none of the host's."""
    keys = [write_key(tmp_path / f"key-{number}") for number in range(3)]
    file = tmp_path / "known"
    file.write_text(
        f"[10.0.0.5]:2222,box {keys[0]}\n@revoked box {keys[1]}\n@cert-authority * {keys[2]}\n"
    )
    assert known("box", [str(file), str(tmp_path / "none")]) == [keys[0]]
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", file], check=True, capture_output=True)
    assert "box" not in file.read_text().splitlines()[0].partition(" ")[0]
    assert known("[10.0.0.5]:2222", [str(file)]) == [keys[0]]
    assert known("elsewhere", [str(file)]) == []


def test_the_key_that_ssh_has_accepted_is_pinned(tmp_path: Path) -> None:
    """The last one, which is the machine's own behind those of the jumps; no other is taken for it."""
    keys = [write_key(tmp_path / f"key-{number}") for number in range(3)]
    accepted = [fingerprint(keys[1]), fingerprint(keys[2])]
    told = subprocess.run(
        ["ssh-keygen", "-l", "-f", "-"], input=keys[2], capture_output=True, text=True, check=True
    )
    assert accepted[1] == told.stdout.split()[1]
    assert chosen("box", keys, accepted) == keys[2]
    with pytest.raises(ConfigurationError, match=accepted[1].replace("+", r"\+")):
        chosen("box", keys[:1], accepted)
