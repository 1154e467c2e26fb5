"""Emulated instances are real machines: real logins, first boots by user data, lies of GPUs, and an end that leaves nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import paramiko
import psutil
import pytest

from tests.emulators.lambda_cloud import Emulator, Options
from tests.emulators.logins import (
    HostKey,
    booted,
    login,
    port,
    run,
    shown_key,
    sleeping,
    unauthenticated,
)
from tests.emulators.machines import box, inhabitants
from tests.emulators.plain_client import Client
from tests.emulators.until import until
from tests.sshd import write_key

pytestmark = [
    pytest.mark.sshd,
    pytest.mark.skipif(os.getuid() != 0, reason="namespaces and their sshd need root"),
]

QUICK = Options(
    request_interval_s=0,
    launch_interval_s=0,
    boot_s=0.1,
    ip_s=0.1,
    sshd_s=0,
    user_data_s=0,
    reboot_s=0.1,
    terminating_s=0.1,
    listing_lag_s=0,
)


@pytest.fixture(scope="module")
def cloud() -> Iterator[Emulator]:
    with Emulator(QUICK) as running:
        yield running


@pytest.fixture(scope="module")
def login_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "login"
    path.with_suffix(".pub").write_text(write_key(path))
    return path


@pytest.fixture(scope="module")
def api(cloud: Emulator, login_key: Path) -> Client:
    return _with_key(Client(cloud), login_key)


def _with_key(client: Client, login_key: Path) -> Client:
    public = login_key.with_suffix(".pub").read_text()
    assert client.post("/ssh-keys", {"name": "key", "public_key": public}).status == 200
    return client


@pytest.fixture
def host_key(tmp_path: Path) -> HostKey:
    return HostKey(tmp_path)


def states(cloud: Emulator, id: str) -> list[str]:
    """Of the machine's processes, as the kernel gives them: T is stopped."""
    (row,) = [row for row in cloud.live() if row["id"] == id]
    return [inhabitants.state(pid) for pid in row["pids"]]


def refuses(cloud: Emulator, id: str) -> bool:
    """Nothing listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port(cloud, id))) != 0


def left_of(namespaces: set[str]) -> list[int]:
    """Every process of this computer that is still in one of them."""
    return [pid for pids in inhabitants.of(namespaces).values() for pid in pids]


def namespaces(cloud: Emulator) -> set[str]:
    """Those of all living machines."""
    return {inhabitants.namespace(pid) for row in cloud.live() for pid in row["pids"]} - {
        "",
        inhabitants.namespace(os.getpid()),
    }


# -- the first boot


def test_a_client_sees_the_image_s_key_first_and_then_its_own(
    login_key: Path, host_key: HostKey
) -> None:
    """Until the user data is applied the machine shows a key that nobody has pinned."""
    with Emulator(Options(**vars(QUICK) | {"user_data_s": 1.0})) as cloud:
        api = _with_key(Client(cloud), login_key)
        id = api.launched(user_data=host_key.user_data(), hostname="node-1")
        until(lambda: shown_key(cloud, id) != "")
        assert shown_key(cloud, id) != host_key.public
        with login(cloud, id, login_key, host_key) as session:
            said = run(session, "whoami; hostname; echo $HOME; sudo -n id -u; echo $SSH_CONNECTION")
            assert said.split("\n")[:4] == ["ubuntu", "node-1", "/home/ubuntu", "0"]


def test_user_data_writes_files_and_runs_commands(
    api: Client, login_key: Path, host_key: HostKey
) -> None:
    """In cloud-init's order; what is not known here is named in the ground truth."""
    user_data = host_key.user_data(
        write_files=[
            {"path": "/etc/new/secret", "content": "it's\n", "permissions": "0600"},
            {"path": "/srv/b", "content": "YmFzZQ==", "encoding": "b64"},
        ],
        runcmd=["echo $((1 + 1)) >/srv/ran; false", ["sh", "-c", 'echo "$0" >>/srv/ran', "a b"]],
        packages=["cowsay"],
    )
    id = api.launched(user_data=user_data)
    with login(api.cloud, id, login_key, host_key) as session:
        assert run(session, "cloud-init status --wait") == "status: done"
        assert run(session, "cat /etc/new/secret /srv/b /srv/ran") == "it's\nbase2\na b"
        assert (
            run(session, "stat -c %a /etc/new/secret /etc/ssh/ssh_host_ed25519_key") == "600\n600"
        )
        assert run(session, "ls /etc/ssh/*key*").count("\n") == 1
        kept = run(session, "grep -rl 'PRIVATE KEY' /var/lib/cloud /run/cloud-init").splitlines()
        assert f"/var/lib/cloud/instances/{id}/user-data.txt" in kept
        assert "/run/cloud-init/instance-data-sensitive.json" in kept
    (applied,) = [each for each in api.cloud.events("user_data_applied") if each["instance"] == id]
    assert (applied["ignored"], applied["failed"]) == (["packages"], "")


