"""Calls of a Dask SSHCluster: milliseconds of each of 300, or of each item of maps of 1,000.

`python -m benchmarks.trial_dask call|map FOLDER PORT`, the folder with the keys of the server
"""

import json
import pwd
import sys
import time
from os import getuid
from pathlib import Path

from distributed import Client, SSHCluster

from benchmarks.trial_warm import CALLS, ITEMS, MAPS, WARM_UP


def increment(number: int) -> int:
    """The trivial function."""
    return number + 1


def calls(client: Client) -> list[float]:
    """What each call takes, from the call to its value."""
    taken = []
    for number in range(WARM_UP + CALLS):
        began = time.perf_counter()
        assert client.submit(increment, number, pure=False).result() == number + 1
        taken.append((time.perf_counter() - began) * 1e3)
    return taken[WARM_UP:]


def maps(client: Client) -> list[float]:
    """What each map takes for an item; the first one is not counted."""
    taken = []
    for _ in range(1 + MAPS):
        began = time.perf_counter()
        values = client.gather(client.map(increment, range(ITEMS), pure=False))
        assert values == list(range(1, ITEMS + 1))
        taken.append((time.perf_counter() - began) * 1e3 / ITEMS)
    return taken[1:]


def main(what: str, folder: Path, port: int) -> None:
    """A scheduler and a worker behind the server."""
    options = {
        "port": port,
        "username": pwd.getpwuid(getuid()).pw_name,
        "client_keys": [str(folder / "user_key")],
        "known_hosts": None,
    }
    with (
        SSHCluster(
            ["127.0.0.1", "127.0.0.1"], connect_options=options, remote_python=sys.executable
        ) as cluster,
        Client(cluster) as client,
    ):
        print(json.dumps(maps(client) if what == "map" else calls(client)))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
