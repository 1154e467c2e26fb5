"""provider="ssh": a machine that is there already, as the `ssh` of this computer reaches it; nothing of it is created or
destroyed, and it costs nothing.

A run's stack holds the run's own key in the machine's authorized_keys, and a login with it; docs/ssh.md tells the rest.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from dayfly.errors import ConfigurationError, DayflyError, NoCapacity, SpecError
from dayfly.infra import (
    creations,
    fence,
    home,
    ssh_environment,
    ssh_failed,
    ssh_host,
    ssh_machine,
    ssh_records,
)
from dayfly.infra.dynamic import DynamicProvider
from dayfly.infra.found import Found, State
from dayfly.infra.gpu_request import DriverGpu
from dayfly.infra.offers import Offer, today
from dayfly.infra.providers.base import FailureKind, Limits, Provider
from dayfly.infra.run import Run
from dayfly.infra.spec import Spec
from dayfly.infra.ssh_failed import SshFailed
from dayfly.infra.ssh_host import SshHost
from dayfly.infra.ssh_machine import Facts
from dayfly.infra.ssh_resources import KeyProvider, ReadyProvider
from dayfly.infra.units import human_bytes

_INSTANCE_TYPE = "your-own"


class Ssh(Provider):
    """A machine of the user's own."""

    name = "ssh"
    keeps_creations = True
    takes = frozenset({"host"})
    free = frozenset({"pulumi-python:dynamic/dayfly:SshReady"})
    environment = ssh_environment.NAMES
    limits = Limits(
        listing_lag_s=0.0,
        late_create_s=ssh_records.LATE_CREATE_S,
        billing_increment_s=1.0,
        if_this_computer_dies="the machine is yours and nothing is billed; at the deadline it ends the run's processes by"
        " itself, and a while later it takes the run's key no more",
        console="grep dayfly-run ~/.ssh/authorized_keys, on that machine",
    )

    def dynamic(self) -> Sequence[type[DynamicProvider]]:
        return KeyProvider, ReadyProvider

    def check_host(self, spec: Spec) -> None:
        _host(spec)

    def offers(self, spec: Spec) -> Sequence[Offer]:
        host = _host(spec)
        try:
            facts = ssh_machine.facts(host.name)
        except SshFailed as failed:
            if failed.code == "unreachable":
                raise NoCapacity(failed.words) from failed
            if failed.did_nothing:
                raise ConfigurationError(failed.words) from failed
            raise
        return [_offer(spec, host, facts)]

    def catalog_offers(self, spec: Spec) -> Sequence[Offer]:
        host = _host(spec)
        facts = ssh_machine.known_facts(host.name)
        if facts is None:
            raise SpecError(
                f"host={host.name!r} is not asked in a fast plan, and only the machine itself knows what it has: plan without"
                " --fast"
            )
        return [_offer(spec, host, facts)]

    def price_list(self) -> Sequence[Offer]:
        # It has no price, and which machines there are is in nobody's list.
        return []

    def declare(self, spec: Spec, offer: Offer, run: Run) -> Mapping[str, Any]:
        from pulumi import Output
        from pulumi.dynamic import Resource

        class SshKey(Resource, module="dayfly", name="SshKey"):
            host: Output[str]
            port: Output[float]
            user: Output[str]
            host_key: Output[str]
            via: Output[str]

        class SshReady(Resource, module="dayfly", name="SshReady"):
            host_key: Output[str]

        # The SDK asks for a provider's methods, not for its base class.
        key_provider: Any = KeyProvider()
        ready_provider: Any = ReadyProvider()
        found = {"host": None, "port": None, "user": None, "host_key": None, "via": None}
        key = SshKey(
            key_provider,
            "key",
            {
                "run": run.id,
                "owner": run.owner,
                "deadline": int(run.deadline),
                "directory": str(run.directory),
                "ssh_host": offer.region,
                "tags": run.tags,
                "public_key": run.public_key,
                **found,
            },
        )
        ready = SshReady(
            ready_provider,
            "ready",
            {"run": run.id, "ssh_host": offer.region, "host_key": key.host_key},
        )
        return {
            "id": key.id,
            "host": key.host,
            "port": key.port,
            "user": key.user,
            # Behind the login that has shown it.
            "host_key": ready.host_key,
            "via": key.via,
        }

    def inventory(self, owner: str | None) -> Sequence[Found]:
        # What carries no tag of ours is the machine's own business.
        return [
            found
            for found in ssh_machine.listed(ssh_records.open_ones())
            if owner is None or found.tags.get("dayfly-owner") == owner
        ]

    def left_of(self, run: str, owner: str, where: Sequence[str] = ()) -> Sequence[Found]:
        record = ssh_records.of(run)
        if record is None:
            return [] if _put_nothing(run) else super().left_of(run, owner)
        if record.gone:
            return []
        # Another run's host may be out of reach, and says nothing of this one.
        return [found for found in ssh_machine.listed([record]) if found.run == run]

    def terminate(self, found: Found) -> None:
        host = found.id.partition(f"/{found.run}")[0]
        if found.run and host != found.id:
            ssh_machine.take_away(host, found.run)

    def instance_state(self, id: str) -> State:
        known = ssh_machine.parts(id)
        if known is None:
            return "unknown"
        return "running" if ssh_machine.is_there(*known) else "terminated"

    def address(self, id: str) -> tuple[str, int] | None:
        known = ssh_machine.parts(id)
        if known is None:
            return None
        place = ssh_host.resolve(SshHost.parse(known[0]))
        return place.host, place.port

    def failure(self, error: str) -> FailureKind:
        return ssh_failed.kind_of(error)

    def is_configured(self) -> bool:
        try:
            return bool(ssh_records.open_ones()) or not self.preflight()
        except DayflyError:
            # There is one, whatever it says.
            return True

    def preflight(self) -> Sequence[str]:
        missing = [tool for tool in ("ssh", "ssh-keygen") if shutil.which(tool) is None]
        if not missing:
            return ()
        return (
            f'provider="ssh" needs {" and ".join(missing)}: install OpenSSH\'s client with your package manager',
        )


