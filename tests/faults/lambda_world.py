"""The emulated Lambda Cloud of one process's trials: its own ground truth, strangers in the account, a door for every machine."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from tests.emulators.lambda_cloud import Emulator, Options

# The longest that a second machine of a run may live (I3), and what a busy computer may add: both of the cloud's seconds.
_TWIN_S, SLACK_S = 60.0, 60.0
_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJmN1qfmSaKVMxLQ1pVHJ8cK8lKNpsm9eZqYcOqsBb5p"


@dataclass(frozen=True)
class World:
    """One emulator and what is in it that is not ours.

    Attributes:
        cloud: the emulator.
        door: port of something that speaks first as an SSH server does.
        doors: the file that says so of each machine; None where the machines are real ones.
    """

    cloud: Emulator
    door: int
    doors: Path | None

    def renew(self, options: Options | None = None) -> None:
        """An empty account with a machine, a key and a ruleset of somebody else."""
        self.cloud.renew(options)
        os.environ["LAMBDA_TIME_SCALE"] = str(self.cloud.options.time_scale)
        if self.doors is not None:
            self.doors.write_text("{}")
        self._post("ssh-keys", {"name": "somebody-else", "public_key": _KEY})
        machine = {
            "region_name": "us-east-1",
            "instance_type_name": "gpu_1x_a100",
            "ssh_key_names": ["somebody-else"],
            "name": "not-ours",
            # No more host keys than it needs: making one of RSA is 7% of a kill's work.
            "user_data": "#cloud-config\nssh_genkeytypes: [ed25519]\n",
        }
        self._post("instance-operations/launch", machine)
        ruleset = {"name": "somebody-else", "region": "us-east-1", "rules": []}
        self._post("firewall-rulesets", ruleset)
        self._post("filesystems", {"name": "somebody-else", "region": "us-east-1"})

    def _post(self, path: str, body: dict[str, Any]) -> None:
        url = f"{self.cloud.url.rstrip('/').removesuffix('/api/v1')}/api/v1/{path}"
        headers = {"Authorization": f"Bearer {self.cloud.api_key}"}
        for _ in range(100):
            answer = requests.post(url, json=body, headers=headers, timeout=10)
            if answer.status_code != 429:
                break
            time.sleep(0.02)
        assert answer.status_code == 200, answer.text

    def open_door(self, instance: str) -> None:
        """Lets the machine be reached."""
        if self.doors is not None:
            known = json.loads(self.doors.read_text())
            known[instance] = {"host": "127.0.0.1", "port": self.door}
            self.doors.write_text(json.dumps(known))

    def fired(self) -> list[str]:
        """Faults of the script that have struck."""
        return [f"{event['kind']} of {event['op']}" for event in self.cloud.events("fault")]

    # -- what the ground truth says

    def lives(self, run: str) -> bool:
        """Whether a machine of a run is there."""
        return any(run in str(row["tags"]) for row in self.cloud.live())

    def leaked(self) -> list[str]:
        """Machines, keys and rulesets that are there and are not the stranger's."""
        found = [f"instance {row['id']}" for row in self.cloud.live() if row["name"] != "not-ours"]
        for thing in ("ssh_key", "ruleset"):
            held = {event["id"]: event["name"] for event in self.cloud.events(f"{thing}_added")}
            for event in self.cloud.events(f"{thing}_deleted"):
                held.pop(event["id"], None)
            found += [f"{thing} {name}" for name in held.values() if name != "somebody-else"]
        return found

    def longest_twin_s(self) -> float:
        """For how long the cloud's own log has a run with two machines at most, in the cloud's seconds."""
        return max(self._twins().values(), default=0.0)

    def _twins(self) -> dict[str, float]:
        return twins(self.cloud.events(), self.cloud.options.time_scale)

    def broken(self, *, slack_s: float = SLACK_S) -> list[str]:
        """The stranger's things that are gone (I8), and machines that a run had too many of for too long (I3).

        Args:
            slack_s: what a busy computer may add to the 60 s, in the cloud's seconds; more than that only where a family
                says why.
        """
        there = [row["name"] for row in self.cloud.live()]
        problems = ["somebody else's machine was ended"] * ("not-ours" not in there)
        for thing in ("ssh_key", "ruleset", "file_system"):
            gone = [
                e for e in self.cloud.events(f"{thing}_deleted") if e["name"] == "somebody-else"
            ]
            problems += [f"somebody else's {thing} was deleted"] * len(gone)
        problems += [
            f"run {run} had two machines for {seconds:.0f} s of the cloud"
            for run, seconds in self._twins().items()
            if seconds > _TWIN_S + slack_s
        ]
        return problems


def twins(events: Sequence[dict[str, Any]], scale: float) -> dict[str, float]:
    """For how long each run had more than one machine that nobody had asked to end, in the cloud's seconds.

    Args:
        events: of the cloud's log, which has our time.
        scale: how many of the cloud's seconds pass in one of ours.
    """
    run_of: dict[str, str] = {}
    alive: dict[str, set[str]] = defaultdict(set)
    since: dict[str, float] = {}
    found: dict[str, float] = defaultdict(float)
    for event in events:
        id, at = str(event.get("instance", "")), event["at"] * scale
        if event["event"] == "launch_accepted":
            run = run_of[id] = event["tags"].get("dayfly-run", "")
            alive[run].add(id)
            if run and len(alive[run]) == 2:
                since[run] = at
        elif event["event"] == "terminate_accepted" and id in run_of:
            run = run_of[id]
            alive[run].discard(id)
            if len(alive[run]) == 1 and run in since:
                found[run] += at - since.pop(run)
    for run, begun in since.items():
        found[run] += events[-1]["at"] * scale - begun
    return dict(found)


@contextlib.contextmanager
def world(folder: Path, options: Options) -> Iterator[World]:
    """One for as long as the block lasts; this process's environment names it."""
    with Emulator(options) as cloud, _door() as port:
        doors = None if options.machines else folder / "doors.json"
        os.environ |= cloud.environment()
        if doors is not None:
            doors.write_text("{}")
            os.environ["DAYFLY_SSH_PORT_MAP"] = str(doors)
        yield World(cloud, port, doors)


@contextlib.contextmanager
def _door() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:

        def speak() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.sendall(b"SSH-2.0-door\r\n")

        threading.Thread(target=speak, daemon=True).start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
