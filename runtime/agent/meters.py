"""How much a process and all under it use: by /proc, or by ps."""

from __future__ import annotations

import os

from .asked import Asked
from .files import boot_clock_s
from .processes import descendants

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class ProcMeter:
    """What a tree of processes and its machine use, from /proc.

    Args:
        root: the process above the tree, not part of it; what its ended children took counts.
        session: of the tree.
        folder: on the disk whose room is told.
    """

    def __init__(self, root: int, session: int, folder: str) -> None:
        self._root, self._session, self._folder = root, session, folder
        self._tick_s = 1.0 / os.sysconf("SC_CLK_TCK")
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")
        self._cores = os.cpu_count() or 1
        self._at, self._took_s = boot_clock_s(), 0.0
        self._machine = self._machine_ticks()

    def read(self, without: set[int]) -> dict[str, Any]:
        """Give cores in use and bytes by the tree, share of the machine's cores, bytes of memory and of free disk."""
        table = self._table()
        parents = {pid: (parent, session) for pid, (parent, session, *_) in table.items()}
        tree = descendants({self._root}, parents)
        tree |= {pid for pid, (_, session) in parents.items() if session == self._session}
        tree -= without | {self._root}
        took_s = sum(table[pid][2] + table[pid][3] for pid in tree) + self._of_ended_children()
        rss = sum(table[pid][4] for pid in tree)
        used, memory = self._memory()
        return {
            "cpu": self._cores_in_use(took_s),
            "rss": rss,
            "processes": sum(1 for pid in tree if table[pid][5]),
            "busy": self._busy(),
            "cores": self._cores,
            "used": used,
            "memory": memory,
            "disk": _free_bytes(self._folder),
        }

    def read_ended(self) -> dict[str, Any]:
        """Give what the tree took since the last reading, where nothing of it is left."""
        took_s = self._of_ended_children()
        return {"cpu": self._cores_in_use(took_s)} if took_s >= self._took_s else {}

    def _cores_in_use(self, took_s: float) -> float:
        now, before, self._took_s = boot_clock_s(), self._took_s, took_s
        span_s, self._at = now - self._at, now
        # A process that ends while it is being looked at is seen twice, or not at all.
        share = (took_s - before) / span_s if span_s > 0 else 0.0
        return round(min(max(share, 0.0), float(self._cores)), 3)

    def _of_ended_children(self) -> float:
        fields = self._fields(self._root)
        return (int(fields[13]) + int(fields[14])) * self._tick_s if fields else self._took_s

    def _table(self) -> dict[int, tuple[int, int, float, float, int, bool]]:
        """Give parent, session, seconds of its own and of its ended children, bytes, and whether it lives, of every process."""
        table = {}
        for name in os.listdir("/proc"):
            fields = self._fields(int(name)) if name.isdigit() else []
            if fields:
                own, ended = (int(fields[n]) + int(fields[n + 1]) for n in (11, 13))
                table[int(name)] = (
                    int(fields[1]),
                    int(fields[3]),
                    own * self._tick_s,
                    ended * self._tick_s,
                    int(fields[21]) * self._page_bytes,
                    fields[0] not in (b"Z", b"X"),
                )
        return table

    @staticmethod
    def _fields(pid: int) -> list[bytes]:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                return file.read().rpartition(b")")[2].split()
        except OSError:
            return []

    @staticmethod
    def _machine_ticks() -> tuple[int, int]:
        """Give the ticks of all cores, and those in which they did nothing."""
        with open("/proc/stat", "rb") as file:
            ticks = [int(field) for field in file.readline().split()[1:9]]
        return sum(ticks), ticks[3] + ticks[4]

    def _busy(self) -> float:
        (all_before, idle_before), self._machine = self._machine, self._machine_ticks()
        total, idle = self._machine[0] - all_before, self._machine[1] - idle_before
        return round(min(max(1.0 - idle / total, 0.0), 1.0), 3) if total > 0 else 0.0

    @staticmethod
    def _memory() -> tuple[int, int]:
        with open("/proc/meminfo", "rb") as file:
            rows = dict(line.split()[:2] for line in file)
        total = int(rows[b"MemTotal:"]) << 10
        return total - (int(rows.get(b"MemAvailable:", rows[b"MemFree:"])) << 10), total


class PsMeter:
    """As ProcMeter, where there is no /proc: on macOS, from ps and vm_stat.

    There the time of a process that has ended is lost, and the machine's share is what ps has averaged over a minute.
    """

    def __init__(self, root: int, session: int, folder: str) -> None:
        self._root, self._session, self._folder = root, session, folder
        self._cores = os.cpu_count() or 1
        self._memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self._at = boot_clock_s()
        self._took: dict[int, float] = {}

    def read(self, without: set[int]) -> dict[str, Any]:
        columns = "pid=,ppid=,pgid=,rss=,time=,pcpu=,state="
        listing = Asked(["/bin/ps", "-axo", columns]).wait(10.0).words
        pages = Asked(["/usr/bin/vm_stat"]).wait(10.0).words
        return {
            **self.in_listing(listing, without),
            "used": self._used(pages),
            "disk": _free_bytes(self._folder),
        }

    def in_listing(self, listing: str, without: set[int]) -> dict[str, Any]:
        """Give all that `ps` tells of the tree and the machine."""
        rows = [line.split(None, 6) for line in listing.splitlines()]
        rows = [row for row in rows if len(row) == 7]
        parents = {int(row[0]): (int(row[1]), int(row[2])) for row in rows}
        tree = descendants({self._root}, parents)
        tree |= {pid for pid, (_, group) in parents.items() if group == self._session}
        tree -= without | {self._root}
        now, before = boot_clock_s(), self._took
        self._took = {int(row[0]): _ps_seconds(row[4]) for row in rows if int(row[0]) in tree}
        span_s, self._at = now - self._at, now
        took_s = sum(max(0.0, took - before.get(pid, 0.0)) for pid, took in self._took.items())
        share = sum(float(row[5].replace(",", ".")) for row in rows) / 100 / self._cores
        return {
            "cpu": round(min(took_s / span_s, float(self._cores)), 3) if span_s > 0 else 0.0,
            "rss": sum(int(row[3]) << 10 for row in rows if int(row[0]) in tree),
            "processes": sum(1 for row in rows if int(row[0]) in tree and row[6][0] != "Z"),
            "busy": round(min(share, 1.0), 3),
            "cores": self._cores,
            "memory": self._memory,
        }

    def read_ended(self) -> dict[str, Any]:
        return {}

    def _used(self, pages: str) -> int:
        """Give the bytes that are neither free nor could be at once."""
        size, free = 4096, 0
        for line in pages.splitlines():
            name, _, value = line.partition(":")
            if "page size of" in line:
                size = int(line.partition("page size of")[2].split()[0])
            elif name in ("Pages free", "Pages inactive", "Pages speculative"):
                free += int(value.strip(" ."))
        return max(0, self._memory - free * size)


def meter(root: int, session: int, folder: str) -> ProcMeter | PsMeter:
    """Give the meter of this platform."""
    kind = ProcMeter if os.path.isdir("/proc/self") else PsMeter
    return kind(root, session, folder)


def _ps_seconds(text: str) -> float:
    """Read "1:02.50", "2:03:04" or "1-02:03:04"."""
    days, _, clock = text.rpartition("-")
    seconds = 0.0
    for part in clock.split(":"):
        seconds = seconds * 60 + float(part.replace(",", "."))
    return seconds + (int(days) * 86400 if days else 0)


def _free_bytes(folder: str) -> int:
    statistics = os.statvfs(folder)
    return statistics.f_bavail * statistics.f_frsize
