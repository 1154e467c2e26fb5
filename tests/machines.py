"""Several real OpenSSH servers on loopback that are the machines of one run, without a stack."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tests.sshd import Server, sshd


@contextlib.contextmanager
def machines(folder: Path, count: int) -> Iterator[list[Server]]:
    """Each with a home, a port and a host key of its own; the run's keys open all of them."""
    run_id = secrets.token_hex(16)
    folders = [folder / f"machine-{node}" for node in range(count)]
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(sshd(each, run_id=run_id, is_new=False)) for each in folders]
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
