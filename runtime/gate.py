"""Gate: ports of other machines on the loopback of one, made anew with every connection to it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Sequence

from dayfly.errors import ConnectFailed
from dayfly.runtime.session import Session
from dayfly.runtime.ssh.link import AgentRefused, Link
from dayfly.runtime.ssh.passage import Channel

_ANSWER_S = 20.0


class Gate:
    """What its machine's SSH server listens on for the others, over whichever link the session has.

    A new link first ends the connection of the link before it: the machine may not know for hours that this one is gone,
    and what is connected through it would wait for as long.

    Lifecycle: constructing asks nothing; it lasts as long as the session.

    Args:
        session: with the machine.
        enter: gets a channel for each connection to one of the ports, and which port that was; must wait for nothing.
        failed: told where the ports could not be had again on a new link.
    """

    def __init__(
        self,
        session: Session,
        enter: Callable[[Channel, int], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._session, self._enter, self._failed = session, enter, failed
        self._ports: set[int] = set()
        self._opening: set[int] = set()
        self._connection: list[int] = []
        self._there: weakref.WeakKeyDictionary[Link, set[int]] = weakref.WeakKeyDictionary()
        session.renewed = self._renew

    def open(self, ports: Sequence[int]) -> list[int]:
        """Has the machine's server listen on further ports; gives those on which it does not.

        Raises:
            InstanceLost: the machine was out of reach for too long.
        """
        refused: list[int] = []

        def act(link: Link, heard: Callable[[], None]) -> None:
            if not self._connection:
                # Of the first link; every further one is asked when it is made.
                asked = link.ask({"op": "alone", "former": [], "ports": []})
                self._connection = asked["connection"]
            # Known before they are asked for, so that a link that is made meanwhile has them, too.
            self._ports |= set(ports)
            refused[:] = self._listen(link, ports)
            heard()

        self._opening = set(ports)
        self._session.transfer(act)
        self._ports -= set(refused)
        self._opening = set()
        return refused

    def forget(self, ports: Collection[int]) -> None:
        """They lead nowhere, and are asked for no more."""
        self._ports -= set(ports)

    def _listen(self, link: Link, ports: Sequence[int]) -> list[int]:
        there = self._there.setdefault(link, set())
        refused = link.listen([p for p in ports if p not in there], self._enter, _ANSWER_S)
        there |= set(ports) - set(refused)
        return refused

    def _renew(self, link: Link) -> None:
        if not self._connection and not self._ports:
            return
        ports = sorted(self._ports)
        request = {"op": "alone", "former": self._connection, "ports": ports}
        try:
            self._connection = link.ask(request)["connection"]
            # Of those that are only being asked for, who asks is told.
            refused = [p for p in self._listen(link, ports) if p not in self._opening]
        except AgentRefused as refusal:
            self._failed(ConnectFailed(f"{self._session.machine.id}: {refusal}"))
            return
        if refused:
            taken = ", ".join(map(str, refused))
            self._failed(
                ConnectFailed(
                    f"the connection to {self._session.machine.id} was made anew, and its SSH server does not listen on"
                    f" port {taken} any more, by which its Dask workers and the scheduler reach each other: begin the"
                    " session again"
                )
            )
