"""Several machines in one stack with the real engine: ranks, a map, and nothing left of any of them."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import dayfly
from dayfly import cluster
from dayfly.errors import CallTimeout, JobKilled
from dayfly.infra import providers
from dayfly.runtime.context import Context
from dayfly.stacks import journal
from dayfly.stacks.receipt import Receipt
from tests import listening
from tests.engine.client import Client, wait_until_closed
from tests.engine.client import dayfly as command
from tests.sshd import carriers

pytestmark = [pytest.mark.engine, pytest.mark.sshd]


def left() -> list[Any]:
    """What the provider still lists of this test's owner."""
    return list(providers.load("local").inventory(Context.open().workspace.owner))


def meet() -> dict[int, str]:
    """The ranks meet where they are told to; the first tells who came, from which home."""
    rank = int(os.environ["RANK"])
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    print("here", flush=True)
    Path(os.environ["DAYFLY_OUTPUT_DIR"], "mine.txt").write_text(str(rank))
    while rank:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(place) as to:
            to.sendall(f"{rank} {os.environ['HOME']}".encode())
            return {}
        time.sleep(0.01)
    homes = {0: os.environ["HOME"]}
    with socket.create_server(place) as listener:
        while len(homes) < int(os.environ["WORLD_SIZE"]):
            connection, _ = listener.accept()
            with connection:
                came, _, home = connection.makefile().read().partition(" ")
                homes[int(came)] = home
    return homes


def test_ranks_meet_and_all_machines_are_proved_gone(capfd: pytest.CaptureFixture[str]) -> None:
    """Three machines in one stack, with one id, one receipt, and the log and outputs of each."""
    remote = cluster(provider="local", environment=[], time="10m", nodes=3, distributed="torchrun")(
        meet
    )
    job = remote.submit()
    homes = job.result(timeout=120)
    receipt = job.receipt(timeout=120)
    assert homes == {
        rank: str(job.directory / folder / "home")
        for rank, folder in enumerate(("machine", "machine-1", "machine-2"))
    }
    assert (receipt.destroyed, receipt.declared, receipt.left, receipt.how) == (6, 6, 0, "pulumi")
    assert sorted(job.logs()) == ["[0] here", "[1] here", "[2] here"]
    assert sorted(capfd.readouterr().out.splitlines()) == ["[0] here", "[1] here", "[2] here"]
    folders = [job.outputs, *(job.outputs.with_name(f"outputs-{rank}") for rank in (1, 2))]
    assert [(folder / "mine.txt").read_text() for folder in folders] == ["0", "1", "2"]
    history = journal.read(job.directory)
    assert len({machine.port for machine in history.machines}) == 3
    assert len({machine.host_key for machine in history.machines}) == 3
    assert not [*job.directory.glob("machine*"), *job.directory.glob("host_key*")]
    assert dayfly.attach(job.id).result() == homes
    assert left() == []


SCRIPT = """
import os
from dayfly import cluster


@cluster(provider="local", environment=[], nodes=2, distributed="torchrun", hold="1s", time="10m")
def work(flag):
    import os, time

    print("begun", flush=True)
    while os.environ["RANK"] != "1" or not os.path.exists(flag):
        time.sleep(0.02)
    raise KeyError("mine")


work(os.path.abspath("flag"))
"""


def test_ranks_without_a_client_fail_as_one_and_nothing_is_left(clean_environment: Path) -> None:
    """The keeper ends the rank that would go on, brings the error home, and destroys both machines."""
    with Client(clean_environment, 0, SCRIPT) as client:
        client.hear("[0] begun")
        client.hear("[1] begun")
        run = client.run
        client.signal(signal.SIGKILL)
        client.end()
    (clean_environment / "flag").touch()
    wait_until_closed(clean_environment, run)
    history = journal.read(clean_environment / "runs" / run)
    assert (history.field("job_ended", "how"), history.field("job_ended", "rank")) == (
        "finished",
        1,
    )
    told = command("result", run)
    assert told.returncode == 1
    assert "KeyError: 'mine'" in told.stderr
    assert f"run {run}, rank 1:" in told.stderr
    shown = command("logs", run).stdout.splitlines()
    assert sorted(shown) == ["[0] begun", "[1] begun"]
    assert left() == []


@pytest.mark.network
@pytest.mark.long
def test_a_map_is_made_by_two_machines(clean_environment: Path) -> None:
    """A call for it by itself, with what it needs in their environment; what else may come is `make test-nodes`."""

    @cluster(provider="local", environment=[], time="10m", nodes=2)
    def f(x: int) -> tuple[int, str]:
        time.sleep(0.1)
        return x * x, os.environ["HOME"]

    values = f.map(range(16))
    assert [value for value, _ in values] == [x * x for x in range(16)]
    (directory,) = (clean_environment / "runs").iterdir()
    wait_until_closed(clean_environment, directory.name)
    history = journal.read(directory)
    folders = (history.directory / "machine", history.directory / "machine-1")
    assert {home for _, home in values} == {str(folder / "home") for folder in folders}
    receipt = Receipt.of(history.directory)
    assert receipt is not None
    assert (receipt.destroyed, receipt.left) == (4, 0)
    assert left() == []


