"""KeptStack: the stack of a Run whose Spec keeps machines: the one that an earlier Run has left up, else one of its own."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict
from types import TracebackType

from dayfly.errors import PolicyDenied
from dayfly.infra import ingress
from dayfly.infra.machine import Machine
from dayfly.infra.offers import Offer
from dayfly.stacks import intent, journal, kept
from dayfly.stacks.bill import rate_of
from dayfly.stacks.claim import claim, fingerprint
from dayfly.stacks.journal import History
from dayfly.stacks.run_lock import locked
from dayfly.stacks.run_stack import RunStack

# Whoever has it locked for longer destroys it.
_WAIT_S = 5.0


class KeptStack(RunStack):
    """As a RunStack, only that entering takes a machine that is kept where there is one, and that leaving may keep it.

    Lifecycle: a machine that was taken is this run's until `hand_on`; without that, leaving destroys it and proves both
    runs gone.

    Attributes:
        fresh: nothing that was kept is to be taken.
        host: the run whose machine it has taken; None where it has one of its own.
    """

    fresh = False
    host: History | None = None

    def __enter__(self) -> Machine:
        """Takes a machine that is kept, or brings the stack up.

        Raises:
            ProvisionFailed: it did not come up; what there was of it is gone.
            LeakRisk: it did not come up, and it is not proved that nothing is left.
        """
        self._details["fingerprint"] = fingerprint(self.spec)
        if not self.fresh:
            self.host = claim(self.workspace, self.spec, self.id, self._say, allows=self._allows)
        return super().__enter__() if self.host is None else self._take(self.host)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        if self._program is not None:
            # Of a machine that stays the engine may still be writing down what it has made.
            self._program.wait()

    def _allows(self, host: History) -> bool:
        """Whether the policies, which may be others by now, would let its machine be made, with the firewall that it has."""
        try:
            self._permit(Offer(**host.intent["offer"]))
            if self.workspace.private_ingress:
                _check_private(host)
        except PolicyDenied as denial:
            self._say(f"the machine of run {host.id[:12]}, which was kept, is not taken: {denial}")
            return False
        return True

    def _take(self, host: History) -> Machine:
        machine = host.machine
        assert machine is not None
        try:
            self._write_intent(host)
        except BaseException:
            # Without a run that uses it the keeper ends it, at once.
            with contextlib.suppress(OSError):
                journal.append(host.directory, "cancelled", by=journal.myself())
            raise
        self._open = True
        try:
            self.record("machine", **asdict(machine))
        except BaseException as error:
            try:
                self.close()
            except Exception as cleanup:  # noqa: BLE001  # it must not hide the first error
                error.add_note(str(cleanup))
            raise
        ends = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(host.deadline))
        self._say(
            f"on the machine of run {host.id[:12]}, which was kept, ${rate_of(host):g}/h: it ends at {ends}, with whatever"
            " is on it"
        )
        return machine

    def _write_intent(self, host: History) -> None:
        intent.write(
            self.workspace,
            self.id,
            self.spec,
            Offer(**host.intent["offer"]),
            host=host,
            client=journal.myself(),
            **self._details,
        )

    def hand_on(self, until: float, *, failed: bool) -> History | None:
        """Keeps the machine for the next run, so that leaving does not destroy it.

        Args:
            until: unix time.
            failed: whether the call has.

        Returns:
            The run whose machine it is, as its journal is now; None where somebody has asked for its end meanwhile.

        Raises:
            RunBusy: somebody is destroying it.
        """
        owner = self.directory if self.host is None else self.host.directory
        with locked(owner, wait_s=_WAIT_S):
            history = journal.read(owner)
            if not self._may_hand_on(history):
                return None
            journal.append(
                owner,
                "kept",
                until=until,
                failed=failed,
                keep=self.spec.kept,
                after=self.id,
                usd_per_hour=rate_of(history),
                by=journal.myself(),
            )
        if self.host is None:
            self.leave_open()
            self._show_new_events()
        return journal.read(owner)

    def _may_hand_on(self, owner: History) -> bool:
        if owner.closed or journal.read(self.directory).last("cancelled", "closing") is not None:
            return False
        return self.host is None or kept.user(owner) == self.id


def _check_private(host: History) -> None:
    """
    Raises:
        PolicyDenied: its firewall lets the public in.
    """
    firewall = str(host.field("machine", "firewall", ""))
    public = [each for each in ingress.networks_in(firewall) if ingress.is_public(each)]
    if public:
        raise PolicyDenied(
            f"policy public_ingress = false denies it: 22/tcp is open to {', '.join(public)}"
        )
