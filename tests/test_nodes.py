"""A run of several machines: journal, traces, bill, proof and leftovers count each of them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dayfly.errors import BudgetExceeded, LeakRisk, SpecError
from dayfly.infra import cost, processes, providers
from dayfly.infra.found import Found, State
from dayfly.infra.listing import Listing
from dayfly.infra.machine import Machine
from dayfly.infra.planning import make_plan
from dayfly.infra.providers import local
from dayfly.infra.providers.base import Provider
from dayfly.infra.providers.local import Local
from dayfly.infra.run import Run, new_id
from dayfly.infra.spec import Spec
from dayfly.runtime import show
from dayfly.runtime.call import Call
from dayfly.runtime.drift import refresh, state_now
from dayfly.runtime.warm_run import WarmRun
from dayfly.runtime.wording import plan_rows
from dayfly.stacks import intent, journal
from dayfly.stacks.bill import Bill, machine_rate_of, rate_of
from dayfly.stacks.census import has_ended
from dayfly.stacks.closer import Closer
from dayfly.stacks.traces import Traces
from dayfly.stacks.workspace import Workspace
from tests.runs import OFFER, TESTER
from tests.test_census import local_replaced
from tests.test_closer import Cloud, cloud, sort
from tests.test_local import ssh

__all__ = ["cloud", "local_replaced", "sort"]

SPEC = Spec(nodes=2)
PLAIN = providers.load("local")


def launch(run: Run, *nodes: int) -> None:
    """These have been launched, at the rate of all."""
    for node in nodes:
        journal.append(run.directory, "launched", id=f"i-{node}", usd_per_hour=7.2, node=node)


def export(run: Run, *nodes: int) -> None:
    """These can be reached."""
    for node in nodes:
        machine = Machine(
            f"i-{node}", "127.0.0.1", 22 + node, "me", "k", "local", "r", "t", node=node
        )
        journal.append(run.directory, "machine", **dataclasses.asdict(machine))


@pytest.fixture
def run(workspace: Workspace) -> Run:
    """One run of two machines, whose engine has begun."""
    made = intent.write(workspace, new_id(), SPEC, OFFER, client=journal.myself())
    journal.append(made.directory, "up_started")
    return made


def test_each_machine_has_a_host_key_of_its_own(run: Run) -> None:
    """In a file that nobody else reads; one that has none is a preview's."""
    assert run.host_key_of(0) == run.host_key
    assert run.host_key_of(1).startswith("ssh-ed25519 ")
    assert run.host_key_of(1) != run.host_key
    assert run.host_key_of(2) == ""
    assert run.host_key_file(1).stat().st_mode & 0o077 == 0


def test_the_journal_knows_each_machine_and_its_key(run: Run) -> None:
    """Whatever came last; the first is the machine where one is meant."""
    export(run, 1)
    assert journal.read(run.directory).machine is None
    export(run, 0)
    journal.append(run.directory, "host_key_rotated", host_key="new", node=1)
    history = journal.read(run.directory)
    assert history.machine == history.machines[0]
    assert [(m.id, m.port, m.host_key) for m in history.machines] == [
        ("i-0", 22, "k"),
        ("i-1", 23, "new"),
    ]


def test_every_machine_that_was_asked_for_is_accounted_for(run: Run) -> None:
    """One that was launched by its id; one without an answer as one that may be there."""
    launch(run, 1)
    found = Traces.of(journal.read(run.directory), PLAIN)
    assert found.unsettled == ("instance",)
    assert [(life.id, life.is_guess) for life in found.lives] == [("i-1", False), ("", True)]
    launch(run, 0)
    found = Traces.of(journal.read(run.directory), PLAIN)
    assert (found.unsettled, [life.id for life in found.lives]) == ((), ["i-1", "i-0"])


def test_each_machine_is_billed_at_its_own_rate(run: Run) -> None:
    """From when it was asked for until it was seen gone; the rate of the run is that of both."""
    launch(run, 0, 1)
    journal.append(run.directory, "drift", instance="i-1", kind="deleted", state="terminated")
    history = journal.read(run.directory)
    assert (rate_of(history), machine_rate_of(history)) == (7.2, 3.6)
    begun = history.events[0].time
    bill = Bill.of(history, PLAIN, begun + 3600)
    gone_s = history.events[-1].time - begun
    # Neither begins with the journal, to which writing takes a moment.
    assert bill.lived_s == pytest.approx(3600 + gone_s, abs=1.0)
    assert bill.usd == pytest.approx(3.6, abs=0.01)
    assert show.cost_so_far(history, begun + 3600) == pytest.approx(7.2, abs=0.01)


def test_all_are_ended_and_proved_gone(workspace: Workspace, cloud: Cloud) -> None:
    """Those that a listing misses, too, and one whose launch was never answered."""
    spec = Spec.from_options({"provider": "local", "nodes": 3})
    run = intent.write(workspace, new_id(), spec, cloud.offers(spec)[0])
    journal.append(run.directory, "up_started")
    launch(run, 0, 1)
    cloud.states = {"i-0": "running"}
    cloud.launch(run, "i-1")
    cloud.launch(run, "late", listed_after_s=800.0)
    terminate = cloud.terminate

    def ended(found: Found) -> None:
        terminate(found)
        cloud.states.pop(found.id, None)

    cloud.terminate = ended  # type: ignore[method-assign]
    receipt = Closer(workspace, None, now=cloud.now, sleep=cloud.sleep).close(run.id)
    assert sorted(set(cloud.terminated)) == ["i-0", "i-1", "late"]
    assert (receipt.left, receipt.at_most) == (0, True)
    assert not list(run.directory.glob("host_key*"))


