"""Clients whose machine stays for further calls, and one with two machines: what each of them is promised when it dies."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.faults.victim import Cli, Victim

_SESSION = """
    with train.session(slots=2, linger=1) as s:
        calls = [s.submit(int(sys.argv[1]), sys.argv[2]) for _ in range(2)]
        for call in calls:
            print(repr(call.result()), flush=True)
"""
# The keeper ends the machine when nobody has come for it; who waits for that can be killed while it is kept, and while it goes.
_KEEP = """
    import time

    jobs = []
    for _ in range(2):
        jobs.append(train.submit(int(sys.argv[1]), sys.argv[2]))
        print(repr(jobs[-1].result()), flush=True)
    until = time.monotonic() + 30
    while time.monotonic() < until and not (jobs[0].directory / "receipt.json").exists():
        time.sleep(0.05)
"""
# None goes on before all are there; the first one speaks for them.
_MEET = """
    import contextlib, os, socket

    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if os.environ["RANK"] == "0":
        with socket.create_server(place) as listener:
            listener.accept()[0].close()
    else:
        tell = lambda what: None
        while True:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(place):
                break
            time.sleep(0.01)
"""


def _labelled(text: str, label: str) -> str:
    """The lines that begin with a label, without it."""
    lines = text.splitlines(keepends=True)
    return "".join(line.removeprefix(label) for line in lines if line.startswith(label))


class KeptVictim(Victim):
    """Two calls, the second on the kept machine of the first; each is a run with a result of its own."""

    @classmethod
    def of(cls, lines: int, pause_s: float, size: int) -> KeptVictim:
        """On this computer."""
        asked = 'provider="local", keep="2s"'
        return cls(lines, pause_s, size, asked, by_port=True, main=_KEEP)


class SessionVictim(Victim):
    """Two calls of a session, side by side.

    A value that the client has had is the client's; what it had not is in the run's own result, by call.
    """

    @classmethod
    def of(cls, lines: int, pause_s: float, size: int) -> SessionVictim:
        """On this computer."""
        return cls(lines, pause_s, size, by_port=True, main=_SESSION, calls=2)

    def _is_log(self, text: str, seed: int) -> bool:
        """Each call's lines under its number, all of them or, where it was never sent, none."""
        own = [_labelled(text, f"[{number}] ") for number in (1, 2)]
        whole = sum(map(len, own)) + len("[1] ") * sum(each.count("\n") for each in own)
        return whole == len(text) and all(each in ("", self.log(seed)) for each in own)

    def _wrong_value(self, value: str, seed: int) -> str:
        digests = set(_by_call(value).values())
        if value.startswith("{") and digests <= {self.digest(seed)}:
            return ""
        return f"attach gave {value[:200]!r}, not values by call"

    def kept(self, cli: Cli, home: Path, run: str, seed: int, finished: int = 1) -> str:
        """As of a Victim, for each call that has come to its end."""
        done = cli("result", run)
        left = {n for n, value in _by_call(done.stdout).items() if value == self.digest(seed)}
        had = _had(home / "runs" / run / "calls.jsonl")
        if len(left | had) >= finished:
            return ""
        return (
            f"{finished} calls have finished, the client has had {sorted(had)}, and `dayfly result` gives"
            f" {done.stdout.strip()[:200]} {done.stderr.strip()[:200]}"
        )


class RanksVictim(Victim):
    """One call on two machines, which begins when both ranks are there; the value is that of the first."""

    @classmethod
    def of(cls, lines: int, pause_s: float, size: int) -> RanksVictim:
        """On this computer."""
        asked = 'provider="local", nodes=2, distributed="torchrun"'
        return cls(lines, pause_s, size, asked, by_port=True, meet=_MEET)

    def _wrong_log(self, directory: Path, seed: int) -> str:
        for rank, folder in enumerate((directory, directory / "ranks" / "1")):
            log = folder / "stdout.log"
            brought = log.read_text() if log.exists() else ""
            if brought != self.log(seed):
                lines = brought.count("\n")
                return (
                    f"the log of rank {rank} has {lines} lines of {self.lines}, or in another order"
                )
        return ""

    def _is_log(self, text: str, seed: int) -> bool:
        own = [_labelled(text, f"[{rank}] ") for rank in (0, 1)]
        return own == [self.log(seed)] * 2 and text.count("\n") == 2 * self.lines


def _by_call(printed: str) -> dict[int, str]:
    """The digests in a result of calls, as it is printed."""
    return {int(n): digest for n, digest in re.findall(r"(\d+): (sha256:[0-9a-f]{64})", printed)}


def _had(ledger: Path) -> set[int]:
    """The calls whose value has come to the client."""
    if not ledger.exists():
        return set()
    entries = []
    for line in ledger.read_text().splitlines():
        if line.endswith("}"):  # The last one may have been cut short.
            entries.append(json.loads(line))
    return {int(entry["call"]) for entry in entries if entry["outcome"] == "value"}
