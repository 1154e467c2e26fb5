"""The ground truth: every resource of every project, the operations that make and end them, and what a test has switched on."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.emulators.gcp import refusals, rules, stock
from tests.emulators.gcp.instances import Instances
from tests.emulators.gcp.refusals import Failure, Refusal
from tests.emulators.machines.machines import Machines
from tests.emulators.machines.truth import Truth

Row = dict[str, Any]
_BASE = "https://www.googleapis.com/compute/v1/"
# What each kind is called in a message.
_WORDS = {"networks": "network", "subnetworks": "subnetwork", "disks": "disk"}
# The fields in which a resource names another one that cannot go before it.
_NEEDS = {
    "subnetworks": ("network",),
    "firewalls": ("network",),
    "instances": ("network", "subnetwork"),
}


@dataclass
class Faults:
    """What a test has switched on; each is as it is until it is changed.

    Attributes:
        full: "MACHINE-TYPE@ZONE", or "*@ZONE", of which there is none left.
        quotas: metrics with another limit than the stock's.
        forbidden: every request is refused for want of a permission.
        throttled: so many requests to come are refused as too many.
        unfinished: so many instances to come are made, and their operations never end for whoever waits (`create_s`).
        delete_s: how long a deletion takes.
        create_s: how long the making of an instance takes.
        preempt_s: how long one that is taken back is STOPPING: 30 s at most (docs "Spot VMs", preemption process).
        denied: kinds ("instances") and how every request to make one is refused: "403 forbidden", "429 rateLimitExceeded".
        held: kinds whose deletions are refused in the answer, as not ready, and how many of them.
        stuck: kinds ("networks") whose deletions fail, and how many of them.
        prices_down: the price catalogue answers 503.
    """

    full: list[str] = field(default_factory=list)
    quotas: dict[str, float] = field(default_factory=dict)
    forbidden: bool = False
    throttled: int = 0
    unfinished: int = 0
    delete_s: float = 0.0
    create_s: float = 0.05
    preempt_s: float = 3.0
    denied: dict[str, str] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    stuck: dict[str, int] = field(default_factory=dict)
    prices_down: bool = False


class World:
    """Thread-safe; every method is one request's or one operation's.

    Args:
        truth: the log.
        machines: makes the machines of instances; None for rows alone.
    """

    def __init__(self, truth: Truth, machines: Machines | None) -> None:
        self.lock = threading.RLock()
        self.truth = truth
        self.faults = Faults()
        self.rows: dict[str, Row] = {}
        self.operations: dict[str, Row] = {}
        self.instances = Instances(self, machines)
        self._numbers = itertools.count(int(time.time()))
        self._workers = ThreadPoolExecutor(16, thread_name_prefix="gcp-operation")
        self._closing = threading.Event()
        self._clock = threading.Thread(target=self._tick, daemon=True)
        self._clock.start()

    def close(self) -> None:
        """Nothing goes on any more."""
        self._closing.set()
        self._clock.join()
        self._workers.shutdown(wait=True, cancel_futures=True)

    def gate(self) -> None:
        """What meets every request.

        Raises:
            Refusal: an account without the permission, or too many requests.
        """
        with self.lock:
            if self.faults.forbidden:
                text = "Required 'compute.instances.list' permission for 'projects/dayfly-test'"
                raise Refusal(403, "forbidden", text)
            if self.faults.throttled > 0:
                self.faults.throttled -= 1
                raise Refusal(403, "rateLimitExceeded", refusals.TOO_MANY)

    def get(self, path: str) -> Row:
        """One resource.

        Raises:
            Refusal: there is none.
        """
        with self.lock:
            if path not in self.rows:
                raise refusals.not_found(path)
            return dict(self.rows[path])

    def listed(self, project: str, kind: str, filter: str) -> Iterator[tuple[str, Row]]:
        """The resources of a kind, as (path, row)."""
        with self.lock:
            found = [
                (path, dict(row))
                for path, row in self.rows.items()
                if path.startswith(f"projects/{project}/")
                and path.split("/")[-2] == kind
                and rules.keep(filter, row)
            ]
        yield from found

    def insert(self, project: str, scope: str, kind: str, body: Mapping[str, Any]) -> Row:
        """Begins to make a resource.

        Args:
            project: in which.
            scope: "global", "regions/R" or "zones/Z".
            kind: "networks" and so on.
            body: as the API takes it.

        Returns:
            The operation.

        Raises:
            Refusal: it cannot be.
        """
        with self.lock:
            row = dict(body)
            rules.check_name(row.get("name"))
            path = f"projects/{project}/{scope}/{kind}/{row['name']}"
            if denied := self.faults.denied.get(kind):
                self.truth.write("denied", path=path, denied=denied)
                raise refusals.denied(denied, kind, path)
            if path in self.rows:
                raise refusals.exists(path)
            self._check_references(project, row)
            row |= {
                "id": str(next(self._numbers)),
                "selfLink": _BASE + path,
                "creationTimestamp": _now(),
            }
            operation = self._operation("insert", project, scope, path)
            if kind == "instances":
                self.instances.check(project, scope.partition("/")[2], row)
                self._later(operation, lambda: self.instances.make(path, row, operation))
            else:
                self._check(kind, project, row)
                self._later(operation, lambda: self.put(path, row))
            return operation

    def patch(self, path: str, body: Mapping[str, Any]) -> Row:
        """Begins to change a resource; what the body does not have stays."""
        with self.lock:
            self.get(path)
            project, scope = _parts(path)
            operation = self._operation("patch", project, scope, path)
            self._later(operation, lambda: self.rows[path].update(body))
            return operation

    def delete(self, path: str) -> Row:
        """Begins to delete a resource.

        Raises:
            Refusal: there is none, something else needs it, or a deletion is under way.
        """
        with self.lock:
            row = self.get(path)
            kind = path.split("/")[-2]
            self._check_unused(path, kind)
            is_held = self.faults.held.get(kind, 0) > 0
            if is_held:
                self.faults.held[kind] -= 1
                self.truth.write("held", path=path)
            if row.get("_ending") or is_held:
                raise Refusal(400, "resourceNotReady", f"The resource '{path}' is not ready")
            project, scope = _parts(path)
            operation = self._operation("delete", project, scope, path)
            if self.faults.stuck.get(kind, 0) > 0:
                self.faults.stuck[kind] -= 1
                failure = Failure("INTERNAL_ERROR", "Internal error. Please try again.")
                self._later(operation, lambda: _fail(failure))
                return operation
            self.rows[path]["_ending"] = True
            if kind == "instances":
                self.rows[path]["status"] = "STOPPING"
            self._later(operation, lambda: self._end(path, kind), self.faults.delete_s)
            return operation

    def operation(self, name: str) -> Row:
        """How one is getting on.

        Raises:
            Refusal: there is none.
        """
        with self.lock:
            if name not in self.operations:
                raise refusals.not_found(f"operations/{name}")
            return dict(self.operations[name])

    def wait(self, operation: Row, timeout_s: float) -> Row:
        """Until it is done.

        Raises:
            TimeoutError: it is not.
        """
        until = time.monotonic() + timeout_s
        while (now := self.operation(str(operation["name"])))["status"] != "DONE":
            if time.monotonic() > until or self._closing.is_set():
                raise TimeoutError(f"operation {operation['name']} is {now['status']}")
            time.sleep(0.01)
        return now

    def put(self, path: str, row: Row) -> None:
        """It is there."""
        with self.lock:
            self.rows[path] = row
        self.truth.write("made", path=path)

    def drop(self, path: str) -> None:
        """It is gone."""
        with self.lock:
            self.rows.pop(path, None)
        self.truth.write("gone", path=path)

    def note(self, kind: str, path: str) -> None:
        """Writes down an operation of the system's own, which is done already."""
        project, scope = _parts(path)
        with self.lock:
            made = self._operation(kind, project, scope, path)
            self.operations[made["name"]] |= {"status": "DONE", "progress": 100, "user": "system"}

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Something that goes on by itself, without an operation that anybody waits for."""
        self._workers.submit(self._by_itself, seconds, act)

    def limit(self, metric: str, region: str) -> float:
        """Of a quota, in a region or "" for the whole project."""
        with self.lock:
            known = {**stock.QUOTAS, **self.faults.quotas}
            return float(known.get(f"{metric}@{region}", known.get(metric, float("inf"))))

    def _check(self, kind: str, project: str, row: Row) -> None:
        if kind in ("networks", "firewalls"):
            metric = kind.upper()
            count = sum(1 for _ in self.listed(project, kind, ""))
            if count + 1 > self.limit(metric, ""):
                said = refusals.quota(metric, self.limit(metric, ""), "")
                raise Refusal(403, "quotaExceeded", str(said))
        if kind == "firewalls" and not (row.get("allowed") or row.get("denied")):
            raise Refusal(400, "required", "Required field 'resource.allowed' not specified")
        if kind == "subnetworks" and not row.get("ipCidrRange"):
            raise Refusal(400, "required", "Required field 'resource.ipCidrRange' not specified")

    def _check_references(self, project: str, row: Row) -> None:
        places = [row, *row.get("networkInterfaces", [])]
        for place in places:
            for name in ("network", "subnetwork"):
                if place.get(name):
                    path = "projects/" + str(place[name]).partition("projects/")[2]
                    if path not in self.rows or self.rows[path].get("_ending"):
                        raise refusals.not_found(path)
                    place[name] = _BASE + path

    def _check_unused(self, path: str, kind: str) -> None:
        for other, row in self.rows.items():
            for place in (row, *row.get("networkInterfaces", []), *row.get("disks", [])):
                for name in (*_NEEDS.get(other.split("/")[-2], ()), "source"):
                    if str(place.get(name, "")).endswith(f"/{path}"):
                        raise refusals.in_use(_WORDS.get(kind, kind), path, other)

    def _end(self, path: str, kind: str) -> None:
        if kind == "instances":
            self.instances.end(path)
        self.drop(path)

    def _operation(self, kind: str, project: str, scope: str, path: str) -> Row:
        name = f"operation-{next(self._numbers)}"
        where, _, place = scope.partition("/")
        link = {where.removesuffix("s"): f"{_BASE}projects/{project}/{scope}"} if place else {}
        made = {
            "id": str(next(self._numbers)),
            "name": name,
            "operationType": kind,
            "status": "PENDING",
            "progress": 0,
            "targetLink": _BASE + path,
            "insertTime": _now(),
            "selfLink": f"{_BASE}projects/{project}/{scope}/operations/{name}",
            **link,
        }
        self.operations[name] = made
        return dict(made)

    def _later(self, operation: Row, act: Callable[[], None], after_s: float = 0.0) -> None:
        self._workers.submit(self._carry_out, str(operation["name"]), act, after_s)

    def _carry_out(self, name: str, act: Callable[[], None], after_s: float) -> None:
        self._closing.wait(after_s)
        ended: Row = {"status": "DONE", "progress": 100}
        try:
            act()
        except Failure as failure:
            ended["error"] = {"errors": [{"code": failure.code, "message": str(failure)}]}
            ended |= {"httpErrorStatusCode": 503, "httpErrorMessage": "SERVICE UNAVAILABLE"}
        except Exception:  # noqa: BLE001 - a mistake of the emulator's own, which fails its test
            self.truth.failed(f"operation {name}")
        with self.lock:
            self.operations[name] |= ended

    def _by_itself(self, seconds: float, act: Callable[[], None]) -> None:
        if self._closing.wait(seconds):
            return
        try:
            act()
        except Exception:  # noqa: BLE001 - a mistake of the emulator's own, which fails its test
            self.truth.failed("what goes on by itself")

    def _tick(self) -> None:
        while not self._closing.wait(0.1):
            self.instances.tick()


def _fail(failure: Failure) -> None:
    raise failure


def _parts(path: str) -> tuple[str, str]:
    """Project and scope of a path."""
    steps = path.split("/")
    return steps[1], "/".join(steps[2:-2])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
