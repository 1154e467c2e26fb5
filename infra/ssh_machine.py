"""A machine that is somebody's own, and the four things that are done there: look at it, put a run's key in, look for what
runs have there, take a run's things away."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dayfly.errors import DayflyError
from dayfly.infra import creations, ssh_pin, ssh_records
from dayfly.infra.found import Found
from dayfly.infra.gpu_request import DriverGpu
from dayfly.infra.run import is_id
from dayfly.infra.ssh_failed import SshFailed
from dayfly.infra.ssh_host import Place, SshHost, resolve
from dayfly.infra.ssh_login import ASK_S, Answer, Login
from dayfly.infra.ssh_records import Record

# What has come to the deadline is still fetched, and taken away, with the run's own key.
_MARGIN_S = 900.0
# Data of many files takes its time to be removed.
_TAKE_S = 600.0


@dataclass(frozen=True)
class Facts:
    """What a machine says of itself: sizes in bytes, as this login may use them."""

    cores: int
    memory_bytes: int
    disk_bytes: int
    arch: str
    gpus: tuple[DriverGpu, ...]


_FACTS: dict[str, Facts] = {}


def facts(name: str) -> Facts:
    """Of a host; asked for once in the life of a process.

    Raises:
        SshFailed: it cannot be asked.
        ConfigurationError: how it is reached cannot be found out, or is none that a session could go.
    """
    if name not in _FACTS:
        _FACTS[name] = _asked_for(SshHost.parse(name))
    return _FACTS[name]


def known_facts(name: str) -> Facts | None:
    """Of a host, where this process has asked for them before."""
    return _FACTS.get(name)


def forget_facts() -> None:
    """Has every host be asked again."""
    _FACTS.clear()


def _asked_for(host: SshHost) -> Facts:
    place = resolve(host)
    answer = Login.own(host).ask({"op": "probe"})
    told = answer.values
    # Refused before anything is put there.
    _pinned(host, place, answer)
    arch = {"amd64": "x86_64", "aarch64": "arm64"}.get(told["arch"].lower(), told["arch"].lower())
    gpus = tuple(map(DriverGpu.of, told["gpus"]))
    return Facts(told["cores"], told["memory_bytes"], told["disk_bytes"], arch, gpus)


def instance_id(host: str, run: str) -> str:
    """What the run's key on a host is called."""
    return f"{host}/{run}"


def parts(id: str) -> tuple[str, str] | None:
    """Host and run of such an id, None for any other text."""
    host, _, run = id.rpartition("/")
    return (host, run) if host and is_id(run) else None


def put(
    record: Record,
    place: Place,
    tags: Mapping[str, str],
    public_key: str,
    before: Callable[[], None] = lambda: None,
) -> str:
    """Lets the run's key in until a while after its deadline.

    Args:
        record: of the run.
        place: of its host.
        tags: in the key's comment.
        public_key: the run's.
        before: called when the machine is there, just before the key is sent; where that raises, nothing is.

    Returns:
        The machine's host key.

    Raises:
        SshFailed: it could not be done; says whether that is certain.
        ConfigurationError: the host key is none that can be pinned.
    """
    host = SshHost.parse(record.host)
    valid_s = max(0.0, record.deadline - time.time()) + _MARGIN_S
    request = {
        "op": "put",
        "tags": dict(tags),
        "public_key": public_key,
        "valid_s": valid_s,
        "within_s": ssh_records.PUT_WITHIN_S,
    }
    return _pinned(host, place, Login.own(host).ask(request, before=before))


def _pinned(host: SshHost, place: Place, answer: Answer) -> str:
    keys = [*ssh_pin.known(place.known_as, place.known_in), *answer.values["host_keys"]]
    return ssh_pin.chosen(host.name, keys, answer.fingerprints)


