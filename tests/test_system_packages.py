"""System packages: installed as root by the machine's own manager, as far as they are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from dayfly.errors import EnvironmentFailed, SpecError
from dayfly.infra.spec import Spec
from dayfly.runtime import system_packages
from dayfly.runtime.session import Session
from tests.sshd import sshd

# What stands in for apt: it needs root and a network, and would change this computer.
_APT = """#!/bin/sh
echo "$@" >>{folder}/asked
case "$*" in
  *update) touch {folder}/listed; echo lists are new;;
  *broken*) echo "E: Unable to locate package broken"; exit 100;;
  *install*) [ -e {folder}/listed ] || {{ echo "E: no lists"; exit 100; }}
    echo "Setting up $(echo "$@" | tr ' ' '\\n' | tail -1)"; echo "$@" | tr ' ' '\\n' >>{folder}/there;;
esac
"""
_DPKG = """#!/bin/sh
for name; do :; done
grep -qx "$name" {folder}/there || exit 1
printf installed
"""


@pytest.mark.parametrize(
    "bad", ["ffmpeg", ["-y"], ["a b"], ["x;y"], [7], ["--allow-unauthenticated"], ["/tmp/x.deb"]]
)
def test_what_is_no_name_of_a_package_is_refused(bad: object) -> None:
    """An option above all."""
    with pytest.raises(SpecError, match="system_packages="):
        Spec(system_packages=bad)  # type: ignore[arg-type]


def test_names_with_versions_and_architectures_are_taken_once() -> None:
    """As apt writes them."""
    names = ["libgl1", "g++", "libc6:amd64", "ffmpeg=7:5.1.6-0+deb12u1", "libgl1"]
    assert Spec(system_packages=names).system_packages == tuple(names[:-1])


def test_this_computers_own_system_is_not_touched() -> None:
    """Nothing is spent, and the way out is named."""
    with pytest.raises(SpecError, match="install them yourself"):
        system_packages.check(["lambda", "local"], ["ffmpeg"])
    system_packages.check(["lambda"], ["ffmpeg"])
    system_packages.check(["local"], [])


@pytest.mark.sshd
def test_what_is_missing_is_installed_once(tmp_path: Path) -> None:
    """With new lists where the old ones do not know it; what is there costs one look; a failure is in its words."""
    (programs := tmp_path / "bin").mkdir()
    for name, text in (
        ("apt-get", _APT),
        ("dpkg-query", _DPKG),
        ("sudo", '#!/bin/sh\nshift\nexec "$@"\n'),
    ):
        (programs / name).write_text(text.format(folder=tmp_path))
        (programs / name).chmod(0o755)
    (tmp_path / "there").write_text("old\n")
    lines: list[str] = []
    with (
        sshd(tmp_path / "machine", path=f"{programs}:/usr/bin:/bin") as server,
        Session(server.machine, server.keys) as session,
    ):
        session.install_system_packages(["old"], pytest.fail)
        assert not (tmp_path / "asked").exists()
        session.install_system_packages(["old", "new"], lines.append)
        session.install_system_packages(["new"], pytest.fail)
        with pytest.raises(EnvironmentFailed, match="Unable to locate package broken"):
            session.install_system_packages(["broken"], lines.append)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert [line.split()[-2:] for line in asked[:3]] == [
        ["install", "new"],
        ["-y", "update"],
        ["install", "new"],
    ]
    assert "lists are new" in lines
    assert "Setting up new" in lines
    assert not list((tmp_path / "machine" / "cache").glob("*.log"))
