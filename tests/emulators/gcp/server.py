"""The REST API of Compute Engine, the price catalogue's, and the emulator's own below `/_emulator/`, at one address."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from tests.emulators.gcp import refusals, stock
from tests.emulators.gcp.refusals import Refusal
from tests.emulators.gcp.world import Faults, World
from tests.emulators.web import Answers

_BASE = "/compute/v1/"
_CONTROL = "/_emulator/"
_SKUS = "/v1/services/6F81-5844-456A/skus"
_PROJECT = r"projects/(?P<project>[a-z][-a-z0-9]{4,28}[a-z0-9])/"
_SCOPE = r"(?P<scope>global|regions/[^/]+|zones/[^/]+)/"
_KINDS = r"(?P<kind>instances|disks|firewalls|subnetworks|networks)"
_KEPT = ("instances", "disks", "subnetworks")


class ApiServer(Answers):
    """One connection. A subclass has the world."""

    world: World

    def do_GET(self) -> None:
        """Reads."""
        self._serve("GET")

    def do_POST(self) -> None:
        """Makes."""
        self._serve("POST")

    def do_PATCH(self) -> None:
        """Changes."""
        self._serve("PATCH")

    def do_DELETE(self) -> None:
        """Ends."""
        self._serve("DELETE")

    def _serve(self, method: str) -> None:
        path = self.path.partition("?")[0]
        text = self.body()
        body = json.loads(text) if text else {}
        try:
            if path.startswith(_CONTROL):
                self.answer_json(200, _control(self.world, path.removeprefix(_CONTROL), body))
                return
            if path == _SKUS:
                self.answer_json(200, self._skus())
                return
            self.world.gate()
            self.answer_json(200, self._answer(method, path.removeprefix(_BASE), body))
        except Refusal as refusal:
            self.answer_json(refusal.status, refusal.envelope())
        except Exception:
            self.world.truth.failed(f"{method} {path}")
            raise

    def _skus(self) -> Any:
        """In pages of ten, so that who reads one page alone has too little."""
        if self.world.faults.prices_down:
            raise Refusal(503, "backendError", "The service is currently unavailable.")
        rows, start = list(stock.skus()), int(self.query.get("pageToken") or 0)
        end = start + 10
        return {
            "skus": rows[start:end],
            "nextPageToken": str(end) if end < len(rows) else "",
        }

    def _answer(self, method: str, path: str, body: Any) -> Any:
        for pattern, verb, act in _ROUTES:
            found = re.fullmatch(_PROJECT + pattern, path)
            if found and verb == method:
                return act(self, path, body, **found.groupdict())
        raise refusals.not_found(path)

    def _aggregated(self, path: str, _: Any, project: str, kind: str) -> Any:
        filter, found = self.query.get("filter", ""), dict[str, list[Any]]()
        if kind in _KEPT:
            for place, row in self.world.listed(project, kind, filter):
                found.setdefault("/".join(place.split("/")[2:4]), []).append(_shown(row))
        else:
            for zone in stock.ZONES:
                rows = [row for row in _sold(kind, zone, project) if _keeps(filter, row)]
                found[f"zones/{zone}"] = rows
        empty = {"warning": {"code": "NO_RESULTS_ON_PAGE", "message": "There are no results."}}
        return {
            "kind": "compute#aggregatedList",
            "items": {scope: {kind: rows} if rows else empty for scope, rows in found.items()},
        }

    def _list(self, path: str, _: Any, project: str, scope: str, kind: str) -> Any:
        rows = self.world.listed(project, kind, self.query.get("filter", ""))
        return {"items": [_shown(row) for place, row in rows if f"/{scope}/" in place]}

    def _operations(self, path: str, _: Any, project: str, scope: str) -> Any:
        filter = self.query.get("filter", "")
        rows = [row for row in self.world.operations.values() if _keeps(filter, row)]
        return {"items": [row for row in rows if f"/{scope}/" in row["selfLink"]]}

    def _operation(self, path: str, _: Any, project: str, scope: str, name: str) -> Any:
        return self.world.operation(name)

    def _waited(self, path: str, _: Any, project: str, scope: str, name: str) -> Any:
        return self.world.wait(self.world.operation(name), 60.0)

    def _get(self, path: str, _: Any, **__: str) -> Any:
        return _shown(self.world.get(path))

    def _insert(self, path: str, body: Any, project: str, scope: str, kind: str) -> Any:
        return self.world.insert(project, scope, kind, body)

    def _patch(self, path: str, body: Any, **_: str) -> Any:
        done = self.world.patch(path, body)
        self.world.instances.look_again()
        return done

    def _delete(self, path: str, _: Any, **__: str) -> Any:
        return self.world.delete(path)

    def _family(self, path: str, _: Any, project: str, family: str) -> Any:
        size = stock.IMAGES.get((project, family))
        if size is None:
            raise refusals.not_found(path)
        return {"name": f"{family}-v20261101", "family": family, "diskSizeGb": str(size)}


_ROUTES: list[tuple[str, str, Callable[..., Any]]] = [
    (
        r"aggregated/(?P<kind>instances|disks|subnetworks|machineTypes|acceleratorTypes)",
        "GET",
        ApiServer._aggregated,
    ),
    (rf"{_SCOPE}operations", "GET", ApiServer._operations),
    (rf"{_SCOPE}operations/(?P<name>[^/]+)", "GET", ApiServer._operation),
    (rf"{_SCOPE}operations/(?P<name>[^/]+)/wait", "POST", ApiServer._waited),
    (r"global/images/family/(?P<family>[^/]+)", "GET", ApiServer._family),
    (rf"{_SCOPE}{_KINDS}", "GET", ApiServer._list),
    (rf"{_SCOPE}{_KINDS}", "POST", ApiServer._insert),
    (rf"{_SCOPE}{_KINDS}/(?P<name>[^/]+)", "GET", ApiServer._get),
    (rf"{_SCOPE}{_KINDS}/(?P<name>[^/]+)", "PATCH", ApiServer._patch),
    (rf"{_SCOPE}{_KINDS}/(?P<name>[^/]+)", "DELETE", ApiServer._delete),
]


def _keeps(filter: str, row: Any) -> bool:
    from tests.emulators.gcp import rules

    return rules.keep(filter, row)


def _shown(row: Any) -> Any:
    return {name: value for name, value in row.items() if not name.startswith("_")}


def _sold(kind: str, zone: str, project: str) -> list[dict[str, Any]]:
    link = f"https://www.googleapis.com/compute/v1/projects/{project}/zones/{zone}"
    if kind == "acceleratorTypes":
        return [{"name": name, "zone": link} for name in stock.accelerators(zone)]
    return [
        {
            "name": each.name,
            "zone": link,
            "guestCpus": each.cores,
            "memoryMb": round(each.memory_gib * 1024),
        }
        for each in stock.TYPES
        if stock.type_in(each.name, zone)
    ]


def _control(world: World, name: str, asked: Any) -> Any:
    """What a test does to the world, and asks of it."""
    acts: dict[str, Callable[[], Any]] = {
        "rows": lambda: {path: _shown(row) for path, row in dict(world.rows).items()},
        "faults": partial(_set_faults, world, asked),
        "preempt": partial(world.instances.preempt, asked.get("instance", "")),
        "machine": partial(world.instances.act, asked.get("instance", ""), asked.get("do", "")),
    }
    if name not in acts:
        raise refusals.not_found(name)
    return acts[name]()


def _set_faults(world: World, asked: dict[str, Any]) -> Any:
    with world.lock:
        for name, value in asked.items():
            assert hasattr(Faults(), name), name
            setattr(world.faults, name, value)
        return asdict(world.faults)