def try_key(record: Record) -> None:
    """Logs in with the run's own key.

    Raises:
        SshFailed: the machine does not take it.
    """
    login = _run_login(record)
    assert login is not None, f"run {record.run} has no key here"
    try:
        login.ask({"op": "look"})
    except SshFailed as failed:
        if failed.code != "login":
            raise
        raise SshFailed(
            "login",
            f"host {record.host} has the run's key in ~/.ssh/authorized_keys and does not let it in: its sshd may read"
            " another file (AuthorizedKeysFile), want a second proof (AuthenticationMethods), or be older than OpenSSH 7.7"
            f" ({failed.words})",
        ) from failed


def take_away(host: str, run: str) -> None:
    """Ends what is left of a run on a host, removes what it has stored, takes its key out, and has seen that all is gone.

    Also where the host has shown that before: to ask once more is cheap. Only then it is no matter that it cannot be asked.

    Raises:
        SshFailed: the host cannot be asked, or something does not go.
    """
    record = ssh_records.of(run)
    try:
        answer = _ask(host, {"op": "take", "run": run}, [record] if record else [], _TAKE_S)
    except SshFailed as failed:
        if record is not None and record.gone and failed.did_nothing:
            return
        raise
    left: Sequence[str] = answer.values["left"]
    if left:
        raise SshFailed("refused", f"host {host} still has of run {run}: {', '.join(left)}")
    if record is not None:
        # Whatever cannot be written down is asked for again.
        with contextlib.suppress(OSError):
            creations.deleted(Path(record.directory), instance_id(host, run))
            ssh_records.gone(record)


def is_there(host: str, run: str) -> bool:
    """Whether a run's key is on a host.

    Raises:
        DayflyError: the host cannot be asked.
    """
    record = ssh_records.of(run)
    if record is not None and record.gone:
        return False
    answer = _ask(host, {"op": "look"}, [record] if record else [])
    return any(tags.get("dayfly-run") == run for tags in answer.values["keys"])


def listed(asked_for: Iterable[Record]) -> Iterable[Found]:
    """Keys, processes and folders of runs, on each host that one of these may have something on.

    Raises:
        DayflyError: one of them cannot be asked; nothing may be concluded.
    """
    on: dict[str, list[Record]] = {}
    for record in asked_for:
        on.setdefault(record.host, []).append(record)
    for host, records in on.items():
        # In this order: what is shown afterwards is all that there will ever be of these.
        over = [record for record in records if record.is_over]
        request = {"op": "look", "runs": [record.run for record in records]}
        found = list(_found(host, records, _ask(host, request, records).values))
        shown = {each.run for each in found}
        for record in over:
            if record.run not in shown:
                with contextlib.suppress(OSError):
                    ssh_records.gone(record)
        yield from found


def _found(host: str, records: Sequence[Record], told: Mapping[str, Any]) -> Iterable[Found]:
    tags_of = {tags["dayfly-run"]: tags for tags in told["keys"]}
    for run, tags in tags_of.items():
        yield Found("instance", instance_id(host, run), tags)
    for kind, things in (("process", told["processes"]), ("disk", told["folders"])):
        for name, run in things:
            tags = tags_of.get(run) or {"dayfly-run": run, "dayfly-owner": _owner(run, records)}
            yield Found(kind, f"{instance_id(host, run)}/{name}", tags)


def _owner(run: str, records: Sequence[Record]) -> str:
    """Whose a run is whose key is gone: by the records of its host; "" for nobody's of this home."""
    return next((record.owner for record in records if record.run == run), "")


def _ask(
    host: str, request: Mapping[str, Any], records: Sequence[Record], timeout_s: float = ASK_S
) -> Answer:
    """With the key of one of these runs where one is let in, which needs nobody's agent; else as the user logs in."""
    for record in records:
        login = _run_login(record)
        if login is not None:
            try:
                return login.ask(request, timeout_s)
            except SshFailed as failed:
                if failed.code not in ("login", "host-key"):
                    raise
    return Login.own(SshHost.parse(host)).ask(request, timeout_s)


def _run_login(record: Record) -> Login | None:
    directory = Path(record.directory)
    if not record.host_key or not (directory / "user_key").exists():
        return None
    with contextlib.suppress(DayflyError, OSError):
        place = resolve(SshHost.parse(record.host))
        return Login.of_run(record.host, place, record.host_key, directory)
    return None
