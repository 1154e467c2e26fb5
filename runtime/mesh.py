"""Mesh: ports that each belong to one machine of a run, and lead there from the loopback of every machine."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from dayfly.errors import ConnectFailed, RunFailed
from dayfly.infra import providers
from dayfly.runtime import ranks
from dayfly.runtime.fleet import side_by_side
from dayfly.runtime.gate import Gate
from dayfly.runtime.session import Session
from dayfly.runtime.ssh.connection import NobodyListens
from dayfly.runtime.ssh.passage import Channel, Passage

_TRIES = 20


class Mesh:
    """Who connects to such a port on any machine's loopback is connected to the same port of the one that it belongs to.

    The way leads from the SSH server of the one machine to this computer, and from here to the SSH server of the other,
    through the run's own connections; nothing is listened on anywhere but on loopback. Machines that share a loopback
    need no way. A connection that breaks off with an SSH connection is closed at both ends; the next one goes through
    the SSH connection that is made anew.

    Lifecycle: constructing asks the machines which loopback is theirs; `open` leads; it ends with the sessions.

    Args:
        sessions: with the machines, in their order.
    """

    def __init__(self, sessions: Sequence[Session]) -> None:
        self._sessions = tuple(sessions)
        self._loopbacks = [_loopback_of(each) for each in self._sessions]
        self._owners: dict[int, int] = {}
        self._given: set[int] = set()
        self._passages: set[Passage] = set()
        self._failure: Exception | None = None
        self._told: Callable[[Exception], None] = lambda _: None
        self._gates = [Gate(each, self._enter, self._fail) for each in self._sessions if self.apart]

    @property
    def apart(self) -> bool:
        """Whether there are machines with different loopbacks."""
        return len(set(self._loopbacks)) > 1

    def on_failure(self, told: Callable[[Exception], None]) -> None:
        """Has somebody told when ports are lost for good; at once where they are."""
        self._told = told
        if self._failure is not None:
            told(self._failure)

    def _fail(self, error: Exception) -> None:
        if self._failure is None:
            self._failure = error
            # Whoever makes a link anew holds it, and who is told may want it.
            threading.Thread(
                target=lambda: self._told(error), name="dayfly mesh", daemon=True
            ).start()

    # -- ports

    def free(self, count: int) -> list[int]:
        """Ports on which nobody listens on any of the machines, and that were not given before.

        Raises:
            RunFailed: so many could not be found.
        """
        found: list[int] = []
        asked = [self._sessions[node] for node in self._firsts]
        for _ in range(_TRIES):
            left = sorted(set(ranks.PORTS) - self._given)
            tried = random.sample(left, min(count - len(found), len(left)))
            self._given |= set(tried)
            answers = side_by_side([partial(each.ports, tried) for each in asked])
            taken = {port for ports, _ in answers for port in ports}
            found += [port for port in tried if port not in taken]
            if len(found) == count:
                return found
        raise RunFailed(
            f"{count} ports that are free on all {len(self._sessions)} machines could not be found between"
            f" {ranks.PORTS[0]} and {ranks.PORTS[-1]}; fewer slots= need fewer"
        )

    @property
    def _firsts(self) -> list[int]:
        """One machine for each loopback."""
        return sorted({self._loopbacks.index(each) for each in self._loopbacks})

    def open(self, counts: Sequence[int]) -> list[list[int]]:
        """Gives each machine ports of its own, which lead to it from now on.

        Args:
            counts: how many each machine is to have, in their order.

        Raises:
            ConnectFailed: an SSH server forbids it, or would let other machines in; says what to set there.
            RunFailed: there were not enough free ports.
        """
        wanted = [node for node, count in enumerate(counts) for _ in range(count)]
        for _ in range(_TRIES):
            fresh = dict(zip(self.free(len(wanted)), wanted, strict=True))
            self._owners |= fresh
            lost = self._lead(fresh)
            for port in lost:
                del self._owners[port]
            for gate in self._gates:
                gate.forget(lost)
            wanted = [fresh[port] for port in sorted(lost)]
            if not wanted:
                nodes = range(len(self._sessions))
                return [sorted(p for p, own in self._owners.items() if own == n) for n in nodes]
        raise RunFailed(
            f"the ports that were chosen were taken by others {_TRIES} times before the SSH servers listened there"
        )

    def _lead(self, fresh: Mapping[int, int]) -> set[int]:
        """Has them lead from everywhere; gives those that somebody has taken meanwhile."""
        acts = [partial(self._lead_on, node, fresh) for node in range(len(self._gates))]
        return {port for lost in side_by_side(acts) for port in lost}

    def _lead_on(self, node: int, fresh: Mapping[int, int]) -> set[int]:
        session, loopback = self._sessions[node], self._loopbacks[node]
        own = [port for port, owner in fresh.items() if owner == node]
        if own:
            # The second half of the way; refused where that is forbidden, whoever listens.
            session.listens(own[0])
        ports: list[int] = []
        if node in self._firsts:
            ports = [p for p, owner in fresh.items() if self._loopbacks[owner] != loopback]
        refused = self._gates[node].open(ports)
        taken, exposed = session.ports(ports)
        led = set(ports) - set(refused)
        forbidden = set(refused) - set(taken)
        where = f"{session.machine.id} at {session.machine.host}:{session.machine.port}"
        if forbidden:
            raise ConnectFailed(
                f"the SSH server of {where} does not listen for the other machines ({len(forbidden)} of"
                f" {len(ports)} ports were refused): set AllowTcpForwarding yes in its sshd_config, without PermitListen;"
                " where it grants some of many, ask for fewer slots= or raise its limit of open files"
            )
        if led & set(exposed):
            raise ConnectFailed(
                f"the SSH server of {where} listens for the other machines where everybody reaches it: set"
                " GatewayPorts no, or clientspecified, in its sshd_config"
            )
        return set(refused)

    # -- what goes through

    def _enter(self, near: Channel, port: int) -> None:
        passage = Passage(near, partial(self._reach, port), self._passages.discard)
        self._passages.add(passage)
        passage.start()

    def _reach(self, port: int) -> Channel:
        if port not in self._owners:
            raise NobodyListens(f"port {port} belongs to no machine")
        return self._sessions[self._owners[port]].channel_to(port)


def _loopback_of(session: Session) -> str:
    """The same for machines that share one; where the machine itself cannot tell, its provider knows."""
    if session.facts.loopback:
        return session.facts.loopback
    here = providers.load(session.machine.provider).same_computer
    return "this computer" if here else session.machine.id
