"""`dayfly forward`: a port of a run's machine, on this computer."""

from __future__ import annotations

import contextlib
import time

import click

from dayfly.runtime.cli.common import with_node, with_run

_LOOK_S = 1.0


@click.command()
@with_run
@click.argument("ports", metavar="PORT[:LOCAL]")
@with_node
def forward(run: str, ports: str, node: int) -> None:
    """Reach a port of an open run's machine, or of one of them, on 127.0.0.1, through the run's own SSH.

    RUN is its id, or the beginning of it; PORT is of its machine's loopback, and LOCAL of this computer's: the same if left out, 0
    for any that is free.

    Prints the address, and goes on until the run ends, or Ctrl-C, which does nothing to the run.
    """
    from dayfly.runtime import admission
    from dayfly.runtime.attach import machine_of
    from dayfly.runtime.cli.listing import find_run
    from dayfly.runtime.cli.output import tell
    from dayfly.runtime.records import Keys
    from dayfly.runtime.session import Session

    remote, local = parsed(ports)
    _, history = find_run(run)
    machine = machine_of(history, node)
    admission.knock(history, tell, node)
    with (
        Session(machine, Keys.of(history.directory)) as session,
        session.forward(remote, local, lambda reason: tell(f"dayfly: {reason}")) as tunnel,
        contextlib.suppress(KeyboardInterrupt),
    ):
        print(tunnel.address, flush=True)
        while not history.closed:
            time.sleep(_LOOK_S)


def parsed(text: str) -> tuple[int, int]:
    """The port there and the one here.

    Raises:
        SpecError: the text names none.
    """
    from dayfly.errors import SpecError

    remote, colon, local = text.partition(":")
    if not remote.isdecimal() or (colon and not local.isdecimal()):
        raise SpecError(f"{text!r} names no port; write 8888, or 8888:9999 for port 9999 here")
    return int(remote), int(local if colon else remote)
