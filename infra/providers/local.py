"""provider="local": a machine that is this computer, reached through a real OpenSSH server on loopback.

For try-outs and tests at $0, and the reference for new files: the same stack, session, journal and receipt as a cloud.
"""

from __future__ import annotations

import json
import math
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dayfly.errors import ConfigurationError, ProvisionFailed, SpecError
from dayfly.infra import own_gpus, processes, sshd
from dayfly.infra.dynamic import CreateResult, DynamicProvider
from dayfly.infra.found import Found, State
from dayfly.infra.gpu_request import DriverGpu
from dayfly.infra.offers import Offer, today
from dayfly.infra.providers.base import FailureKind, Limits, Provider
from dayfly.infra.run import Run
from dayfly.infra.spec import Spec
from dayfly.infra.units import human_bytes

_READY_TIMEOUT_S = 15.0
_INSTANCE_TYPE = "this-computer"
_REGION = "loopback"
_ADDRESS = "127.0.0.1"
# Each is a home, an SSH server and what the function takes, and all of them share this computer.
_MOST_NODES = 32
# They outlive this process on purpose; a reference keeps the interpreter from warning about that.
_GUARDIANS: list[subprocess.Popen[bytes]] = []


class InstanceProvider(DynamicProvider):
    """The machine itself: a guardian process that hands connections to sshd."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        from dayfly.infra import loopback  # a plan has no use for what it loads

        directory = Path(props["directory"])
        sshd.furnish(directory, props)
        arguments = [sys.executable, "-I", loopback.__file__]
        for name in ("run", "owner", "deadline", "created", "directory"):
            arguments += [f"--{name}", str(props[name])]
        node = int(props.get("node") or 0)
        arguments += ["--node", str(node)]
        with (directory / "guardian.log").open("wb") as log:
            guardian = subprocess.Popen(
                [*arguments, "--sshd", sshd.path()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env={
                    "PATH": os.environ.get("PATH", os.defpath),
                    "DAYFLY_RUN": props["run"],
                    "DAYFLY_OWNER": props["owner"],
                },
            )
        _GUARDIANS.append(guardian)
        address = _first_line(guardian, directory)
        outs = {name: value for name, value in props.items() if name != "__provider"}
        return CreateResult(_instance_id(props["run"], node), {**outs, "port": address["port"]})

    def delete(self, _id: str, props: dict[str, Any]) -> None:
        # Of all its machines: what runs on one of them may have been started from another.
        processes.end_run(props["run"])
        _GUARDIANS[:] = [guardian for guardian in _GUARDIANS if guardian.poll() is None]
        shutil.rmtree(props["directory"], ignore_errors=True)


class ReadyProvider(DynamicProvider):
    """Nothing but the wait until the machine's SSH server answers; may fail and leaves nothing behind."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        until = time.monotonic() + _READY_TIMEOUT_S
        while True:
            banner = _banner(int(props["port"]))
            if banner.startswith("SSH-"):
                return CreateResult(
                    f"ready-{props['run']}",
                    {"run": props["run"], "port": props["port"], "banner": banner},
                )
            if time.monotonic() > until:
                raise ProvisionFailed(
                    f"sshd on port {props['port']:.0f} did not answer in {_READY_TIMEOUT_S:.0f} s: {banner}"
                )
            time.sleep(0.02)


