"""The stack of a run that keeps machines: it takes the one that is there, and hands it on under the machine's own lock."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import asdict

import pytest

from dayfly.errors import NoCapacity, PolicyDenied
from dayfly.infra.offers import Offer
from dayfly.infra.run import new_id
from dayfly.infra.spec import Spec
from dayfly.stacks import intent, journal
from dayfly.stacks.claim import fingerprint
from dayfly.stacks.journal import Event, History
from dayfly.stacks.kept_stack import KeptStack
from dayfly.stacks.standing import standing
from dayfly.stacks.workspace import Workspace
from tests.runs import OFFER, launched

SPEC = Spec(keep="10m", environment=[])


@pytest.fixture
def host(workspace: Workspace) -> History:
    """A run whose machine has a host key of its own by now, and was kept."""
    run_id = new_id()
    intent.write(
        workspace, run_id, SPEC, OFFER, client=journal.myself(), fingerprint=fingerprint(SPEC)
    )
    launched(workspace, run_id)
    directory = workspace.directory(run_id)
    journal.append(directory, "host_key_rotated", host_key="ssh-ed25519 ROTATED")
    journal.append(directory, "kept", until=time.time() + 600, after=run_id)
    return journal.read(directory)


def a_stack(workspace: Workspace, said: list[Event] | None = None) -> KeptStack:
    observe = (lambda _: None) if said is None else said.append
    return KeptStack(SPEC, workspace, None, (), observe=observe, details={"function": "m:f"})


def test_entering_takes_the_machine_as_it_is_now(workspace: Workspace, host: History) -> None:
    """With the host key that it was given, under a run of its own, whose journal has it from the beginning."""
    said: list[Event] = []
    stack = a_stack(workspace, said)
    machine = stack.__enter__()
    assert machine == host.machine
    assert machine.host_keys == ("ssh-ed25519 ROTATED",)
    assert [event.name for event in said] == ["intent", "machine", "progress"]
    assert f"on the machine of run {host.id[:12]}" in said[2].fields["text"]
    history = journal.read(stack.directory)
    assert (history.machine, history.intent["machine_of"]) == (machine, host.id)
    assert history.intent["fingerprint"] == fingerprint(SPEC)
    assert standing(history, time.time())[0] == "RUNNING"
    stack.leave_open()


def test_handing_it_on_leaves_it_to_the_next(workspace: Workspace, host: History) -> None:
    """Leaving closes the run alone, and the next one takes the same machine."""
    until = time.time() + 300
    for _ in range(2):
        stack = a_stack(workspace)
        with stack as machine:
            assert machine.id == "local-1"
            owner = stack.hand_on(until, failed=False)
        assert owner is not None
        assert owner.field("kept", "after") == stack.id
        assert owner.field("kept", "until") == until
        assert stack.receipt is not None
        assert stack.receipt.machine_of == host.id
        assert standing(journal.read(host.directory), time.time())[0] == "KEPT"


def test_a_machine_that_is_not_handed_on_ends_with_its_run(
    workspace: Workspace, host: History
) -> None:
    """As after any other call."""
    with a_stack(workspace):
        pass
    assert journal.read(host.directory).closed


@pytest.mark.parametrize("whose", ["its own", "the machine's"])
def test_one_whose_end_was_asked_for_is_not_handed_on(
    workspace: Workspace, host: History, whose: str
) -> None:
    """By `dayfly cancel`, or by a stop in the same moment."""
    stack = a_stack(workspace)
    with stack:
        directory = stack.directory if whose == "its own" else host.directory
        journal.append(directory, "cancelled", by=journal.myself())
        assert stack.hand_on(time.time() + 300, failed=False) is None
    assert journal.read(stack.directory).closed


def test_after_one_that_could_not_be_used_none_is_taken(
    workspace: Workspace, host: History
) -> None:
    """The next attempt gets a machine of its own, or fails as any other."""
    stack = a_stack(workspace)
    stack.fresh = True
    with pytest.raises(NoCapacity), stack:
        pass
    assert journal.read(host.directory).last("claimed") is None


def test_a_failure_to_write_the_intent_leaves_the_machine_to_the_keeper(
    workspace: Workspace, host: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that could not be written down must not hold a machine."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(intent, "write", full)
    with pytest.raises(OSError, match="No space left"):
        a_stack(workspace).__enter__()
    assert standing(journal.read(host.directory), time.time())[0] == "ORPHAN"


def test_a_machine_that_policies_deny_by_now_is_not_taken(
    workspace: Workspace, host: History
) -> None:
    """Whoever kept it had others; it stays for them, and this call gets no machine at all where it has no rung."""
    said: list[Event] = []

    def deny(offer: Offer) -> None:
        assert offer == OFFER
        raise PolicyDenied("too dear for me")

    stack = KeptStack(SPEC, workspace, None, (), observe=said.append, permit=deny)
    with pytest.raises(NoCapacity):
        stack.__enter__()
    assert "too dear for me" in said[0].fields["text"]
    assert standing(journal.read(host.directory), time.time())[0] == "KEPT"


@pytest.mark.parametrize(
    ("firewall", "taken"),
    [
        ("22/tcp from 0.0.0.0/0 (this computer's own address could not be found out)", False),
        ("none: us-south-1 has no firewall rulesets, so that port 22 may be open to all", False),
        ("22/tcp from 203.0.113.7/32 (this computer's own address)", True),
    ],
)
def test_a_machine_that_the_public_can_reach_is_not_taken_where_a_policy_denies_it(
    workspace: Workspace, host: History, firewall: str, taken: bool
) -> None:
    """Whatever its Spec says: it was made when this computer's own address was not known, and before the policy was."""
    assert host.machine is not None
    journal.append(host.directory, "machine", **{**asdict(host.machine), "firewall": firewall})
    said: list[Event] = []
    private = dataclasses.replace(workspace, private_ingress=True)
    stack = KeptStack(SPEC, private, None, (), observe=said.append, details={"function": "m:f"})
    if taken:
        assert stack.__enter__() == journal.read(host.directory).machine
        stack.leave_open()
        return
    with pytest.raises(NoCapacity):
        stack.__enter__()
    assert "22/tcp is open to 0.0.0.0/0" in said[0].fields["text"]
    assert standing(journal.read(host.directory), time.time())[0] == "KEPT"
