"""Several machines as one session, against real OpenSSH servers: what runs on them begins, fails and ends as one."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dayfly.errors import ConnectFailed, InstanceLost
from dayfly.runtime import payload, ranks, samples, stored
from dayfly.runtime.agent import frames, processes
from dayfly.runtime.display import Display
from dayfly.runtime.fleet import Fleet, _Ended, side_by_side
from dayfly.runtime.records import JobEnd, Task
from dayfly.runtime.run_log import RunLog
from dayfly.runtime.sample_log import SampleLog
from dayfly.runtime.session import SampleSink, Session, Sink
from tests.machines import machines
from tests.proxy import proxy
from tests.sshd import Server
from tests.warm import WAIT_S

pytestmark = pytest.mark.sshd


class Run:
    """One run on several servers, as its client has it."""

    def __init__(self, servers: list[Server], folder: Path) -> None:
        self.servers, self.keys = servers, servers[0].keys
        self.directory = folder / self.keys.run_id
        for node in range(1, len(servers)):
            ranks.folder(self.directory, node).mkdir(parents=True)
        (self.directory / "hmac_key").write_bytes(self.keys.hmac_key)
        self.stayed: list[int] = []

    def fleet(self, *, by_rank: bool = True, ports: dict[int, int] | None = None) -> Fleet:
        """The sessions; those of `ports` go through these, and are soon given up."""
        first, *others = (
            server.through(ports[node]) if ports and node in ports else server.machine
            for node, server in enumerate(self.servers)
        )
        return Fleet(
            first,
            self.keys,
            [Session(each, self.keys, give_up_s=0.2) for each in others],
            by_rank=by_rank,
            directory=self.directory,
            log=self.log,
            samples=self.samples,
            stay=lambda session: self.stayed.append(session.machine.node),
        )

    @contextlib.contextmanager
    def log(self, node: int) -> Iterator[tuple[Sink, int, int]]:
        """As Attendance keeps it."""
        with RunLog(ranks.log_folder(self.directory, node), Display.silent()) as log:
            yield log.take, log.size("stdout"), log.size("stderr")

    def samples(self, node: int) -> tuple[SampleSink, int]:
        """As Attendance keeps them."""
        kept = SampleLog(ranks.log_folder(self.directory, node), Display.silent())
        return kept.take, kept.last

    def begin(self, fleet: Fleet, function: Callable[..., Any], *arguments: Any) -> None:
        """Starts a function on each machine, with its rank."""
        meeting = ranks.rendezvous(fleet, len(self.servers))
        each = (fleet, *fleet.others)
        fleet.start(*(self.task(session, meeting, function, *arguments) for session in each))

    def task(
        self,
        session: Session,
        meeting: tuple[str, int],
        function: Callable[..., Any],
        *arguments: Any,
    ) -> Task:
        """For the interpreter of the tests themselves."""
        packed = bytes(payload.pack(function, arguments, {}).task)
        return Task(
            sealed=frames.seal(self.keys.hmac_key, self.keys.run_id, frames.TASK_SEQ, packed),
            python=os.path.realpath(sys.executable),
            pickler=payload.pickler_zip(self.directory.parent),
            variables=ranks.variables(session, len(self.servers), meeting),
            grace_s=2.0,
        )

    def follow(self, fleet: Fleet) -> JobEnd:
        """To the end, the first machine's log as the others'."""
        with self.log(0) as (sink, stdout, stderr):
            return fleet.follow(sink, stdout, stderr)

    def result(self, fleet: Fleet) -> Any:
        """What the caller gets."""
        fleet.fetch_result(self.directory / stored.RESULT)
        name = f"{self.keys.run_id}, rank {fleet.deciding}"
        return stored.value(self.directory, name)

    def alive(self, node: int) -> set[int]:
        """Processes of one machine's job."""
        job = self.servers[node].home / f"job-{self.keys.run_id}"
        return processes.carriers(f"DAYFLY_OUTPUT_DIR={job / 'outputs'}")

    def await_alive(self, node: int) -> None:
        """A job that goes on: its first process may be seen a moment after it was started."""
        until = time.monotonic() + WAIT_S
        while not self.alive(node):
            assert time.monotonic() < until, f"nothing of machine {node} is alive"
            time.sleep(0.01)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Two machines."""
    with machines(tmp_path, 2) as servers:
        yield Run(servers, tmp_path)


def meet() -> list[str]:
    """Each rank tells the first that it is there, where they are told to meet."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    print("here is", rank, flush=True)
    if rank:
        while True:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(place) as to:
                to.sendall(os.environ["HOME"].encode())
                return []
            time.sleep(0.01)
    homes = [os.environ["HOME"]]
    with socket.create_server(place) as listener:
        for _ in range(world - 1):
            connection, _ = listener.accept()
            with connection:
                homes.append(connection.makefile().read())
    return homes


def rest() -> None:
    """Long enough to be seen at it."""
    time.sleep(1.5)


def fail(rank: int, how: str) -> None:
    """One rank fails, the others would go on for long."""
    if int(os.environ["RANK"]) != rank:
        time.sleep(600)
    if how == "raise":
        raise KeyError("mine")
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_ranks_meet_and_the_first_one_s_value_is_the_run_s(run: Run) -> None:
    """Each in a home of its own, with a log of its own."""
    with run.fleet() as fleet:
        run.begin(fleet, meet)
        assert run.follow(fleet).how == "finished"
        assert run.result(fleet) == [str(server.home) for server in run.servers]
        assert fleet.status().state == "ended"
        fleet.acknowledge()
        assert all(each.own_status().acknowledged for each in (fleet, *fleet.others))
    assert sorted(run.stayed) == [0, 1]
    assert (run.directory / "stdout.log").read_text() == "here is 0\n"
    assert (run.directory / "ranks/1/stdout.log").read_text() == "here is 1\n"
    assert not list(run.directory.glob("ranks/*/result.sealed"))