def test_a_machine_without_user_data_makes_its_own_keys(api: Client, login_key: Path) -> None:
    """As cloud-init does, so that no two machines of an image have the same."""
    first, second = api.launched(), api.launched()
    until(lambda: booted(api.cloud, first) and booted(api.cloud, second))
    until(lambda: shown_key(api.cloud, first) not in ("", shown_key(api.cloud, second)))


def test_only_the_named_key_opens_it_and_only_for_ubuntu(
    api: Client, login_key: Path, host_key: HostKey, tmp_path: Path
) -> None:
    """Another key is refused, and so is root."""
    id = api.launched(user_data=host_key.user_data())
    write_key(tmp_path / "other")
    with login(api.cloud, id, login_key, host_key):
        pass
    for user, key in (("ubuntu", tmp_path / "other"), ("root", login_key)):
        with unauthenticated(api.cloud, id) as other:
            pkey = paramiko.Ed25519Key.from_private_key_file(str(key))
            with pytest.raises(paramiko.AuthenticationException):
                other.connect(username=user, pkey=pkey)


# -- isolation


def test_what_a_machine_writes_stays_in_it(
    api: Client, login_key: Path, host_key: HostKey, tmp_path: Path
) -> None:
    """Copy-on-write everywhere, its own /tmp and processes, and none of this computer's keys."""
    (tmp_path / "seen").touch()
    one = api.launched(user_data=host_key.user_data())
    two = api.launched(user_data=host_key.user_data())
    with (
        login(api.cloud, one, login_key, host_key) as first,
        login(api.cloud, two, login_key, host_key) as second,
    ):
        places = "/usr/canary /etc/canary /root/canary /tmp/canary /canary ~/canary /dev/shm/canary"
        made = run(first, f"touch {places} && rm /etc/hostname /etc/passwd && ls -d {places}")
        assert made.count("canary") == 7
        assert run(second, f"ls -d {places} 2>/dev/null; ls {tmp_path} 2>/dev/null") == ""
        run(first, "setsid sleep 4321 >/dev/null 2>&1 </dev/null &")
        assert "sleep 4321" in sleeping(first)
        assert "sleep 4321" not in sleeping(second)
    here = [Path(each).expanduser() for each in places.split() if not each.startswith("/dev")]
    assert not [each for each in here if each.exists()]
    assert Path("/etc/passwd").exists()


@pytest.mark.network
def test_packages_can_be_installed_on_it(api: Client, login_key: Path, host_key: HostKey) -> None:
    """It reaches the index that this computer reaches."""
    id = api.launched(user_data=host_key.user_data())
    with login(api.cloud, id, login_key, host_key) as session:
        said = run(session, "python3 -m pip download --no-deps -d got iniconfig 2>&1; ls got")
        assert "iniconfig-" in said.splitlines()[-1]


def test_a_file_system_outlives_the_machines_that_mount_it(
    api: Client, login_key: Path, host_key: HostKey
) -> None:
    """Whatever is at its mount point is there for the next one; the disk is not."""
    assert api.post("/filesystems", {"name": "kept", "region": "us-east-1"}).status == 200
    for command, said in (
        ("echo kept >/lambda/nfs/kept/a; echo lost >~/b", ""),
        ("cat /lambda/nfs/kept/a; ls ~", "kept"),
    ):
        id = api.launched(user_data=host_key.user_data(), file_system_names=["kept"])
        with login(api.cloud, id, login_key, host_key) as session:
            assert run(session, command) == said
        api.terminate(id)


