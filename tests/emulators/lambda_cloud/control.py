"""The emulator's own endpoints, below `/_emulator/` and without a key: what a test does to the cloud and asks of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.emulators.lambda_cloud import meter, operations
from tests.emulators.lambda_cloud.cloud import Cloud
from tests.emulators.lambda_cloud.faults import Fault
from tests.emulators.lambda_cloud.refusal import Refusal
from tests.emulators.machines import inhabitants

BASE = "/_emulator/"


def answer(cloud: Cloud, method: str, path: str, content: Any) -> tuple[int, Any]:
    """Does what a path below BASE names.

    Returns:
        The status and the body of the answer.
    """
    name = path.removeprefix(BASE)
    if (method, name) not in _ACTS:
        known = ", ".join(sorted(" ".join(each) for each in (*_ACTS, ("POST", "renew"))))
        return 404, {"error": f"no {method} {name}; known: {known}"}
    try:
        # These look for themselves, and for long, or are asked while a call is held.
        if name in ("faults", "release", "instances", "meter"):
            return 200, _ACTS[method, name](cloud, content)
        with cloud.lock:
            return 200, _ACTS[method, name](cloud, content)
    except (KeyError, TypeError, ValueError) as error:
        return 400, {"error": f"{type(error).__name__}: {error}"}
    except Refusal as refused:
        return refused.status, refused.envelope()


def _health(cloud: Cloud, _: Any) -> Any:
    limiters = cloud.account.requests, cloud.account.launches
    return {
        "now": cloud.clock.now(),
        "calls": dict(cloud.calls),
        "requests_refused": limiters[0].refused,
        "launches_refused": limiters[1].refused,
    }


def _instances(cloud: Cloud, _: Any) -> Any:
    """What costs money, with what the API does not show."""
    with cloud.lock:
        alive = cloud.instances.alive()
        rows = [each.as_json() | {"launched": each.launched} for each in alive]
    machines = [each.machine for each in alive]
    spaces = [machine.namespace if machine else "" for machine in machines]
    found = inhabitants.of(set(spaces) - {""})
    for row, machine, space in zip(rows, machines, spaces, strict=True):
        row |= {"port": machine.port if machine else None, "pids": found.get(space, [])}
    return rows


def _meter(cloud: Cloud, _: Any) -> Any:
    bills = cloud.bills()
    return {"dollars": meter.total(bills), "bills": [bill.as_json() for bill in bills]}


def _capacity(cloud: Cloud, asked: Any) -> Any:
    cloud.capacity.set(asked["type"], asked["region"], asked["left"], asked.get("listed"))
    return {}


def _mark(cloud: Cloud, asked: Any) -> Any:
    if asked["status"] not in ("active", "unhealthy", "preempted"):
        raise ValueError(
            f"an instance can be made active, unhealthy or preempted, not {asked['status']}"
        )
    cloud.instances.mark(asked["instance"], asked["status"])
    return {}


def _machine(cloud: Cloud, asked: Any) -> Any:
    machine = cloud.instances.found(asked["instance"]).machine
    if machine is None:
        raise ValueError("this emulator was started without machines")
    acts: dict[str, Callable[[], None]] = {
        "kill_sshd": machine.kill_sshd,
        "start_sshd": machine.start_sshd,
        "halt": machine.halt,
        "freeze": machine.freeze,
        "thaw": machine.thaw,
    }
    acts[asked["do"]]()
    return {}


def _lie(cloud: Cloud, asked: Any) -> Any:
    if "next" in asked:
        cloud.lie_next(asked["next"])
        return {}
    machine = cloud.instances.found(asked["instance"]).machine
    if machine is None:
        raise ValueError("this emulator was started without machines")
    machine.lie(asked["lie"])
    return {}


def _advance(cloud: Cloud, asked: Any) -> Any:
    return {"ahead_s": cloud.advance(float(asked["seconds"]))}


def _account(cloud: Cloud, asked: Any) -> Any:
    account = cloud.account
    account.active = asked.get("active", account.active)
    account.address = asked.get("address", account.address)
    account.may_see_instances = asked.get("instances", account.may_see_instances)
    if asked.get("revoke"):
        account.revoke()
    if "key" in asked:
        return {"api_key": account.replace_key(asked["key"])}
    return {}


def _faults(cloud: Cloud, _: Any) -> Any:
    return cloud.script.as_json()


def _add_faults(cloud: Cloud, asked: Any) -> Any:
    faults = [Fault.from_json(each) for each in asked]
    operations.check(faults)
    cloud.script.add(faults)
    return {}


def _clear_faults(cloud: Cloud, _: Any) -> Any:
    cloud.script.clear()
    return {}


def _release(cloud: Cloud, _: Any) -> Any:
    cloud.script.release()
    return {}


_ACTS: dict[tuple[str, str], Callable[[Cloud, Any], Any]] = {
    ("GET", "health"): _health,
    ("GET", "instances"): _instances,
    ("GET", "meter"): _meter,
    ("POST", "capacity"): _capacity,
    ("POST", "mark"): _mark,
    ("POST", "machine"): _machine,
    ("POST", "lie"): _lie,
    ("POST", "account"): _account,
    ("POST", "advance"): _advance,
    ("GET", "faults"): _faults,
    ("POST", "faults"): _add_faults,
    ("DELETE", "faults"): _clear_faults,
    ("POST", "release"): _release,
}
