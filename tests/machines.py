"""Several real OpenSSH servers that are the machines of one run, without a stack: on this computer's loopback, or each on its own."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tests import namespaces
from tests.proxy import Proxy, proxy
from tests.sshd import Server, sshd


@contextlib.contextmanager
def machines(folder: Path, count: int, **how: Any) -> Iterator[list[Server]]:
    """Each with a home, a port and a host key of its own, and started `how`; the run's keys open all of them."""
    run_id = secrets.token_hex(16)
    folders = [folder / f"machine-{node}" for node in range(count)]
    with contextlib.ExitStack() as stack:
        how = {"run_id": run_id, "is_new": False, **how}
        servers = [stack.enter_context(sshd(each, **how)) for each in folders]
        login = (folders[0] / "authorized_keys").read_text()
        for each in folders[1:]:
            (each / "authorized_keys").write_text(login)
        yield [
            replace(
                server,
                machine=replace(
                    server.machine,
                    id=f"{server.machine.id}-{node}",
                    node=node,
                    inner_host="127.0.0.1",
                ),
                keys=servers[0].keys,
            )
            for node, server in enumerate(servers)
        ]


@contextlib.contextmanager
def machines_apart(
    folder: Path, count: int, **how: Any
) -> Iterator[tuple[list[Server], list[Proxy]]]:
    """As `machines`, each with a loopback of its own and no other network: only the client reaches them, through proxies."""
    with (
        machines(folder, count, own_network=True, **how) as servers,
        contextlib.ExitStack() as stack,
    ):
        ways = [
            stack.enter_context(
                proxy(each.machine.port, partial(namespaces.connected_within, each.pid))
            )
            for each in servers
        ]
        yield (
            [
                replace(server, machine=replace(server.through(way.port), inner_host=""))
                for server, way in zip(servers, ways, strict=True)
            ],
            ways,
        )