def test_what_each_machine_uses_comes_home(run: Run) -> None:
    """That of another one beside its log; whoever follows next goes on there."""
    with run.fleet() as fleet:
        run.begin(fleet, rest)
        assert run.follow(fleet).how == "finished"
    found = samples.read_all(run.directory, 2)[1]
    assert found[0].memory_bytes > 1 << 20
    assert run.samples(1)[1] == found[-1].number


def test_an_exception_of_one_rank_ends_the_others_and_is_the_run_s(run: Run) -> None:
    """It names the rank; nothing of the others goes on."""
    with run.fleet() as fleet:
        run.begin(fleet, fail, 1, "raise")
        assert run.follow(fleet).how == "finished"
        with pytest.raises(KeyError, match="mine") as caught:
            run.result(fleet)
    assert f"{run.keys.run_id}, rank 1:" in "\n".join(caught.value.__notes__)
    assert run.alive(0) == set()


def test_a_rank_that_is_killed_ends_the_others_also_where_nobody_follows(run: Run) -> None:
    """Whoever looks next sees to that: the keeper, once the client is gone."""
    with run.fleet() as fleet:
        run.begin(fleet, fail, 0, "kill")
        while fleet.own_status().end is None:
            time.sleep(0.02)
    run.await_alive(1)
    with run.fleet() as fleet:
        status = fleet.status()
        assert (status.state, fleet.deciding) == ("ended", 0)
        assert status.end is not None
        assert (status.end.how, status.end.signal) == ("killed", signal.SIGKILL)
        assert run.follow(fleet).how == "killed"
    assert run.alive(1) == set()


def test_a_stop_ends_all_ranks(run: Run) -> None:
    """Asked of each, and told as one end."""
    with run.fleet() as fleet:
        run.begin(fleet, fail, -1, "")
        assert fleet.status().state == "running"
        assert fleet.stop().how == "stopped"
        assert run.follow(fleet).how == "stopped"
    assert run.alive(0) | run.alive(1) == set()


def test_a_machine_that_serves_the_first_one_ends_the_run_with_itself(run: Run) -> None:
    """And ends with it: what it serves has no use for the rest."""
    with run.fleet(by_rank=False) as fleet:
        run.begin(fleet, fail, 1, "kill")
        end = run.follow(fleet)
        assert (end.how, fleet.deciding) == ("killed", 1)
    assert run.alive(0) == set()


def test_a_run_that_was_stopped_has_ended_so_also_where_the_first_machine_is_silent(
    run: Run,
) -> None:
    """What served it has answered."""
    fleet = run.fleet(by_rank=False)
    fleet._ends[1] = _Ended(JobEnd("stopped", 0, 15, False, 1.0, 2.0), failed=True)
    assert (fleet._decide().how, fleet.deciding) == ("stopped", 1)


def test_what_serves_the_first_machine_ends_with_its_job(run: Run) -> None:
    """Whose end it is then."""

    def first_returns() -> str:
        if os.environ["RANK"] != "0":
            time.sleep(600)
        return "value"

    with run.fleet(by_rank=False) as fleet:
        run.begin(fleet, first_returns)
        assert (run.follow(fleet).how, fleet.deciding) == ("finished", None)
        assert run.result(fleet) == "value"
    assert run.alive(1) == set()


def test_a_rank_out_of_reach_leaves_all_of_them_as_they_are(run: Run) -> None:
    """Trouble on the way is no reason to end what goes on; the error names the rank."""
    with proxy(run.servers[1].machine.port) as between:
        with run.fleet(ports={1: between.port}) as fleet:
            run.begin(fleet, fail, -1, "")
            between.target = 1
            between.cut()
            with pytest.raises(InstanceLost, match=r"^rank 1: "):
                run.follow(fleet)
        run.await_alive(0)
        run.await_alive(1)


def test_machines_that_do_not_reach_each_other_are_refused(run: Run) -> None:
    """Before anything is started on them."""
    lonely = Session(dataclasses.replace(run.servers[0].machine, inner_host=""), run.keys)
    with pytest.raises(ConnectFailed, match="no address at which they reach each other"):
        ranks.rendezvous(lonely, 2)


def test_a_port_on_which_somebody_listens_is_not_free(run: Run) -> None:
    """On the machine's loopback, asked through its own connection."""
    with run.fleet() as fleet, socket.create_server(("127.0.0.1", 0)) as listener:
        assert fleet.listens(listener.getsockname()[1])
        assert not fleet.listens(ranks.free_port(fleet))


def test_what_is_done_side_by_side_is_all_done_before_the_first_error_comes() -> None:
    """So that nothing goes on behind whoever is told."""
    done: list[int] = []

    def act(number: int) -> int:
        done.append(number)
        if number == 1:
            raise ZeroDivisionError
        return number

    assert side_by_side([lambda: act(0), lambda: act(2)]) == [0, 2]
    with pytest.raises(ZeroDivisionError):
        side_by_side([lambda: act(1), lambda: act(3)])
    assert sorted(done) == [0, 1, 2, 3]