PROVIDER = Ssh()


def _host(spec: Spec) -> SshHost:
    """The machine, where the Spec asks for nothing that a machine of one's own cannot be asked for.

    Raises:
        SpecError: it does.
    """
    if spec.host is None:
        raise SpecError(
            f'provider="ssh" needs host=, the machine that is there already: write {ssh_host.EXAMPLE}'
        )
    host = SshHost.parse(spec.host)
    if spec.nodes > 1:
        raise SpecError(f'nodes={spec.nodes}: provider="ssh" is one machine, {host.name}')
    if spec.kept is not None:
        raise SpecError(
            f'keep={spec.keep!r}: the machine of provider="ssh" is yours, and stays anyway; leave keep= out'
        )
    if len(spec.providers) == 1:
        # On a ladder these are for its other rungs.
        for wanted, have, name in (
            (spec.instance_type, _INSTANCE_TYPE, "instance_type"),
            (spec.region, host.name, "region"),
            (spec.allow_cidr, None, "allow_cidr"),
        ):
            if wanted not in (None, have):
                raise SpecError(
                    f'{name}={wanted!r}: provider="ssh" goes to the machine that host= names; leave it out'
                )
    return host


def _offer(spec: Spec, host: SshHost, facts: Facts) -> Offer:
    gpus = _fitting(spec, facts)
    return Offer(
        "ssh",
        host.name,
        _INSTANCE_TYPE,
        facts.cores,
        facts.memory_bytes,
        0.0,
        len(gpus),
        gpus[0].name if gpus else "",
        as_of=today(),
        source="your own machine",
        gpu_memory_gb=gpus[0].memory_gb if gpus else 0.0,
        arch=facts.arch,
    )


def _put_nothing(run: str) -> bool:
    """Whether a run of this home has never sent a key, and never will: that would be on record here.

    Raises:
        DayflyError: its record cannot be read.
    """
    directory = home.home_path() / "runs" / run
    try:
        if not fence.is_shut(directory) or not fence.is_passed(directory, 0.0):
            return False
        return all(c.outcome in ("refused", "deleted") for c in creations.read(directory))
    except OSError as error:
        raise DayflyError(
            f"{directory} cannot be read: what run {run} has put where is not known: {error}"
        ) from error


def _fitting(spec: Spec, facts: Facts) -> Sequence[DriverGpu]:
    """The GPUs of a machine that has all that is asked for.

    Raises:
        SpecError: it has not; names what is lacking.
    """
    if (spec.cores or 0) > facts.cores:
        raise SpecError(
            f"cores={spec.cores}: {spec.host} has {facts.cores}; the nearest that fits is cores={facts.cores}"
        )
    sizes = (
        ("memory", spec.memory_bytes, facts.memory_bytes, ""),
        ("disk", spec.disk_bytes, facts.disk_bytes, " free"),
    )
    for name, wanted, have, state in sizes:
        if wanted > have:
            raise SpecError(
                f"{name}={human_bytes(wanted)}: {spec.host} has {human_bytes(have)}{state}; ask for less"
            )
    if not spec.gpus:
        return facts.gpus
    for kind in spec.gpus:
        fitting = [gpu for gpu in facts.gpus if kind.is_met_by(gpu)]
        if len(fitting) >= kind.count:
            return fitting
    have_gpus = ", ".join(gpu.name for gpu in facts.gpus) or "no GPU"
    raise SpecError(
        f"gpu={spec.gpu!r}: {spec.host} has {have_gpus}; leave gpu= out or name another machine"
    )