# -- trouble


def test_a_dead_ssh_server_takes_its_connections_with_it_and_nothing_else(
    api: Client, login_key: Path, host_key: HostKey
) -> None:
    """What was detached goes on, and is met again when the server is back."""
    id = api.launched(user_data=host_key.user_data())
    with login(api.cloud, id, login_key, host_key) as session:
        run(session, "setsid sleep 4322 >/dev/null 2>&1 </dev/null &")
        api.cloud.kill_sshd(id)
        until(lambda: not session.is_active())
    until(lambda: refuses(api.cloud, id))
    assert api.status(id) == "active"
    api.cloud.start_sshd(id)
    with login(api.cloud, id, login_key, host_key) as session:
        assert "sleep 4322" in sleeping(session)


def test_a_machine_may_hang(api: Client, login_key: Path, host_key: HostKey) -> None:
    """Its connections stay, and nothing answers until it goes on; it can be terminated meanwhile."""
    id = api.launched(user_data=host_key.user_data())
    with login(api.cloud, id, login_key, host_key) as session:
        api.cloud.freeze(id)
        # What ended just before stays as a Z: its parent stands still too, and does not collect it.
        until(lambda: set(states(api.cloud, id)) - {"Z"} == {"T"})
        assert session.is_active()
        api.cloud.thaw(id)
        assert run(session, "echo on") == "on"
        api.cloud.freeze(id)
        api.terminate(id)
        until(lambda: api.status(id) == "terminated")


@pytest.mark.parametrize("how", ["halt", "sudo poweroff", "sudo shutdown -h now"])
def test_a_machine_that_is_off_still_costs_money(
    api: Client, login_key: Path, host_key: HostKey, how: str
) -> None:
    """Its row stays active; a restart brings it back with its disk and its host key."""
    id = api.launched(user_data=host_key.user_data(runcmd=["echo once >>/srv/boots"]))
    with login(api.cloud, id, login_key, host_key) as session:
        run(session, "cloud-init status --wait; touch ~/kept /usr/kept")
        if how == "halt":
            api.cloud.halt(id)
        else:
            run(session, how)
        until(lambda: refuses(api.cloud, id))
    assert api.status(id) == "active"
    assert id in [row["id"] for row in api.cloud.live()]
    assert api.post("/instance-operations/restart", {"instance_ids": [id]}).status == 200
    with login(api.cloud, id, login_key, host_key) as session:
        said = run(session, "ls -d ~/kept /usr/kept; cat /srv/boots")
        assert said == "/home/ubuntu/kept\n/usr/kept\nonce"


def test_a_shutdown_can_be_put_off(api: Client, login_key: Path, host_key: HostKey) -> None:
    """As the deadline that a client arms on the machine."""
    id = api.launched(user_data=host_key.user_data())
    with login(api.cloud, id, login_key, host_key) as session:
        run(session, "sudo shutdown -h +1")
        until(lambda: "sleep 60" in sleeping(session))
        run(session, "sudo shutdown -c")
        until(lambda: "sleep 60" not in sleeping(session))


def test_gpus_are_those_of_the_type_and_can_lie(
    api: Client, login_key: Path, host_key: HostKey
) -> None:
    """From the launch on or from now on; a type without GPUs has no nvidia-smi."""
    cuda = "python3 -c 'import ctypes; print(ctypes.CDLL(\"libcuda.so.1\").cuInit(0))'"
    uuids = "nvidia-smi --query-gpu=uuid --format=csv,noheader"
    api.cloud.lie_next("init")
    wanted = {"user_data": host_key.user_data(), "instance_type_name": "gpu_2x_a6000"}
    lying, honest = api.launched(**wanted), api.launched(**wanted)
    with login(api.cloud, lying, login_key, host_key) as session:
        assert run(session, "nvidia-smi -L").count("NVIDIA RTX A6000") == 2
        assert run(session, cuda) == "802"
        others = set(run(session, uuids).split())
        assert len(others) == 2
    with login(api.cloud, honest, login_key, host_key) as session:
        assert not set(run(session, uuids).split()) & others
        assert run(session, cuda) == "0"
        api.cloud.lie(honest, "count")
        until(lambda: run(session, "nvidia-smi -L").count("NVIDIA RTX A6000") == 1)
    plain = api.launched(**wanted | {"instance_type_name": "cpu_4x_general"})
    with login(api.cloud, plain, login_key, host_key) as session:
        assert "not found" in run(session, "nvidia-smi")
    for instance, lie in ((plain, "count"), (honest, "nonsense")):
        with pytest.raises(ValueError, match="lie"):
            api.cloud.lie(instance, lie)


