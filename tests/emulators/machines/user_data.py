"""The user data of a launch, read as cloud-init reads it, as far as this emulator knows it."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

_KEY_TYPES = ("rsa", "ecdsa", "ed25519")
_KNOWN = {
    "ssh_deletekeys",
    "ssh_genkeytypes",
    "ssh_keys",
    "ssh_authorized_keys",
    "write_files",
    "runcmd",
}


@dataclass(frozen=True)
class UserData:
    """What is to be done at the first boot.

    Attributes:
        early: a shell script for files and keys; the SSH server reads its keys again after it.
        late: a shell script of the user's own commands, run after that.
        ignored: what is not known here, by name.
    """

    early: str = ""
    late: str = ""
    ignored: tuple[str, ...] = ()


def parse(text: str) -> UserData:
    """Reads it. Like cloud-init it never fails; what it cannot take it names in `ignored`."""
    if not text.strip():
        return UserData(early=_host_keys({}))
    if text.startswith("#!"):
        return UserData(early=_host_keys({}), late=_script(text))
    if text.split("\n", 1)[0].rstrip() != "#cloud-config":
        return UserData(early=_host_keys({}), ignored=("no #cloud-config in the first line",))
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        return UserData(early=_host_keys({}), ignored=(f"not YAML: {error}",))
    if not isinstance(config, Mapping):
        return UserData(early=_host_keys({}), ignored=("not a mapping",))
    early = "".join(
        (
            *(_file(each) for each in config.get("write_files") or ()),
            _host_keys(config),
            _authorized(config.get("ssh_authorized_keys") or []),
        )
    )
    late = "".join(_command(each) for each in config.get("runcmd") or ())
    return UserData(early, late, tuple(sorted(str(name) for name in set(config) - _KNOWN)))


def copies(id: str, text: str) -> str:
    """A shell script for what cloud-init keeps of the user data on the machine, for root to read."""
    folder = f"/var/lib/cloud/instances/{id}"
    sensitive = json.dumps({"userdata": text, "v1": {"instance_id": id}})
    return "".join(
        (
            f"mkdir -p {folder}/scripts\nln -sfn {folder} /var/lib/cloud/instance\n",
            _put(f"{folder}/user-data.txt", text.encode(), "0600"),
            _put(f"{folder}/cloud-config.txt", text.encode(), "0600"),
            _put("/run/cloud-init/instance-data-sensitive.json", sensitive.encode(), "0600"),
        )
    )


def _host_keys(config: Mapping[str, Any]) -> str:
    """cloud-init deletes the image's keys unless told otherwise, and makes new ones unless it is given some."""
    script = ""
    if config.get("ssh_deletekeys", True):
        script += "rm -f /etc/ssh/ssh_host_*key*\n"
    given = config.get("ssh_keys")
    if given is None:
        for kind in config.get("ssh_genkeytypes", _KEY_TYPES):
            path = f"/etc/ssh/ssh_host_{kind}_key"
            script += f"[ -e {path} ] || ssh-keygen -q -t {shlex.quote(kind)} -N '' -f {path}\n"
        return script
    for name, value in given.items():
        kind, _, half = name.partition("_")
        if kind in _KEY_TYPES and half in ("private", "public"):
            ending, mode = (".pub", "0644") if half == "public" else ("", "0600")
            script += _put(f"/etc/ssh/ssh_host_{kind}_key{ending}", value.encode(), mode)
    return script


def _authorized(keys: list[str]) -> str:
    lines = "".join(f"{key}\n" for key in keys)
    return f"printf %s {shlex.quote(lines)} >>/home/ubuntu/.ssh/authorized_keys\n" if keys else ""


def _file(entry: Mapping[str, Any]) -> str:
    content = str(entry.get("content", "")).encode()
    if entry.get("encoding") in ("b64", "base64"):
        content = base64.b64decode(content)
    mode = entry.get("permissions", "0644")
    mode = f"{mode:04o}" if isinstance(mode, int) else str(mode)
    put = _put(entry["path"], content, mode, append=bool(entry.get("append")))
    owner = entry.get("owner")
    return put + (
        f"chown {shlex.quote(owner)} {shlex.quote(entry['path'])}\n" if owner is not None else ""
    )


def _put(path: str, content: bytes, mode: str, *, append: bool = False) -> str:
    name, encoded = shlex.quote(path), base64.b64encode(content).decode()
    arrow = ">>" if append else ">"
    return (
        f'mkdir -p "$(dirname {name})"\n'
        f"(umask 077; base64 -d {arrow}{name} <<'END'\n{encoded}\nEND\n)\n"
        f"chmod {shlex.quote(mode)} {name}\n"
    )


def _command(entry: str | list[str]) -> str:
    """A line of a shell for a string, one command as it is for a list."""
    return (entry if isinstance(entry, str) else shlex.join(map(str, entry))) + "\n"


def _script(text: str) -> str:
    put = _put("/var/lib/cloud/instance/scripts/part-001", text.encode(), "0700")
    return put + "/var/lib/cloud/instance/scripts/part-001\n"