class Local(Provider):
    """This computer."""

    name = "local"
    same_computer = True
    free = frozenset({"pulumi-python:dynamic/dayfly:LocalReady"})
    limits = Limits(
        listing_lag_s=0.0,
        late_create_s=0.0,
        billing_increment_s=1.0,
        if_this_computer_dies="the machine is this computer and dies with it; nothing is billed",
        console="ps -ef | grep loopback.py",
    )

    def dynamic(self) -> Sequence[type[DynamicProvider]]:
        return InstanceProvider, ReadyProvider

    def offers(self, spec: Spec) -> Sequence[Offer]:
        for wanted, have, name in (
            (spec.instance_type, _INSTANCE_TYPE, "instance_type"),
            (spec.region, _REGION, "region"),
        ):
            if wanted not in (None, have):
                raise SpecError(
                    f'provider="local" has no {name} {wanted!r}; leave {name}= out or write {have!r}'
                )
        cores = os.cpu_count() or 1
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if (spec.cores or 0) > cores:
            raise SpecError(
                f"cores={spec.cores}: this computer has {cores}; the nearest that fits is cores={cores}"
            )
        if spec.memory_bytes > memory:
            raise SpecError(
                f"memory={human_bytes(spec.memory_bytes)}: this computer has {human_bytes(memory)}; ask for less"
            )
        if spec.nodes > _MOST_NODES:
            raise SpecError(
                f'nodes={spec.nodes}: provider="local" makes at most {_MOST_NODES} machines of this computer'
            )
        _check_disk(spec)
        gpus = _check_gpus(spec)
        return [
            Offer(
                "local",
                _REGION,
                _INSTANCE_TYPE,
                cores,
                memory,
                0.0,
                len(gpus),
                gpus[0].name if gpus else "",
                as_of=today(),
                source="your own computer",
                gpu_memory_gb=gpus[0].memory_gb if gpus else 0.0,
            )
        ]

    def price_list(self) -> Sequence[Offer]:
        return self.offers(Spec())

    def declare(self, spec: Spec, offer: Offer, run: Run) -> Sequence[Mapping[str, Any]]:
        from pulumi import Output
        from pulumi.dynamic import Resource

        class LocalInstance(Resource, module="dayfly", name="LocalInstance"):
            port: Output[float]

        class LocalReady(Resource, module="dayfly", name="LocalReady"):
            port: Output[float]

        def machine(node: int) -> Mapping[str, Any]:
            other = f"-{node}" if node else ""
            instance = LocalInstance(
                InstanceProvider(),  # type: ignore[arg-type]  # the SDK asks for the methods, not for the base class
                f"instance{other}",
                {
                    "run": run.id,
                    "owner": run.owner,
                    "deadline": math.ceil(run.deadline),
                    "created": int(run.created),
                    # The first is as it was when there was no other: a second `pulumi up` must find nothing changed.
                    **({"node": node} if node else {}),
                    "directory": str(run.directory / f"machine{other}"),
                    "authorized_key": run.public_key,
                    "host_key_file": str(run.host_key_file(node)),
                    "port": None,
                },
            )
            ready = LocalReady(
                ReadyProvider(),  # type: ignore[arg-type]  # as above
                f"ready{other}",
                {"run": run.id, "port": instance.port, "banner": None},
            )
            return {
                "id": instance.id,
                "host": _ADDRESS,
                "port": ready.port,
                "user": sshd.account(),
                "host_key": run.host_key_of(node),
                "cache_dir": str(run.directory.parent.parent / "machine-cache"),
                "inner_host": _ADDRESS,
            }

        return [machine(node) for node in range(spec.nodes)]

    def inventory(self, owner: str | None) -> Sequence[Found]:
        # A process without our tags is no machine, so there is nothing untagged to tell of.
        return [
            found
            for found in processes.tagged()
            if owner is None or found.tags.get("dayfly-owner") == owner
        ]

    def terminate(self, found: Found) -> None:
        if found.run:
            processes.end_run(found.run)

    def instance_state(self, id: str) -> State:
        return "running" if _guardian(id) else "terminated"

    def address(self, id: str) -> tuple[str, int] | None:
        guardian = _guardian(id)
        port = processes.listening_port(int(guardian.id)) if guardian else None
        return None if port is None else (_ADDRESS, port)

    def failure(self, error: str) -> FailureKind:
        return "invalid" if "needs sshd" in error else "unknown"

    def preflight(self) -> Sequence[str]:
        try:
            sshd.path()
            sshd.account()
        except ConfigurationError as missing:
            return [str(missing)]
        return []


PROVIDER = Local()


def _instance_id(run: str, node: int) -> str:
    return f"local-{run[:12]}" + (f"-{node}" if node else "")


def _guardian(id: str) -> Found | None:
    found = (f for f in processes.tagged() if f.kind == "instance" and _id_of(f) == id)
    return next(found, None)


def _id_of(guardian: Found) -> str:
    # One of an earlier version carries no number.
    return _instance_id(guardian.run, int(guardian.tags.get("dayfly-node") or 0))


def _check_disk(spec: Spec) -> None:
    free = shutil.disk_usage(Path.home()).free
    if spec.disk_bytes > free:
        raise SpecError(
            f"disk={human_bytes(spec.disk_bytes)}: this computer has {human_bytes(free)} free; ask for less"
        )


def _check_gpus(spec: Spec) -> list[DriverGpu]:
    gpus = own_gpus.found()
    if not spec.gpus:
        return gpus
    for wanted in spec.gpus:
        fitting = [gpu for gpu in gpus if wanted.is_met_by(gpu)]
        if len(fitting) >= wanted.count:
            return fitting
    have = ", ".join(gpu.name for gpu in gpus) or "no GPU"
    raise SpecError(
        f"gpu={spec.gpu!r}: this computer has {have}; leave gpu= out or name another provider"
    )


def _first_line(guardian: subprocess.Popen[bytes], directory: Path) -> dict[str, Any]:
    """The guardian's address, which it prints as soon as it listens."""
    assert guardian.stdout is not None
    with guardian.stdout as output:
        line = output.readline() if select.select([output], [], [], _READY_TIMEOUT_S)[0] else b""
    if not line:
        guardian.kill()
        said = (directory / "guardian.log").read_text(errors="replace")[-500:]
        raise ProvisionFailed(f"the guardian of the machine did not start: {said}")
    address: dict[str, Any] = json.loads(line)
    return address


def _banner(port: int) -> str:
    """What the server says first, or why it says nothing."""
    import socket  # a plan has no use for it

    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            return connection.recv(255).decode(errors="replace").strip() or "closed without a word"
    except OSError as error:
        return str(error)