@pytest.mark.nodes
@pytest.mark.network
def test_a_map_is_made_by_four_machines_and_each_call_at_most_once(tmp_path: Path) -> None:
    """By Dask, which is only there; a call that crashes or takes too long costs itself alone."""

    @cluster(provider="local", environment=[], time="10m", nodes=4)
    def f(x: int) -> tuple[int, str]:
        with (tmp_path / f"begun-{x}").open("a") as begun:
            begun.write("x")
        if x == 3:
            raise KeyError("mine")
        if x == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600 if x == 6 else 0.1)
        return x * x, os.environ["HOME"]

    with f.session(slots=1) as s:
        assert s.slots == 4
        values = list(s.map(range(24), return_exceptions=True, timeout="4s"))
        page = urllib.request.urlopen(s.dashboard, timeout=30).read().decode()
        directory = s.directory
        places = {place for pid in carriers(s.id) for place in listening.of_process(pid)}
    assert "Dask" in page
    assert {address for address, _ in places} <= {"127.0.0.1"}
    assert places or sys.platform != "linux"
    errors = {x: type(value) for x, value in enumerate(values) if isinstance(value, Exception)}
    assert errors == {3: KeyError, 5: JobKilled, 6: CallTimeout}
    found = [value for value in values if not isinstance(value, Exception)]
    assert [number for number, _ in found] == [x * x for x in range(24) if x not in errors]
    homes = {home for _, home in found}
    assert homes == {str(directory / f"machine{n}" / "home") for n in ("", "-1", "-2", "-3")}
    assert {path.read_text() for path in tmp_path.iterdir()} == {"x"}
    receipt = s.receipt(timeout=120)
    assert (receipt.destroyed, receipt.left) == (8, 0)
    assert left() == []


def example(name: str, **variables: str) -> str:
    """What one of the README's examples of several machines prints."""
    script = Path(__file__).parents[2] / "examples" / name
    command, environment = [sys.executable, "-W", "error", str(script)], {**os.environ, **variables}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "local confirms 0 left" in done.stderr
    return done.stdout


@pytest.mark.nodes
@pytest.mark.network
def test_the_example_of_a_map_is_made_by_all_of_its_machines() -> None:
    """As the README has it."""
    lines = example("spread.py").splitlines()
    assert lines[-1] == "machines 4"
    assert re.search(r"^pi is about 3\.1\d+$", lines[-2])


@pytest.mark.nodes
@pytest.mark.network
def test_the_example_of_torch_trains_on_both_of_its_machines() -> None:
    """As the README has it, with the wheels that it names, where those can be had."""
    variables = {"UV_TORCH_BACKEND": "cpu"}
    resolve = [str(Path(sys.executable).parent / "uv"), "pip", "compile", "--quiet", "--python"]
    resolved = subprocess.run(
        [*resolve, sys.executable, "-"],
        input="torch\nnumpy\n",
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if resolved.returncode:
        pytest.skip(f"torch's wheels without CUDA cannot be had here: {resolved.stderr[-300:]}")
    said = example("ddp.py", **variables)
    assert re.search(r"^ranks +2$", said, re.MULTILINE)
    assert re.search(r"^weights apart +0$", said, re.MULTILINE)
    assert "[1] step  50" in said


@pytest.mark.nodes
@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="torch is not installed here; `pip install torch` has this test make a real step",
)
def test_a_data_parallel_step_of_torch_is_the_same_on_both_machines() -> None:
    """Over gloo, on this computer's loopback, with the torch that is installed here."""
    found = importlib.util.find_spec("torch")
    assert found is not None
    assert found.origin is not None
    site = str(Path(found.origin).parents[1])

    @cluster(provider="local", environment=[], time="10m", nodes=2, distributed="torchrun")
    def step() -> list[list[float]]:
        import sys

        # The machine is this computer: what is installed here need not be installed again.
        sys.path.append(site)
        torch = importlib.import_module("torch")
        dist = importlib.import_module("torch.distributed")
        parallel = importlib.import_module("torch.nn.parallel")
        dist.init_process_group("gloo")
        torch.manual_seed(dist.get_rank())  # the first rank's weights are everybody's
        model = parallel.DistributedDataParallel(torch.nn.Linear(2, 1))
        torch.nn.functional.mse_loss(model(torch.randn(8, 2)), torch.ones(8, 1)).backward()
        own = model.module.weight.grad.flatten()
        all_of_them = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(all_of_them, own)
        dist.destroy_process_group()
        return [each.tolist() for each in all_of_them]

    first, second = step()
    assert first == second