# -- the end


def test_termination_leaves_no_process_no_disk_and_no_port(
    api: Client, login_key: Path, host_key: HostKey
) -> None:
    """Not even of what was forked twice into a session of its own."""
    id = api.launched(user_data=host_key.user_data())
    with login(api.cloud, id, login_key, host_key) as session:
        run(session, "(setsid sh -c 'sleep 4323 & sleep 4323' >/dev/null 2>&1 </dev/null &) ")
        (row,) = [row for row in api.cloud.live() if row["id"] == id]
        spaces = {inhabitants.namespace(row["pids"][0])}
        assert len(left_of(spaces)) >= 5
        disk = api.cloud.log.parent / "machines" / id
        assert disk.is_dir()
        api.terminate(id)
    until(lambda: api.status(id) == "terminated")
    assert left_of(spaces) == []
    until(lambda: not disk.exists())
    assert id not in json.loads(api.cloud.port_map.read_text())
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", row["port"])) != 0


def test_a_preempted_machine_is_gone_at_once(
    api: Client, login_key: Path, host_key: HostKey
) -> None:
    """Nobody asks it."""
    id = api.launched(user_data=host_key.user_data())
    with login(api.cloud, id, login_key, host_key) as session:
        api.cloud.mark(id, "preempted")
        until(lambda: not session.is_active())
    assert api.status(id) == "preempted"


@pytest.mark.process
@pytest.mark.parametrize("how", ["leave", "kill", "orphan"])
def test_no_machine_outlives_the_emulator(
    login_key: Path, host_key: HostKey, tmp_path: Path, how: str
) -> None:
    """Told to end, killed, or without the process that started it; what it has written stays."""
    with _another(tmp_path, how) as cloud:
        api = _with_key(Client(cloud), login_key)
        ids = [api.launched(user_data=host_key.user_data()) for _ in range(3)]
        until(lambda: all(booted(cloud, id) for id in ids))
        spaces = namespaces(cloud)
        assert len(spaces) == 3
        assert left_of(spaces)
    until(lambda: left_of(spaces) == [])
    assert [each["instance"] for each in cloud.events("launch_accepted")] == ids
    assert (cloud.events()[-1]["event"] == "ended") == (how != "kill")


@contextlib.contextmanager
def _another(folder: Path, how: str) -> Iterator[Emulator]:
    """An emulator that ends in one of three ways."""
    if how != "orphan":
        with Emulator(QUICK, folder=folder) as cloud:
            yield cloud
            if how == "kill":
                cloud.kill()
        return
    program = f"""
        import json, time
        from pathlib import Path
        from tests.emulators.lambda_cloud import Emulator, Options
        options = Options.from_json(json.loads({json.dumps(QUICK.as_json())!r}))
        with Emulator(options, folder=Path({str(folder)!r})) as cloud:
            print(json.dumps([cloud.url, cloud.api_key, cloud.pid, cloud._control]), flush=True)
            time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    checkout = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=checkout) as parent:
        assert parent.stdout is not None
        cloud = Emulator(QUICK, folder=folder)
        cloud.url, cloud.api_key, cloud.pid, cloud._control = json.loads(parent.stdout.readline())
        cloud.port_map, cloud.log = folder / "ports.json", folder / "truth.jsonl"
        yield cloud
        parent.send_signal(signal.SIGKILL)
    until(lambda: not psutil.pid_exists(cloud.pid))


def test_where_there_are_no_namespaces_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it sells anything, with what can be done."""
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    with pytest.raises(box.NoNamespaces, match=r"root.*machines=false"):
        box.check()
