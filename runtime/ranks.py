"""Ranks: which part of a distributed function each machine of a stack is, and where what each has left is on this computer."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

from dayfly.errors import ConnectFailed, RunFailed, SpecError
from dayfly.runtime.run_log import STREAMS
from dayfly.runtime.surface import Stream

if TYPE_CHECKING:
    from dayfly.runtime.display import Display
    from dayfly.runtime.session import Session

# Below what systems give to outgoing connections, so that none of those has the port a moment later.
PORTS = range(20_000, 32_000)
_TRIES = 20


def check_node(node: int, nodes: int, run: str) -> None:
    """Refuses a number that none of a run's machines has.

    Raises:
        SpecError: says which they have.
    """
    if isinstance(node, bool) or not isinstance(node, int) or not 0 <= node < nodes:
        have = f"{nodes} machines, 0 to {nodes - 1}" if nodes > 1 else "one machine, which is 0"
        raise SpecError(f"node {node!r}: run {run[:12]} has {have}")


def folder(directory: Path, rank: int) -> Path:
    """Where a rank's result is kept until it is known which of them is the run's."""
    return directory / "ranks" / str(rank)


def log_folder(directory: Path, rank: int) -> Path:
    """Where a rank's log is kept: that of the first is the run's own."""
    return folder(directory, rank) if rank else directory


def logs(directory: Path) -> list[tuple[str, Path]]:
    """The folders with logs of a run, and what stands in front of the lines of each: "" where there is one alone."""
    found = (directory / "ranks").glob("*") if (directory / "ranks").is_dir() else ()
    others = sorted(int(entry.name) for entry in found if entry.name.isdigit())
    numbers = sorted({0, *others})
    if not others:
        return [("", directory)]
    return [(label(rank), log_folder(directory, rank)) for rank in numbers]


def label(rank: int) -> str:
    """What stands in front of a rank's lines."""
    return f"[{rank}] "


class RankDisplay:
    """Where the output of one rank is shown: by whole lines, each with its rank.

    Args:
        display: that of the job.
        rank: which it is.
    """

    def __init__(self, display: Display, rank: int) -> None:
        self._display = display
        self._label = label(rank).encode()
        self._held: dict[Stream, bytes] = dict.fromkeys(STREAMS, b"")

    def go_on(self, folder: Path) -> None:
        """Begins within the line that its log in this folder ends with, of which nothing is shown yet."""
        for stream in STREAMS:
            file = folder / f"{stream}.log"
            self._held[stream] = file.read_bytes().rpartition(b"\n")[2] if file.exists() else b""

    def output(self, stream: Stream, data: bytes) -> None:
        """What it has printed."""
        *lines, self._held[stream] = (self._held[stream] + data).split(b"\n")
        if lines:
            self._display.output(stream, b"".join(map(self._labelled, lines)))

    def _labelled(self, line: bytes) -> bytes:
        # A progress bar's own return to the start of the line must not eat the label.
        return self._label + line.rstrip(b"\r").replace(b"\r", b"\r" + self._label) + b"\n"

    def end(self) -> None:
        """Nothing follows: shows what stands behind the last line break."""
        for stream in STREAMS:
            if self._held[stream]:
                self.output(stream, b"\n")

    def warning(self, text: str) -> None:
        """As of the job."""
        self._display.warning(self._label.decode() + text)


def rendezvous(session: Session, nodes: int) -> tuple[str, int]:
    """Address and port on the first machine at which the ranks meet.

    Raises:
        ConnectFailed: the machines cannot reach each other.
    """
    machine = session.machine
    host = machine.inner_host
    if nodes > 1 and not host:
        raise ConnectFailed(
            f"machines of {machine.provider} have no address at which they reach each other"
        )
    for other in session.others:
        # Its SSH server is what surely listens there.
        if not other.reaches(host, machine.port):
            raise ConnectFailed(
                f"{other.machine.id} does not reach {machine.id} at {host}: the provider's network keeps the machines of"
                " one stack apart"
            )
    return host or "127.0.0.1", free_port(session)


def free_port(session: Session) -> int:
    """A port of the machine on which nobody listens.

    Raises:
        RunFailed: none was found.
    """
    for port in random.sample(PORTS, _TRIES):
        if not session.listens(port):
            return port
    raise RunFailed(
        f"{session.machine.id}: {_TRIES} ports were tried, and on each somebody listens"
    )


def variables(session: Session, nodes: int, meeting: tuple[str, int]) -> dict[str, str]:
    """What torchrun tells each of its processes; here there is one on each machine.

    Those that begin with PET_ are the options of torchrun itself, for a function that starts it for the GPUs of its
    machine.
    """
    rank, (address, port) = str(session.machine.node), meeting
    run = session.keys.run_id
    found = {
        **dict.fromkeys(("RANK", "GROUP_RANK", "ROLE_RANK", "PET_NODE_RANK"), rank),
        **dict.fromkeys(("WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"), str(nodes)),
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": run,
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "PET_NNODES": str(nodes),
        "PET_RDZV_BACKEND": "c10d",
        "PET_RDZV_ENDPOINT": f"{address}:{port}",
        "PET_RDZV_ID": run,
    }
    if address.startswith("127."):
        # Else both would take the interface that the host's name leads to, which others may reach.
        loopback = "lo0" if session.facts.platform.startswith("darwin") else "lo"
        found |= {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
    return found
