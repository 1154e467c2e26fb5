"""What lies between clients and their emulated machines: a TCP proxy for each, put into the client's port map."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator, Sequence

from benchmarks import place
from benchmarks.client import Client
from tests.proxy import Proxy

_LAUNCH_S = 60.0


@contextlib.contextmanager
def proxies(clients: Sequence[Client]) -> Iterator[list[Proxy]]:
    """A proxy before each client's machine, in the clients' order; entered before any of them has booted.

    Raises:
        TrialFailed: a machine was not launched.
    """
    made: dict[int, Proxy] = {}

    def all_there() -> bool:
        for number, client in enumerate(clients):
            if number not in made:
                _lead_through(client, made, number)
        return len(made) == len(clients)

    def said() -> str:
        return "".join(client.said() for client in clients)

    try:
        place.wait("every machine", all_there, _LAUNCH_S, said)
        yield [made[number] for number in range(len(clients))]
    finally:
        for proxy in made.values():
            proxy.close()


def _lead_through(client: Client, made: dict[int, Proxy], number: int) -> None:
    """Puts a proxy before the client's machine, if that is launched."""
    assert client.cloud is not None
    assert client.port_map is not None
    known = json.loads(client.cloud.port_map.read_text())
    for id, place_of in known.items():
        made[number] = Proxy(int(place_of["port"]))
        aside = client.port_map.with_suffix(".part")
        aside.write_text(json.dumps({id: {"host": "127.0.0.1", "port": made[number].port}}))
        aside.replace(client.port_map)


@contextlib.contextmanager
def silence() -> Iterator[int]:
    """A port that takes connections and never says a word: what a machine is whose network swallows everything."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield int(listener.getsockname()[1])
