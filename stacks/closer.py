"""Destroys one run and proves that nothing of it is left, from its journal alone: no SSH, no readable state needed."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dayfly.errors import DayflyError, LeakRisk, RunBusy
from dayfly.infra import creations, fence, providers
from dayfly.infra.providers.base import Provider
from dayfly.stacks import account, guest, journal, kept, latecomers
from dayfly.stacks.absence import Absence, StillThere
from dayfly.stacks.bill import Bill, machine_rate_of, rate_of
from dayfly.stacks.engine import Engine
from dayfly.stacks.engine_teardown import EngineTeardown
from dayfly.stacks.following import following
from dayfly.stacks.journal import Event, History
from dayfly.stacks.receipt import Receipt
from dayfly.stacks.run_lock import locked
from dayfly.stacks.standing import in_other_home, is_part_of_another
from dayfly.stacks.traces import Traces, seen_gone
from dayfly.stacks.workspace import Workspace

# What a closed run has no more use for: keys first of all. The HMAC key stays beside the result that it vouches for.
_SPENT = (
    "user_key",
    "user_key.pub",
    "host_key",
    "host_key.pub",
    "machine",
    "project",
    "task.sealed",
    "request.json",
)

_SPENT_OF_OTHERS = ("host_key-*", "machine-*", "session-*")

# A request that has passed the fence is answered, or given up, within this.
_REQUEST_S = 75.0

Report = Callable[[str], None]


class LeftAlone(Exception):
    """Somebody has taken the run in hand."""


class Closer:
    """Closes one run: destroy, prove, forget.

    Args:
        workspace: where the run is kept.
        engine: the Pulumi CLI; None when there is none, and the provider's API alone does it.
        report: told each step in a sentence.
        now, sleep: time, so that tests need not wait for it.
        linger: told how long a late launch has to be waited for, before that begins; what it raises leaves it to others.
    """

    def __init__(
        self,
        workspace: Workspace,
        engine: Engine | None,
        report: Report = lambda _: None,
        *,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        linger: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._workspace = workspace
        self._engine = engine
        self._report = _never_failing(report)
        self._now = now
        self._sleep = sleep
        self._linger = linger
        self._notes: list[str] = []
        self._engine_part = EngineTeardown(
            workspace, engine, self._report, self._notes, now=now, sleep=sleep
        )

    def close(self, run_id: str, *, unless: Callable[[History], bool] = lambda _: False) -> Receipt:
        """Destroys what is left of a run, waits for the proof, and writes the receipt. Closed already is success.

        Args:
            run_id: the run.
            unless: asked when nobody else can take the run in hand any more, or close it.

        Raises:
            LeftAlone: `unless` said so; nothing was touched.
            LeakRisk: absence could not be proved; the run stays open.
            RunBusy: another process is closing it.
        """
        directory = self._workspace.directory(run_id)
        receipt = Receipt.of(directory)
        if receipt is not None:
            return receipt
        self._workspace.free_reserve()
        with locked(directory):
            receipt = Receipt.of(directory)
            if receipt is not None:
                return receipt
            history = journal.read(directory)
            if unless(history):
                raise LeftAlone
            try:
                return self._close(history)
            except (LeakRisk, RunBusy):
                raise
            except Exception as error:  # whatever it was, nothing is proved
                raise self._leak(history, "", f"{type(error).__name__}: {error}") from error

    def _close(self, history: History) -> Receipt:
        if is_part_of_another(history):
            client = history.intent["client"]
            reason = f"it is a part of the computer {client['host']}, which alone can tell"
            raise self._leak(history, f"the computer {client['host']}", reason)
        self._note_down(history, "closing", by=journal.myself())
        if kept.machine_of(history) and history.provider in providers.names():
            return self._close_guest(history, providers.load(history.provider))
        self._shut_fence(history)
        self._engine_part.end_processes(history)
        history = journal.read(history.directory)
        if not history.provider:
            return self._close_unknown(history)
        if history.provider not in providers.names():
            reason = f"this version of dayfly has no provider {history.provider!r}"
            raise self._leak(history, "the provider's own page", reason)
        provider = providers.load(history.provider)
        if _is_unbegun(history) and (reason := _why_mute(history, provider)):
            # A client that was killed before it gave the run into the keeper's care has left no credentials either.
            self._notes.append(
                f"nothing was asked of {provider.name}, which was not asked either ({reason})"
            )
            self._engine_part.remove(history, forced=False)
            return self._sign(history, provider, "pulumi", 0, 0)
        if reason := account.trouble(history):
            raise self._leak(history, provider.limits.console, reason)
        asked = self._ask_for_the_end(history, provider)
        with following(provider, history.directory, asked):
            how, declared, destroyed = self._engine_part.destroy(history)
        done = self._now()
        history = journal.read(history.directory)
        # What has ended by now is nothing for the proof to end, and a failed engine has not counted it.
        ended = 0 if how == "pulumi" else _gone(history, asked)
        terminated = ended + self._prove(history, provider, asked)
        if terminated and how == "pulumi":
            self._notes.append(f"{terminated} more found by tag and ended through the provider")
        self._engine_part.remove(history, forced=how != "pulumi" or bool(terminated))
        self._engine_part.remove_session(journal.read(history.directory))
        return self._sign(
            history,
            provider,
            how,
            max(declared, destroyed + terminated),
            destroyed + terminated,
            # What the engine has destroyed of a machine that was refused is what was to be around it.
            machines=terminated if history.nodes == 1 else destroyed + terminated,
            # A vendor's plugin waits until a machine has ended; the proof, which takes longer, has found no other.
            ended=done if how == "pulumi" and not terminated else None,
        )

    def _close_guest(self, history: History, provider: Provider) -> Receipt:
        """Closes a run that is on the machine of another, for which nothing was ever asked for at a provider."""
        host = guest.host_of(history, self._workspace)
        ended = None
        if not guest.has_left(history, host):
            closer = Closer(
                self._workspace,
                self._engine,
                self._report,
                now=self._now,
                sleep=self._sleep,
                linger=self._linger,
            )
            try:
                ended = closer.close(host.id, unless=lambda now: guest.has_left(history, now))
            except LeakRisk as risk:
                self._note_down(history, "leak_risk", reason=str(risk), id=host.id)
                raise
            except LeftAlone:
                self._report(f"the machine of run {host.id[:12]} has been handed on meanwhile")
        # Its processes carry its own tag, and are listed where the machine is this computer.
        more = self._prove(history, provider) if provider.same_computer else 0
        if history.reopened is not None:
            return self._sign(history, provider, "provider", more, more)
        notes = tuple(self._notes)
        return self._store(history, guest.receipt(history, host, ended, self._now(), notes))

    def _shut_fence(self, history: History) -> None:
        """From here on nothing is created for this run; a request that is under way is answered and recorded first."""
        try:
            fence.shut(history.directory)
        except OSError as error:
            self._notes.append(f"the fence could not be shut: {error}")
            return
        fence.is_passed(history.directory, _REQUEST_S, now=self._now, sleep=self._sleep)

    def _ask_for_the_end(self, history: History, provider: Provider) -> frozenset[str]:
        """Has the machines whose ids are known end while the engine starts, which takes seconds that would be billed.

        What does not work here is done, and all of it proved, afterwards.

        Returns:
            The ids of those whose end was asked for.
        """
        asked: set[str] = set()
        # A vendor's plugin has its own order, and fails over what somebody else deletes meanwhile.
        beside_engine = provider.keeps_creations
        if not beside_engine or history.reopened is not None or in_other_home(history):
            # What its receipt counts is ended already, and what came late is looked for by tag. What another home has had
            # is ended there, as a rule: the proof tells, and what it has to end counts.
            return frozenset()
        with contextlib.suppress(DayflyError, OSError):
            for trace in Traces.of(history, provider).known:
                id = trace.found.id
                if trace.found.kind == "instance" and seen_gone(history, id) is None:
                    self._note_down(history, "terminating", kind="instance", id=id)
                    provider.terminate(trace.found)
                    asked.add(id)
        return frozenset(asked)

    def _close_unknown(self, history: History) -> Receipt:
        """A directory without a readable intent: whatever carries its tag, at every provider that it can have been at."""
        ended, mute, consoles = 0, list[str](), list[str]()
        for provider in map(providers.load, providers.names()):
            missing = _missing(provider)
            if not missing:
                ended += self._prove(history, provider)
            elif _may_have_been_at(history, provider):
                mute.append(f"{provider.name} cannot be asked: {'; '.join(missing)}")
                consoles.append(provider.limits.console)
        if mute:
            raise self._leak(history, ", ".join(consoles), "; ".join(mute))
        self._engine_part.remove(history, forced=True)
        reopened = history.reopened
        if reopened is not None:
            provider = providers.load(str(reopened.fields["provider"]))
            return self._store(history, self._amended(history, reopened, provider))
        receipt = Receipt(
            history.id,
            "",
            ended,
            ended,
            0,
            self._now(),
            0.0,
            0.0,
            0.0,
            "provider",
            ("its journal had no readable intent",),
        )
        return self._store(history, receipt)

    def _prove(
        self, history: History, provider: Provider, asked: frozenset[str] = frozenset()
    ) -> int:
        """Ends whatever is left and proves that nothing is.

        Returns:
            How many machines were still there.
        """
        console = provider.limits.console
        absence = Absence(
            provider,
            history,
            str(history.intent.get("owner", self._workspace.owner)),
            lambda found: self._note_down(history, "terminating", kind=found.kind, id=found.id),
            self._report,
            self._now,
            self._sleep,
            self._linger,
            asked,
        )
        try:
            traces = latecomers.traced(history, Traces.of(history, provider), provider)
            ended = absence.prove(traces)
        except (DayflyError, OSError, StillThere) as error:
            raise self._leak(history, console, str(error)) from error
        if not fence.is_passed(history.directory, 0.0):
            raise self._leak(history, console, "a process of this run may still be creating")
        return ended

    def _note_down(self, history: History, event: str, **fields: Any) -> None:
        """Journals, if that can be: a teardown goes on without a record rather than leave a machine for one."""
        try:
            journal.append(history.directory, event, **fields)
        except OSError as error:
            self._notes.append(f"the journal could not take {event!r}: {error}")

    def _leak(self, history: History, console: str, reason: str) -> LeakRisk:
        command = f"dayfly gc --run {history.id} --yes"
        rate = rate_of(history)
        ids = tuple(id for id in history.launched if id)
        machines = ids or (f"whatever carries dayfly-run={history.id}",)
        named = ", ".join(machines)
        self._note_down(history, "leak_risk", reason=reason, id=named)
        return LeakRisk(
            f"run {history.id}: it is not proved that {named} is gone ({reason}). It costs ${rate:g}/h while it"
            f" lives. Look: {console}. Finish: {command}",
            run=history.id,
            resources=machines,
            usd_per_hour=rate,
            console=console,
            command=command,
        )

    def _sign(
        self,
        history: History,
        provider: Provider,
        how: str,
        declared: int,
        destroyed: int,
        *,
        machines: int | None = None,
        ended: float | None = None,
    ) -> Receipt:
        if history.reopened is not None:
            return self._store(history, self._amended(history, history.reopened, provider))
        now = self._now()
        if in_other_home(history) and not destroyed:
            return self._store(history, self._receipt_of_another(history, provider, how))
        found = destroyed if machines is None else machines
        bill = Bill.of(history, provider, now, destroyed=found, ended=ended)
        receipt = Receipt(
            history.id,
            provider.name,
            destroyed,
            declared,
            0,
            now,
            bill.lived_s,
            bill.usd_per_hour,
            bill.usd,
            how,
            (*self._notes, *bill.notes),
            bill.billed_s,
            at_most=bill.at_most,
        )
        return self._store(history, receipt)

    def _receipt_of_another(self, history: History, provider: Provider, how: str) -> Receipt:
        """Of a run that another home has in hand, or had, and nothing of which was left to be ended here."""
        taken = history.last("attached", "intent")
        client = {} if taken is None else taken.fields.get("client") or {}
        note = f"the computer {client.get('host')} had it in hand, and has its bill"
        notes = (*self._notes, note)
        return Receipt(
            history.id, provider.name, 0, 0, 0, self._now(), 0.0, 0.0, 0.0, how, notes, 0.0
        )

    def _amended(self, history: History, event: Event, provider: Provider) -> Receipt:
        now_known, rate = journal.read(history.directory), machine_rate_of(history)
        return latecomers.amended(now_known, event, rate, provider, self._now())

    def _store(self, history: History, receipt: Receipt) -> Receipt:
        for name in _SPENT:
            _remove(history.directory / name)
        for pattern in _SPENT_OF_OTHERS:
            for path in history.directory.glob(pattern):
                _remove(path)
        journal.append(history.directory, "closed", **receipt.as_dict())
        journal.write_receipt(history.directory, receipt.as_dict())
        return receipt


def _gone(history: History, asked: frozenset[str]) -> int:
    """How many of these machines are gone, by the record of the run's requests."""
    made = creations.read(history.directory)
    return sum(each.outcome == "deleted" and each.id in asked for each in made)


def _is_unbegun(history: History) -> bool:
    """Whether nobody was ever asked for anything of a run: its program, which alone would ask, was not started."""
    begun = history.last("up_started", "stack_created", "resources", "launched") is not None
    made_here = not (history.plain or history.reopened or in_other_home(history))
    return made_here and not begun and not (history.directory / journal.PROGRAM_LOG).exists()


def _why_mute(history: History, provider: Provider) -> str:
    """Why a provider cannot be asked about a run, "" where it can."""
    return "; ".join(_missing(provider)) or account.trouble(history)


def _missing(provider: Provider) -> Sequence[str]:
    """What is missing before a provider can be asked; of this computer nothing is."""
    return () if provider.same_computer else provider.preflight()


def _may_have_been_at(history: History, provider: Provider) -> bool:
    """Whether a run of unknown provider may have been there: it has a record of requests, or the provider is set up here."""
    # The file alone: a record that was emptied with the journal tells of a request, too.
    asked = provider.keeps_creations and (history.directory / creations.FILE).exists()
    return asked or provider.is_configured()


def _never_failing(report: Report) -> Report:
    """Someone who can no longer be told is no reason to leave a machine."""

    def told(text: str) -> None:
        with contextlib.suppress(Exception):
            report(text)

    return told


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
