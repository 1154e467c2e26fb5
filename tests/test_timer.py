"""What `dayfly gc --install` hands to systemd and cron, as they were given it."""

from __future__ import annotations

import json
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dayfly.errors import ConfigurationError
from dayfly.runtime.timer import Crontab, SystemdTimer, Timer
from dayfly.stacks.workspace import Workspace
from tests.test_cli import dayfly

pytestmark = pytest.mark.process
_SYSTEMCTL = """#!/bin/sh
echo "$*" >> "$RECORD"
test "$2" != "$FAILS" && echo "PATH=/bin"
"""
_CRONTAB = """#!/bin/sh
if [ "$1" = -l ]; then cat "$TABLE" 2>/dev/null; exit $?; fi
echo written >> "$RECORD"
cat > "$TABLE"
"""


def _program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(stat.S_IRWXU)


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What was asked of the programs in front of PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}:/usr/bin:/bin")
    monkeypatch.setenv("RECORD", str(tmp_path / "record"))
    monkeypatch.setenv("TABLE", str(tmp_path / "table"))
    monkeypatch.setenv("FAILS", "")
    (tmp_path / "record").touch()
    (tmp_path / "programs").mkdir()
    return tmp_path / "record"


@pytest.fixture
def systemd(record: Path) -> Path:
    """A user instance of systemd that writes down what it is asked."""
    _program(record.parent / "programs", "systemctl", _SYSTEMCTL)
    return record


@pytest.fixture
def cron(record: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A crontab, and a systemd without a user instance."""
    _program(record.parent / "programs", "systemctl", _SYSTEMCTL)
    _program(record.parent / "programs", "crontab", _CRONTAB)
    monkeypatch.setenv("FAILS", "show-environment")
    return record


def test_systemd_gets_two_units_once(workspace: Workspace, systemd: Path) -> None:
    """Installing again changes nothing; uninstalling leaves nothing."""
    timer = Timer.of(workspace)
    assert timer.kind == "systemd"
    assert timer.install().changed
    folder = workspace.home / "config/systemd/user"
    service = (folder / f"{timer.name}.service").read_text()
    assert f'ExecStart="{sys.executable}" "-P" "-m" "dayfly.runtime.cli" "gc" "--yes"\n' in service
    assert f'"DAYFLY_HOME={workspace.home}"' in service
    assert f'"DAYFLY_OWNER={workspace.owner}"' in service
    assert "OnUnitActiveSec=10min" in (folder / f"{timer.name}.timer").read_text()
    assert f"--user enable --now {timer.name}.timer" in systemd.read_text()
    assert not timer.install().changed
    assert systemd.read_text().count("daemon-reload") == 1
    assert timer.uninstall().changed
    assert not list(folder.iterdir())
    assert f"--user disable --now {timer.name}.timer" in systemd.read_text()
    assert not timer.uninstall().changed


def test_a_timer_finds_what_this_process_finds_and_keeps_no_password(
    workspace: Workspace, systemd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key file at a place of the user's choice, and the way through a proxy; not what only this session has."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(workspace.home / "config"))
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("http_proxy", "http://me:secret@proxy.example:3128")
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/ours.pem")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    monkeypatch.setenv("LAMBDA_API_KEY", "secret_key")
    timer = Timer.of(workspace)
    timer.install()
    service = (workspace.home / f"config/systemd/user/{timer.name}.service").read_text()
    assert f'"XDG_CONFIG_HOME={workspace.home / "config"}"' in service
    assert '"https_proxy=http://proxy.example:3128"' in service
    assert '"SSL_CERT_FILE=/etc/ours.pem"' in service
    assert "secret" not in service
    assert "XDG_RUNTIME_DIR" not in service


def test_cron_gets_one_line_and_keeps_every_other(workspace: Workspace, cron: Path) -> None:
    """Of this user and of other homes."""
    table = cron.parent / "table"
    others = "# mine\n0 1 * * * backup # dayfly-gc-somebody-else\n"
    table.write_text(others)
    timer = Timer.of(workspace)
    assert timer.kind == "cron"
    assert timer.install().changed
    assert not timer.install().changed
    assert cron.read_text().count("written") == 1
    (line,) = table.read_text().removeprefix(others).splitlines()
    schedule, command = line.split(" ")[:5], line.split(" ", 5)[5]
    assert schedule == ["*/10", "*", "*", "*", "*"]
    assert f"DAYFLY_HOME={workspace.home}" in shlex.split(command)
    assert " ".join((sys.executable, "-P", "-m", "dayfly.runtime.cli", "gc", "--yes")) in command
    assert timer.uninstall().changed
    assert table.read_text() == others
    assert not timer.uninstall().changed


@pytest.mark.parametrize("code", [0, 75])
def test_cron_mails_what_a_gc_that_fails_has_said(
    workspace: Workspace, cron: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """And nothing while all is well; the last words are kept either way."""
    gc = cron.parent / "programs" / "a gc"
    _program(gc.parent, gc.name, f'#!/bin/sh\necho "dayfly: $5 said" >&2\nexit {code}\n')
    monkeypatch.setattr(sys, "executable", str(gc))
    timer = Timer.of(workspace)
    timer.install()
    command = (cron.parent / "table").read_text().split(" ", 5)[5].replace("\\%", "%")
    mail = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)
    assert (workspace.home / "gc.log").read_text() == "dayfly: --yes said\n"
    failed = "dayfly gc ended with 75\ndayfly: --yes said\n"
    assert (mail.stdout, mail.stderr) == (failed if code else "", "")


def test_a_user_without_a_crontab_gets_one(workspace: Workspace, cron: Path) -> None:
    """`crontab -l` fails then."""
    assert Timer.of(workspace).install().changed
    assert len((cron.parent / "table").read_text().splitlines()) == 1


def test_what_is_special_to_systemd_and_cron_is_no_more(
    workspace: Workspace, cron: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A percent sign ends a line of cron's and begins a specifier of systemd's."""
    monkeypatch.setenv("PATH", f"{cron.parent / 'programs'}:/usr/bin:/bin:/100% $odd")
    Crontab(workspace).install()
    assert "/100\\% $odd" in (cron.parent / "table").read_text()
    (service,) = (t for f, t in SystemdTimer(workspace)._units.items() if f.suffix == ".service")
    assert "/100%% $$odd" in service


def test_the_command_line_installs_and_uninstalls(workspace: Workspace, cron: Path) -> None:
    """With what it did."""
    done = dayfly("gc", "--install", "--json")
    assert json.loads(done.stdout) == {"installed": True, "by": "cron", "changed": True}
    assert "every 10 minutes" in dayfly("gc", "--install").stdout
    assert "gone" in dayfly("gc", "--uninstall").stdout


def test_a_computer_without_either_gets_the_command(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """For a scheduler of its own."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"dayfly\.runtime\.cli gc --yes"):
        Timer.of(workspace)


def test_a_timer_that_refuses_is_told_in_its_words(
    workspace: Workspace, record: Path, tmp_path: Path
) -> None:
    """A policy may forbid cron to this user."""
    _program(
        tmp_path / "programs", "crontab", '#!/bin/sh\necho "you may not use cron" >&2\nexit 1\n'
    )
    with pytest.raises(ConfigurationError, match="you may not use cron"):
        Crontab(workspace).install()
