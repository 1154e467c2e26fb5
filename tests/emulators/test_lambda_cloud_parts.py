"""The parts of the emulator that need no server: its pace, its options, how it reads user data, and its command line."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.emulators.lambda_cloud import (
    Emulator,
    Fault,
    Options,
    catalog,
    gpus,
)
from tests.emulators.lambda_cloud.clock import Clock
from tests.emulators.lambda_cloud.limiter import Limiter
from tests.emulators.lambda_cloud.schedule import Schedule
from tests.emulators.machines import addresses, user_data
from tests.emulators.machines.addresses import Addresses
from tests.emulators.machines.front import Front
from tests.emulators.machines.port_map import PortMap

pytestmark = pytest.mark.process

CHECKOUT = Path(__file__).parents[2]


class Hands(Clock):
    """A clock that a test turns."""

    time = 0.0

    def now(self) -> float:
        """What it was turned to."""
        return self.time


def admitted(limiter: Limiter, hands: Hands, times: list[float]) -> list[float]:
    """Those of the times at which a request is let in."""
    found = []
    for hands.time in times:
        if not limiter.wait_s():
            limiter.take()
            found.append(hands.time)
    return found


def test_a_limiter_keeps_its_interval() -> None:
    """Whoever asks all the time gets one in each; what it refuses does not count."""
    hands = Hands()
    times = [step / 8 for step in range(80)]
    assert admitted(Limiter(hands, 2.0, 0.0), hands, times) == [0.0, 2.0, 4.0, 6.0, 8.0]


def test_a_limiter_bears_jitter_and_no_more_than_that() -> None:
    """A little early is let in, and does not make the pace faster."""
    hands = Hands()
    limiter = Limiter(hands, 10.0, 0.1)
    assert admitted(limiter, hands, [0.0, 9.1, 18.1]) == [0.0, 9.1]
    assert limiter.wait_s() == pytest.approx(1.9)
    assert admitted(Limiter(hands, 0.0, 0.1), hands, [0.0, 0.0, 0.0]) == [0.0, 0.0, 0.0]


def test_a_clock_runs_as_fast_as_it_is_told() -> None:
    """And says how long that is on the wall."""
    assert Clock(100).real(12.0) == pytest.approx(0.12)
    assert Clock(1e6).now() > 0
    moved = Clock(1e-9)
    moved.advance(3600.0)
    assert moved.now() == pytest.approx(3600.0)


def test_a_schedule_keeps_the_order_of_times() -> None:
    """Not that in which they were given; what is due after its end never happens."""
    schedule = Schedule(Clock(1000))
    seen: list[int] = []
    ended = threading.Event()
    schedule.after(20.0, lambda: seen.append(2))
    schedule.after(30.0, ended.set)
    schedule.after(10.0, lambda: seen.append(1))
    schedule.after(1e9, lambda: seen.append(3))
    schedule.start()
    assert ended.wait(10)
    schedule.close()
    assert seen == [1, 2]


def test_a_schedule_follows_a_clock_that_is_moved_on() -> None:
    """What is due an hour later happens when that hour has passed at once."""
    clock, happened = Clock(), threading.Event()
    schedule = Schedule(clock)
    schedule.after(3600.0, happened.set)
    schedule.start()
    clock.advance(3600.0)
    schedule.look()
    assert happened.wait(10)
    schedule.close()


def test_options_come_back_as_they_went() -> None:
    """Over the command line's JSON."""
    options = Options(
        time_scale=3,
        capacity={"gpu_1x_a10": {"us-east-1": 2}},
        faults=(Fault("launch", "delay", at=(1, 2), delay_s=3),),
    )
    assert Options.from_json(json.loads(json.dumps(options.as_json()))) == options


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"boot": 1}, "unknown options boot; known: .*boot_s"),
        ({"time_scale": 0}, "time_scale"),
        ({"boot_s": -1}, "boot_s"),
        ({"capacity": {"gpu_1x_abacus": {}}}, "gpu_1x_abacus"),
        ({"capacity": {"gpu_1x_a10": {"mars-1": 1}}}, "mars-1"),
    ],
)
def test_options_that_cannot_be_are_refused(values: dict[str, Any], says: str) -> None:
    """By name."""
    with pytest.raises(ValueError, match=says):
        Options.from_json(values)


def test_every_type_with_gpus_has_some_to_show() -> None:
    """Of the number and the size that are sold, as the tools report them."""
    for each in catalog.TYPES.values():
        if each.gpus:
            shown = gpus.shown(each)
            assert shown is not None
            assert shown.count == each.gpus
            assert 0.93 < shown.memory_mib / 1024 / each.gpu_memory_gib < 1.03, each.name


@pytest.mark.parametrize(
    ("text", "ignored"),
    [
        ("", []),
        ("#!/bin/sh\necho hi\n", []),
        ("runcmd: [a]\n", ["no #cloud-config in the first line"]),
        ("#cloud-config\n[a]\n", ["not a mapping"]),
        ("#cloud-config\npower_state: {mode: poweroff}\nswap: {}\n", ["power_state", "swap"]),
    ],
)
def test_user_data_that_is_not_known_is_named(text: str, ignored: list[str]) -> None:
    """And never fails, as with cloud-init; the host keys are made anew either way."""
    parsed = user_data.parse(text)
    assert list(parsed.ignored) == ignored
    assert "ssh-keygen -q -t ed25519" in parsed.early


