"""Row `connect`: from nothing to the agent's first frame."""

from __future__ import annotations

from benchmarks import machine
from benchmarks.report import Row, Say
from dayfly.runtime.ssh.link import Link

_TRIALS = 10
_MOST = 0.5


def measure(say: Say) -> Row:
    """connect, log in, start the agent and have its first frame, against ssh host true; best of 10 in turn"""
    with machine.running() as bench:
        keys = bench.server.keys
        ssh = bench.ssh("true")

        def ours() -> float:
            link = Link(bench.server.machine, keys.user_key, keys.run_id, keys.hmac_key)
            took = machine.timed(lambda: link.open(20))
            link.close()
            return took * 1e3

        def peer() -> float:
            return machine.timed(lambda: machine.command(ssh)) * 1e3

        ours()  # A machine that was never spoken to has to compile the agent.
        value, other = machine.in_turn(_TRIALS, ours, peer, say)
    goal, holds = f"<= {_MOST:g} x peer", value <= _MOST * other
    return Row("connect", round(value, 2), "ssh true", round(other, 2), "ms", goal, holds)