def test_a_machine_that_does_not_end_is_named_with_the_others(
    workspace: Workspace, cloud: Cloud
) -> None:
    """The risk is what all of them cost."""
    spec = Spec.from_options({"provider": "local", "nodes": 2})
    run = intent.write(workspace, new_id(), spec, cloud.offers(spec)[0])
    journal.append(run.directory, "up_started")
    launch(run, 0, 1)
    cloud.immortal = True
    cloud.launch(run, "i-1")
    with pytest.raises(LeakRisk) as risk:
        Closer(workspace, None, now=cloud.now, sleep=cloud.sleep).close(run.id)
    assert risk.value.resources == ("i-0", "i-1")
    assert risk.value.usd_per_hour == 7.2


class _States(Local):
    """Says of each machine what the test wants to hear."""

    def __init__(self, **states: State) -> None:
        self.states = {name.replace("_", "-"): state for name, state in states.items()}

    def inventory(self, owner: str | None) -> Sequence[Found]:
        return []

    def instance_state(self, id: str) -> State:
        return self.states[id]

    def address(self, id: str) -> tuple[str, int] | None:
        return None


def test_a_run_has_ended_when_all_its_machines_have(
    run: Run, local_replaced: Callable[[Provider], None]
) -> None:
    """And what has become of one is told whichever it is."""
    launch(run, 0, 1)
    export(run, 0, 1)
    history, later = journal.read(run.directory), time.time() + 3600
    local_replaced(_States(i_0="terminated", i_1="running"))
    assert not has_ended(history, later)
    local_replaced(_States(i_0="terminated", i_1="terminated"))
    assert has_ended(history, later)
    local_replaced(_States(i_0="running", i_1="preempted"))
    drift = refresh(history)
    assert (drift.instance, drift.kind, drift.action) == ("i-1", "preempted", "retry")
    assert (state_now(history), state_now(history, "i-1")) == ("running", "preempted")


def test_the_plan_says_how_many_and_prices_all() -> None:
    """And so does a budget that does not pay for them."""
    spec = Spec(nodes=4, max_runtime="1h")
    plan = make_plan(
        spec, [OFFER], [Listing(source="engine")], function="m:f", environment_source="live"
    )
    assert (plan.nodes, plan.usd_per_hour, plan.worst_case_usd) == (4, 14.4, 14.4)
    assert dict(plan_rows(plan))["machines"].startswith("4 of them")
    with pytest.raises(BudgetExceeded, match="4 x this-computer"):
        cost.allowed_runtime_s(Spec(nodes=4, max_cost=0.01), OFFER)


def test_what_would_leave_machines_idle_is_refused() -> None:
    """A call runs on one, unless it says how it runs on all; a map says it by itself."""
    with pytest.raises(SpecError, match='distributed="torchrun" runs it on each'):
        Call.prepare(abs, (1,), {}, Spec(nodes=2))
    with pytest.raises(SpecError, match="leave distributed= out"):
        WarmRun(abs, Spec(nodes=2, distributed="torchrun"))
    with pytest.raises(SpecError, match=r"distributed='mpi' must be 'torchrun'"):
        Spec(distributed="mpi")


@pytest.mark.sshd
def test_local_machines_have_homes_and_ports_of_their_own(tmp_path: Path, run: Run) -> None:
    """And ids by which each is found; none is left when the stack is deleted."""
    tmp_path.chmod(0o700)
    made = []
    for node in range(2):
        props: dict[str, Any] = {
            "run": run.id,
            "owner": TESTER,
            "deadline": int(time.time()) + 600,
            "created": int(time.time()),
            "node": node,
            "directory": str(run.directory / ("machine-1" if node else "machine")),
            "authorized_key": run.public_key,
            "host_key_file": str(run.host_key_file(node)),
        }
        made.append((props, local.InstanceProvider().create(props)))
    try:
        assert [result.id for _, result in made] == [
            f"local-{run.id[:12]}",
            f"local-{run.id[:12]}-1",
        ]
        said = [ssh(props, result.outs["port"], 'echo "$HOME"') for props, result in made]
        assert said == [f"{props['directory']}/home" for props, _ in made]
        assert [PLAIN.instance_state(result.id) for _, result in made] == ["running"] * 2
        assert PLAIN.address(made[1][1].id) == ("127.0.0.1", made[1][1].outs["port"])
        assert len([f for f in PLAIN.inventory(TESTER) if f.run == run.id]) == 2
        local.InstanceProvider().delete(made[1][1].id, made[1][0])
        local.InstanceProvider().delete(made[0][1].id, made[0][0])
        assert [f for f in PLAIN.inventory(TESTER) if f.run == run.id] == []
    finally:
        processes.end_run(run.id)