def test_user_data_that_is_no_yaml_is_named() -> None:
    """With what the parser says."""
    (why,) = user_data.parse("#cloud-config\n{").ignored
    assert why.startswith("not YAML")


def test_keys_of_an_image_can_be_kept() -> None:
    """Where the user data says so."""
    kept = user_data.parse("#cloud-config\nssh_deletekeys: false\nssh_genkeytypes: []\n")
    assert "rm" not in kept.early
    assert "ssh-keygen" not in kept.early


def test_a_port_map_is_whole_at_any_moment(tmp_path: Path) -> None:
    """A reader meanwhile never sees a part of it."""
    ports = PortMap(tmp_path / "map")
    read: list[int] = []
    done = threading.Event()

    def reading() -> None:
        while not done.is_set():
            read.append(len(json.loads((tmp_path / "map").read_text())))

    reader = threading.Thread(target=reading)
    reader.start()
    for number in range(200):
        ports.add(f"i-{number}", "127.0.0.1", number)
    done.set()
    reader.join()
    ports.drop("i-0")
    assert read
    assert json.loads((tmp_path / "map").read_text())["i-7"] == {"host": "127.0.0.1", "port": 7}
    assert len(json.loads((tmp_path / "map").read_text())) == 199


def test_an_address_is_nowhere_or_where_the_machine_is() -> None:
    """Each of them once, until it is given back."""
    for real, network in ((False, "198.51.100."), (True, "127.77.0.")):
        free = Addresses(real=real)
        count = len(free)
        taken = [free.take() for _ in range(count)]
        assert (len(set(taken)), len(free)) == (count, 0)
        assert taken[0].startswith(network)
        free.give(taken[3])
        assert free.take() == taken[3]


@pytest.mark.skipif(os.getuid() != 0, reason="port 22 needs root")
def test_machines_have_no_address_of_their_own_where_port_22_is_taken() -> None:
    """It is told before an instance is sold, with what to do."""
    with contextlib.ExitStack() as stack:
        # Somebody else may have it already.
        with contextlib.suppress(OSError):
            stack.enter_context(socket.create_server(("127.77.0.1", 22)))
        with pytest.raises(OSError, match=r"own_addresses: port 22 .* use DAYFLY_SSH_PORT_MAP"):
            addresses.check()


@pytest.mark.process
def test_a_person_gets_lines_to_paste() -> None:
    """One JSON line for programs, `export` lines for a shell; Ctrl-C ends it."""
    command = [sys.executable, "-m", "tests.emulators.lambda_cloud"]
    options = json.dumps({"machines": False, "time_scale": 20})
    with subprocess.Popen(
        [*command, "--options", options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
    ) as emulator:
        assert emulator.stdout is not None
        shown = json.loads(emulator.stdout.readline())
        emulator.send_signal(signal.SIGINT)
        _, said = emulator.communicate(timeout=20)
    assert emulator.returncode == 0
    assert said.splitlines() == [
        f"export LAMBDA_API_URL={shown['url']}",
        f"export LAMBDA_API_KEY={shown['api_key']}",
        f"export DAYFLY_SSH_PORT_MAP={shown['port_map']}",
        "export LAMBDA_TIME_SCALE=20",
    ]
    assert shown["url"].endswith("/api/v1")
    assert not Path(shown["log"]).exists(), "its temporary folder is left"


@pytest.mark.process
def test_what_cannot_start_says_why() -> None:
    """And the `with` block raises it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        cloud = Emulator(Options(machines=False), port=taken.getsockname()[1])
        with pytest.raises(RuntimeError, match=r"did not start: .*in use"), cloud:
            pass


def test_its_environment_makes_it_the_real_thing() -> None:
    """The key, the address, where its machines are, and how fast its time goes."""
    with Emulator(Options(machines=False, time_scale=10)) as cloud:
        assert set(cloud.environment()) == {
            "LAMBDA_API_URL",
            "LAMBDA_API_KEY",
            "DAYFLY_SSH_PORT_MAP",
            "LAMBDA_TIME_SCALE",
        }
        assert json.loads(Path(cloud.environment()["DAYFLY_SSH_PORT_MAP"]).read_text()) == {}
        assert os.getpid() != cloud.pid


@pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.5 is an address of Linux's loopback")
def test_a_firewall_lets_through_whom_its_rules_name_and_cuts_off_whom_they_name_no_more() -> None:
    """By the address that a connection comes from; the server behind it hears nothing of the others."""
    allowed = {"127.0.0.5"}

    def spoken(came_from: str) -> socket.socket:
        return socket.create_connection(("127.0.0.1", front.port), 10, (came_from, 0))

    with socket.create_server(("127.0.0.1", 0)) as server:
        front = Front(server.getsockname()[1], lambda address: address in allowed)
        try:
            with spoken("127.0.0.6") as barred:
                assert barred.recv(1) == b""
            with spoken("127.0.0.5") as client, server.accept()[0] as behind:
                client.sendall(b"to")
                assert behind.recv(2) == b"to"
                behind.sendall(b"fro")
                assert client.recv(3) == b"fro"
                front.look_again()
                client.sendall(b"!")
                assert behind.recv(1) == b"!"
                allowed.clear()
                front.look_again()
                assert (client.recv(1), behind.recv(1)) == (b"", b"")
        finally:
            front.close()


def test_firewalls_and_addresses_of_their_own_exclude_each_other() -> None:
    """What is in front of a machine is a port of its own."""
    with pytest.raises(ValueError, match="not with own_addresses"):
        Options(firewalls=True, own_addresses=True)
