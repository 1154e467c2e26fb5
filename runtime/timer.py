"""`dayfly gc --yes` every ten minutes, whether or not anybody types a command: a systemd user timer, else a line for cron."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dayfly.errors import ConfigurationError
from dayfly.stacks.workspace import Workspace

_MINUTES = 10
_NOT_KEPT = re.compile("HOME$|USER$|LOGNAME$|TMPDIR$|XDG_RUNTIME_DIR$|XDG_SE|LANG$|LC_")
_PASSWORD = re.compile(r"://[^/@\s]+@")
_COMMAND = ("-P", "-m", "dayfly.runtime.cli", "gc", "--yes")


@dataclass(frozen=True)
class Done:
    """What was done, in a sentence, and whether anything was."""

    changed: bool
    text: str


class Timer(ABC):
    """One home's place in one of this user's timers; installing twice is installing once."""

    kind: ClassVar[str]

    def __init__(self, workspace: Workspace) -> None:
        # As settled now: a timer is in no project, and has none of this shell's variables.
        self.variables = {
            **_kept(workspace.bare_environment()),
            "DAYFLY_HOME": str(workspace.home),
            "DAYFLY_OWNER": workspace.owner,
            "DAYFLY_BACKEND": workspace.backend,
            "DAYFLY_SECRETS_PROVIDER": workspace.secrets_provider,
            "PATH": os.environ.get("PATH", os.defpath),
        }
        # Two homes of one user have a timer each.
        self.name = f"dayfly-gc-{workspace.owner}"
        self.log = str(workspace.home / "gc.log")

    @staticmethod
    def of(workspace: Workspace) -> Timer:
        """The timer that this computer has.

        Raises:
            ConfigurationError: neither systemd nor cron is there.
        """
        if shutil.which("systemctl") and _said(["systemctl", "--user", "show-environment"]):
            return SystemdTimer(workspace)
        if shutil.which("crontab"):
            return Crontab(workspace)
        raise ConfigurationError(
            "neither systemd's user instance nor cron is on this computer: have a scheduler of your own run"
            f" `{shlex.join([sys.executable, *_COMMAND])}` every {_MINUTES} minutes"
        )

    @abstractmethod
    def install(self) -> Done:
        """Has it done from now on.

        Raises:
            ConfigurationError: the timer refuses; with its words.
        """

    @abstractmethod
    def uninstall(self) -> Done:
        """Has it done no longer; not at all is success."""


class SystemdTimer(Timer):
    """Two units in the user's own folder."""

    kind = "systemd"

    @property
    def _units(self) -> dict[Path, str]:
        config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        folder = config / "systemd/user"
        command = " ".join(map(_quoted, (sys.executable, *_COMMAND)))
        variables = " ".join(_quoted(f"{name}={value}") for name, value in self.variables.items())
        service = (
            "[Unit]\nDescription=Dayfly: destroy what dead clients left behind\n\n"
            f"[Service]\nType=oneshot\nExecStart={command}\n"
            f"Environment={variables}\n"
        )
        timer = (
            f"[Unit]\nDescription=Dayfly: gc every {_MINUTES} minutes\n\n"
            f"[Timer]\nOnBootSec=2min\nOnUnitActiveSec={_MINUTES}min\nPersistent=true\n\n"
            "[Install]\nWantedBy=timers.target\n"
        )
        return {folder / f"{self.name}.service": service, folder / f"{self.name}.timer": timer}

    def install(self) -> Done:
        changed = False
        for file, text in self._units.items():
            if not file.exists() or file.read_text() != text:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
                changed = True
        if changed:
            _told(["systemctl", "--user", "daemon-reload"])
        _told(["systemctl", "--user", "enable", "--now", f"{self.name}.timer"])
        return Done(
            changed,
            f"systemd runs `dayfly gc --yes` every {_MINUTES} minutes while you are logged in"
            f" ({self.name}.timer); `loginctl enable-linger` has it run when you are not; `systemctl --user --failed` lists"
            f" {self.name}.service when it fails, and `journalctl --user -u {self.name}` has what it said",
        )

    def uninstall(self) -> Done:
        there = [file for file in self._units if file.exists()]
        if not there:
            return Done(False, "there was no timer of this home")
        _told(["systemctl", "--user", "disable", "--now", f"{self.name}.timer"])
        for file in there:
            file.unlink()
        _told(["systemctl", "--user", "daemon-reload"])
        return Done(True, f"{self.name}.timer is gone")


class Crontab(Timer):
    """One line of the user's crontab, known by the comment at its end."""

    kind = "cron"

    @property
    def _mark(self) -> str:
        return f"# {self.name}"

    @property
    def _line(self) -> str:
        command = shlex.join([sys.executable, *_COMMAND])
        variables = " ".join(
            f"{name}={shlex.quote(value)}" for name, value in self.variables.items()
        )
        # cron reads a percent sign as the end of the command.
        log = shlex.quote(self.log)
        # What is printed is mailed: nothing while all is well.
        failed = f"{{ echo dayfly gc ended with $?; cat {log}; }}"
        text = f"{variables} {command} >{log} 2>&1 || {failed}".replace("%", "\\%")
        return f"*/{_MINUTES} * * * * {text} {self._mark}"

    def install(self) -> Done:
        changed = self._replace([self._line])
        return Done(
            changed,
            f"cron runs `dayfly gc --yes` every {_MINUTES} minutes; what it last said is in {self.log}, and is mailed to you"
            " by cron when it fails",
        )

    def uninstall(self) -> Done:
        changed = self._replace([])
        return Done(changed, "its line is gone" if changed else "there was no line of this home")

    def _replace(self, wanted: list[str]) -> bool:
        """Puts `wanted` in the place of this home's lines; every other line stays as it is."""
        before = _said(["crontab", "-l"]).splitlines()
        after = [line for line in before if not line.endswith(self._mark)] + wanted
        if after == before:
            return False
        _told(["crontab", "-"], "".join(f"{line}\n" for line in after))
        return True


def _kept(variables: Mapping[str, str]) -> dict[str, str]:
    """Without addresses that have a password, as of a proxy: those are for a process to have, not for a file; nor what the
    timer knows by itself or a session alone has, for cron's lines are short."""
    return {
        name: value
        for name, value in variables.items()
        if not _PASSWORD.search(value) and not _NOT_KEPT.match(name)
    }


def _quoted(text: str) -> str:
    """One word of a unit file."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def _said(command: list[str]) -> str:
    """What a command prints; nothing where it fails: no crontab yet, no user instance."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return done.stdout if done.returncode == 0 else ""


def _told(command: list[str], text: str = "") -> None:
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode:
        raise ConfigurationError(
            f"`{shlex.join(command)}` failed: {(done.stderr or done.stdout).strip()}"
        )
