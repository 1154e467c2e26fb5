"""All instances and what becomes of them: booting, active, unhealthy or preempted, terminating, terminated, unlisted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tests.emulators.lambda_cloud import gpus, meter, refusal
from tests.emulators.lambda_cloud.body import Body
from tests.emulators.lambda_cloud.capacity import Capacity
from tests.emulators.lambda_cloud.clock import Clock
from tests.emulators.lambda_cloud.instance import Instance
from tests.emulators.lambda_cloud.options import Options
from tests.emulators.lambda_cloud.order import Order
from tests.emulators.machines.addresses import Addresses
from tests.emulators.machines.machines import Machines
from tests.emulators.machines.truth import Truth
from tests.emulators.machines.wanted import Wanted


class Instances:
    """The rows, those that are no longer listed left out.

    Every method is called with the cloud's lock held; `later` takes it for what happens by itself.
    """

    def __init__(
        self,
        *,
        options: Options,
        clock: Clock,
        truth: Truth,
        capacity: Capacity,
        machines: Machines | None,
        lets_in: Callable[[tuple[str, ...], str], bool] | None,
        later: Callable[[float, Callable[[], None]], None],
    ) -> None:
        self._options = options
        self._clock = clock
        self._truth = truth
        self._capacity = capacity
        self._machines = machines
        self._lets_in = lets_in
        self._later = later
        self._addresses = Addresses(real=options.own_addresses)
        self._all: dict[str, Instance] = {}

    def all(self) -> list[Instance]:
        """Every row, listed or not."""
        return list(self._all.values())

    def alive(self) -> list[Instance]:
        """What costs money."""
        return [each for each in self._all.values() if each.alive]

    def launch(self, order: Order) -> dict[str, Any]:
        """Accepts a launch, if quota and stock allow it."""
        type_name, region = order.type.name, order.region
        if len(self.alive()) >= self._options.quota or not self._addresses:
            raise refusal.quota_exceeded()
        if self._capacity.left(type_name, region) < 1:
            others = [place["name"] for place in self._capacity.listed(type_name)]
            raise refusal.insufficient_capacity([name for name in others if name != region])
        self._capacity.take(type_name, region)
        made = Instance(order, self._addresses.take(), self._clock.now(), order.name)
        self._all[made.id] = made
        made.accepted = self._truth.write(
            "launch_accepted",
            instance=made.id,
            type=type_name,
            region=region,
            cents_per_hour=order.type.price_cents_per_hour,
            name=order.name or "",
            tags=made.tags,
            ssh_key=order.ssh_key.name,
        )
        self._boot(made)
        return {"instance_ids": [made.id]}

    def listing(self, cluster: str | None, page_token: str | None) -> dict[str, Any]:
        """The answer to a listing, with the token of the next page where there is one."""
        lag_s = self._options.listing_lag_s
        rows = [] if cluster else [each for each in self.all() if self._seen(each, lag_s)]
        if page_token:
            at = next((n for n, each in enumerate(rows) if each.id == page_token), None)
            if at is None:
                raise refusal.invalid("page_token: Unknown page token")
            rows = rows[at:]
        size = self._options.page_size or len(rows)
        shown = {"data": [each.as_json() for each in rows[:size]]}
        return shown | ({"page_token": rows[size].id} if len(rows) > size else {})

    def get(self, id: str) -> dict[str, Any]:
        """One row."""
        found = self.found(id)
        if not self._seen(found, self._options.get_lag_s):
            raise refusal.missing("Specified instance does not exist.")
        return found.as_json()

    def rename(self, id: str, body: Body) -> dict[str, Any]:
        """Another name; nothing else can be changed."""
        found = self.found(id)
        name = body.optional_text("name", most=64)
        body.end()
        found.name = found.name if name is None else name
        return found.as_json()

    def terminate(self, body: Body) -> dict[str, Any]:
        """Ends instances, all that are named or none. One that is ending or gone already is shown as it is."""
        named = self._named(body)
        for each in named:
            if each.alive and each.status != "terminating":
                self._truth.write("terminate_accepted", instance=each.id)
                self._become(each, "terminating")
                self._end_machine(each)
                self._later(self._options.terminating_s, partial(self._terminated, each))
        return {"terminated_instances": [each.as_json() for each in named]}

    def restart(self, body: Body) -> dict[str, Any]:
        """Restarts machines: every process of them ends, their disks stay."""
        named = self._named(body)
        if any(each.status not in ("active", "unhealthy") for each in named):
            raise refusal.conflict()
        for each in named:
            self._become(each, "booting")
            if each.machine is not None:
                each.machine.halt()
            self._start(each, self._options.reboot_s)
        return {"restarted_instances": [each.as_json() for each in named]}

    def mark(self, id: str, status: str) -> None:
        """What the cloud does to an instance by itself: unhealthy, preempted, or well again."""
        found = self.found(id)
        if found.status in (status, "terminating") or not found.alive:
            return
        self._become(found, status)
        if status == "preempted":
            self._end_machine(found)
            self._release(found)

    def found(self, id: str) -> Instance:
        """The row of an id.

        Raises:
            Refusal: there is none, or none any more.
        """
        if id not in self._all:
            raise refusal.missing("Specified instance does not exist.")
        return self._all[id]

    def _named(self, body: Body) -> list[Instance]:
        ids = body.texts("instance_ids", required=True)
        body.end()
        if not ids:
            raise body.refusal("instance_ids", "List should have at least 1 item")
        return [self.found(id) for id in dict.fromkeys(ids)]

    def _seen(self, each: Instance, lag_s: float) -> bool:
        return self._clock.now() >= each.launched + lag_s

    def _boot(self, made: Instance) -> None:
        if self._machines is not None:
            made.machine = self._machines.make(made.id, self._wanted(made), made.ip)
        self._later(self._options.ip_s, lambda: self._show_ip(made))
        self._start(made, self._options.boot_s)

    def _wanted(self, made: Instance) -> Wanted:
        order = made.order
        return Wanted(
            hostname=order.hostname or made.ip.replace(".", "-"),
            authorized_key=order.ssh_key.public_key,
            user_data=order.user_data,
            gpu=gpus.shown(order.type),
            mounts=tuple((each.file_system.folder, each.mount_point) for each in order.mounts),
            lets_in=None if self._lets_in is None else partial(self._lets_in, order.rulesets),
        )

    def _start(self, each: Instance, after_s: float) -> None:
        self._later(after_s, lambda: self._active(each))
        if each.machine is None:
            return
        sshd_s = after_s + self._options.sshd_s
        self._later(sshd_s, each.machine.start_sshd)
        self._later(sshd_s + self._options.user_data_s, each.machine.apply_user_data)

    def _show_ip(self, each: Instance) -> None:
        each.has_ip = each.alive

    def _active(self, each: Instance) -> None:
        if each.status == "booting":
            self._become(each, "active")

    def _terminated(self, each: Instance) -> None:
        """Waits for the machine, so that a terminated row has no process."""
        if each.machine is not None and not each.machine.ended:
            self._later(0.02 * self._clock.scale, lambda: self._terminated(each))
            return
        if each.alive:
            self._become(each, "terminated")
            self._release(each)

    def _release(self, each: Instance) -> None:
        each.has_ip = False
        self._capacity.give(each.order.type.name, each.order.region)
        self._addresses.give(each.ip)
        self._later(self._options.linger_s, lambda: self._unlist(each))

    def _unlist(self, each: Instance) -> None:
        del self._all[each.id]
        self._truth.write("unlisted", instance=each.id)

    def _end_machine(self, each: Instance) -> None:
        if each.machine is not None:
            each.machine.end()

    def _become(self, each: Instance, status: str) -> None:
        said = self._truth.write("status", instance=each.id, was=each.status, now=status)
        each.status = status
        if status in meter.ENDED:
            increment_s = self._clock.real(self._options.billing_increment_s)
            bill = meter.bill(each.accepted, said["at"], said["at"], increment_s)
            shown = {name: getattr(bill, name) for name in ("seconds", "billed_s", "dollars")}
            self._truth.write("billed", instance=each.id, **shown)
