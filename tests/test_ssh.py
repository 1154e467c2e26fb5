"""A machine of one's own as a provider: what it is asked for, how it says no, and where it is looked for afterwards."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dayfly.errors import ConfigurationError, DayflyError, NoCapacity, SpecError
from dayfly.infra import (
    creations,
    fence,
    providers,
    ssh_environment,
    ssh_login,
    ssh_machine,
    ssh_records,
)
from dayfly.infra.found import Found
from dayfly.infra.run import Run, new_id
from dayfly.infra.spec import Spec
from dayfly.infra.ssh_failed import SshFailed, kind_of
from dayfly.infra.ssh_host import Place, SshHost, resolve
from dayfly.infra.ssh_login import Login
from dayfly.infra.ssh_resources import KeyProvider, ReadyProvider
from dayfly.runtime.ladder import ladder
from dayfly.runtime.records import Keys
from dayfly.runtime.session import Session
from dayfly.runtime.ssh.connection import Connection, Disconnected
from dayfly.stacks.engine import Engine
from dayfly.stacks.intent import make_key
from dayfly.stacks.workspace import Workspace
from tests.own_machine import OwnMachine, own_machine, reachable

pytestmark = pytest.mark.sshd

SSH = providers.load("ssh")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnMachine]:
    """The machine, and this process's way to it."""
    with own_machine(tmp_path / "own") as made, reachable(made, monkeypatch):
        yield made


@pytest.fixture
def run(clean_environment: Path) -> Run:
    """A run of this home, with a key of its own."""
    id, now = new_id(), time.time()
    directory = clean_environment / "runs" / id
    directory.mkdir(parents=True)
    key = make_key(directory / "user_key")
    return Run(id, "me", now, now + 3600, directory, key, "")


def _props(run: Run, host: str) -> dict[str, object]:
    return {
        "run": run.id,
        "owner": run.owner,
        "deadline": int(run.deadline),
        "directory": str(run.directory),
        "ssh_host": host,
        "tags": run.tags,
        "public_key": run.public_key,
    }


def _offers(machine: OwnMachine, **fields: object) -> object:
    return SSH.offers(Spec.from_options({"provider": "ssh", "host": machine.name, **fields}))


def test_it_has_to_be_named() -> None:
    """The message shows how."""
    with pytest.raises(SpecError, match='host="gpu-box"'):
        SSH.offers(Spec(provider="ssh"))


_CANNOT_BE: list[tuple[dict[str, object], str]] = [
    ({"nodes": 2}, "is one machine"),
    ({"keep": "10m"}, "stays anyway"),
    ({"region": "us-east-1"}, "leave it out"),
    ({"instance_type": "gpu_1x_a100"}, "leave it out"),
    ({"allow_cidr": "10.0.0.0/8"}, "leave it out"),
    ({"cores": 100_000}, "the nearest that fits is cores="),
    ({"memory": "900TB"}, "memory=900"),
    ({"disk": "900TB"}, "free; ask for less"),
    ({"gpu": "A100:1"}, "has no GPU"),
]


def test_what_it_cannot_be_is_told(machine: OwnMachine) -> None:
    """With the field and its value, before anything is done there."""
    for fields, says in _CANNOT_BE:
        with pytest.raises(SpecError, match=says):
            _offers(machine, **fields)
    assert machine.is_clean


def test_its_gpus_are_those_of_its_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the Offer has the first that is asked for."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA A100-SXM4-40GB, 40960'\n")
    (tools / "nvidia-smi").chmod(0o755)
    path = f"{tools}:{os.defpath}"
    with own_machine(tmp_path / "own", path=path) as made, reachable(made, monkeypatch):
        (offer,) = SSH.offers(Spec(provider="ssh", host=made.name, gpu="H100:1,A100:1"))
        assert (offer.gpus, offer.gpu_model, offer.gpu_memory_gb) == (
            1,
            "NVIDIA A100-SXM4-40GB",
            40.0,
        )
        assert (offer.usd_per_hour, offer.region, offer.provider) == (0.0, made.name, "ssh")
        with pytest.raises(SpecError, match="A100-SXM4-40GB"):
            SSH.offers(Spec(provider="ssh", host=made.name, gpu="A100:2"))


def test_an_unknown_host_key_is_an_error_with_the_command_that_makes_it_known(
    machine: OwnMachine,
) -> None:
    """And so is one that has changed, and a login that would ask a question; none of them is a busy rung."""
    known = machine.known.read_text()
    machine.known.write_text("")
    with pytest.raises(ConfigurationError, match=f"log in once with `ssh {machine.name}`"):
        _offers(machine)
    other = (machine.server.keys.user_key).with_name("other")
    machine.known.write_text(f"{known.partition(' ')[0]} {make_key(other)}\n")
    with pytest.raises(ConfigurationError, match=f"the one in {machine.known}:1; nothing was sent"):
        _offers(machine)
    machine.known.write_text(known)
    machine.config.write_text(machine.config.read_text().replace("user_key", "other"))
    with pytest.raises(ConfigurationError, match=f"ssh -o BatchMode=yes {machine.name} true"):
        _offers(machine)
    assert machine.is_clean


def test_a_machine_that_cannot_be_reached_has_no_capacity(machine: OwnMachine) -> None:
    """With ssh's own reason."""
    machine.also("down", "HostName 127.0.0.1", "Port 1")
    with pytest.raises(NoCapacity, match=r"host down cannot be reached: .*refused"):
        SSH.offers(Spec(provider="ssh", host="down"))
    assert kind_of("up failed: [code ssh/unreachable]") == "capacity"
    assert [kind_of(f"[code ssh/{code}]") for code in ("login", "lost", "python", "new")] == [
        "auth",
        "transient",
        "invalid",
        "unknown",
    ]


def test_a_machine_without_python_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is put there."""
    for code, words in ((127, "no python3 on its PATH"), (1, "ran no command, and ended with 1")):
        without = f"ForceCommand echo 'sh: 1: exec: nothing of the kind' >&2; exit {code}"
        with (
            own_machine(tmp_path / str(code), settings=without) as made,
            reachable(made, monkeypatch),
            pytest.raises(ConfigurationError, match=words),
        ):
            SSH.offers(Spec(provider="ssh", host=made.name))


def test_a_login_shell_that_talks_is_listened_past(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it says is nobody's answer."""
    with (
        own_machine(tmp_path / "own", settings=f"Banner {__file__}") as made,
        reachable(made, monkeypatch),
    ):
        (made.server.home / ".bashrc").write_text("echo hello; echo there >&2\n")
        assert SSH.offers(Spec(provider="ssh", host=made.name))


def test_a_key_comes_is_seen_and_goes(machine: OwnMachine, run: Run) -> None:
    """On record before it is there, and found by the host's own listing alone."""
    made = KeyProvider().create(_props(run, machine.name))
    assert made.id == f"{machine.name}/{run.id}"
    assert made.outs["host_key"] == machine.server.machine.host_key
    assert (made.outs["via"], made.outs["port"]) == ("", machine.server.machine.port)
    ReadyProvider().create({"run": run.id, "ssh_host": machine.name, "host_key": ""})
    (found,) = SSH.inventory("me")
    assert (found.kind, found.id, found.run, dict(found.tags)) == (
        "instance",
        made.id,
        run.id,
        run.tags,
    )
    assert SSH.inventory("somebody-else") == []
    assert SSH.instance_state(made.id) == "running"
    assert SSH.address(made.id) == ("127.0.0.1", machine.server.machine.port)
    (record,) = ssh_records.open_ones()
    assert (record.run, record.host) == (run.id, machine.name)
    SSH.terminate(found)
    assert machine.is_clean
    assert SSH.instance_state(made.id) == "terminated"
    assert [c.outcome for c in creations.read(run.directory)] == ["deleted"]
    machine.config.write_text("Host *\n Port 1\n HostName 127.0.0.1\n")
    # All that is known by now: nobody has to be asked.
    assert SSH.inventory(None) == []
    KeyProvider().delete(made.id, made.outs)
    SSH.terminate(found)


def test_a_process_without_a_key_is_found_and_ended(machine: OwnMachine, run: Run) -> None:
    """Somebody may have taken the key out by hand."""
    made = KeyProvider().create(_props(run, machine.name))
    machine.keys.write_text(machine.before)
    process = subprocess.Popen(["sleep", "99"], env={"DAYFLY_RUN": run.id, "PATH": os.defpath})
    try:
        assert SSH.instance_state(made.id) == "terminated"
        (found,) = SSH.inventory("me")
        assert (found.kind, found.run) == ("process", run.id)
        SSH.terminate(found)
        assert process.wait(5) < 0
        assert SSH.inventory(None) == []
        assert ssh_records.open_ones() == []
    finally:
        process.kill()
        process.wait()


def test_what_a_host_does_not_show_any_more_is_not_asked_for_for_ever(
    machine: OwnMachine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another computer has closed the run, say; but what may still be on its way is."""
    made = KeyProvider().create(_props(run, machine.name))
    machine.keys.write_text(machine.before)
    (machine.server.home / f"job-{run.id}").mkdir()
    (found,) = SSH.inventory("me")
    assert (found.kind, found.id) == ("disk", f"{made.id}/job-{run.id}")
    (machine.server.home / f"job-{run.id}").rmdir()
    monkeypatch.setattr(ssh_records, "LATE_CREATE_S", 0.0)
    assert SSH.inventory("me") == []
    assert ssh_records.open_ones()
    fence.shut(run.directory)
    with monkeypatch.context() as early:
        early.setattr(ssh_records, "LATE_CREATE_S", 600.0)
        assert SSH.inventory("me") == []
        assert ssh_records.open_ones()
    assert SSH.inventory("me") == []
    assert ssh_records.open_ones() == []


def test_a_host_that_cannot_be_reached_leaves_nothing_concluded(
    machine: OwnMachine, run: Run
) -> None:
    """Nobody may take its silence for absence."""
    made = KeyProvider().create(_props(run, machine.name))
    config = machine.config.read_text()
    machine.config.write_text("Host *\n Port 1\n HostName 127.0.0.1\n")
    for ask in (
        lambda: SSH.inventory("me"),
        lambda: SSH.instance_state(made.id),
        lambda: SSH.terminate(Found("instance", made.id, run.tags)),
    ):
        with pytest.raises(DayflyError, match="cannot be reached"):
            ask()
    assert SSH.is_configured()
    machine.config.write_text(config)
    # Of another run on another host it says nothing either.
    other = ssh_records.Record(new_id(), "down", "me", str(run.directory), 0.0, 0.0)
    machine.also("down", "HostName 127.0.0.1", "Port 1")
    ssh_records.write(other)
    with pytest.raises(DayflyError, match="down cannot be reached"):
        SSH.inventory("me")
    assert [found.id for found in SSH.left_of(run.id, "me")] == [made.id]
    KeyProvider().delete(made.id, made.outs)
    assert machine.is_clean


def test_what_was_never_greeted_is_refused_for_good(machine: OwnMachine, run: Run) -> None:
    """So that another rung may be taken at once; an answer that was lost is not."""
    machine.also("down", "HostName 127.0.0.1", "Port 1")
    with pytest.raises(SshFailed, match="ssh/unreachable"):
        KeyProvider().create(_props(run, "down"))
    assert [c.outcome for c in creations.read(run.directory)] == ["refused"]
    assert ssh_records.open_ones() == []


def test_an_answer_that_is_lost_leaves_it_open(
    machine: OwnMachine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key may be there, and is looked for."""
    own = Login.ask

    def cut(self: Login, request: dict[str, object], timeout_s: float = 60.0, **how: Any) -> object:
        answer = own(self, request, timeout_s, **how)
        if request["op"] == "put":
            raise SshFailed("lost", "cut")
        return answer

    monkeypatch.setattr(Login, "ask", cut)
    with pytest.raises(SshFailed, match="ssh/lost"):
        KeyProvider().create(_props(run, machine.name))
    assert [c.outcome for c in creations.read(run.directory)] == ["open"]
    (found,) = SSH.inventory("me")
    SSH.terminate(found)
    assert machine.is_clean


def test_nothing_is_put_there_once_the_run_is_being_closed(machine: OwnMachine, run: Run) -> None:
    """The fence is asked first."""
    fence.shut(run.directory)
    with pytest.raises(fence.FenceShut):
        KeyProvider().create(_props(run, machine.name))
    assert machine.is_clean


def test_a_server_that_reads_other_keys_is_told_of_at_once(machine: OwnMachine, run: Run) -> None:
    """Not after a minute of tries, and with where to look."""
    link = machine.keys.parents[2] / "authorized_keys"
    link.unlink()
    link.write_text(machine.before)
    made = KeyProvider().create(_props(run, machine.name))
    with pytest.raises(SshFailed, match="AuthorizedKeysFile"):
        ReadyProvider().create({"run": run.id, "ssh_host": machine.name, "host_key": ""})
    KeyProvider().delete(made.id, made.outs)
    assert machine.is_clean


def test_a_key_is_let_in_until_its_run_s_deadline_and_no_longer(
    machine: OwnMachine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the machine itself: this computer may be gone for good."""
    monkeypatch.setattr(ssh_machine, "_MARGIN_S", -3600.0)
    record = ssh_records.Record(
        run.id,
        machine.name,
        "me",
        str(run.directory),
        time.time() - 1,
        time.time(),
        machine.server.machine.host_key,
    )
    ssh_records.write(record)
    place = resolve(SshHost.parse(machine.name))
    ssh_machine.put(record, place, run.tags, run.public_key)
    with pytest.raises(SshFailed, match="ssh/login"):
        ssh_machine.try_key(record)
    # As the user's own login, then.
    ssh_machine.take_away(machine.name, run.id)
    assert machine.is_clean


@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
def test_a_session_takes_the_host_key_that_is_known_whatever_its_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run, kind: str
) -> None:
    """Also where the server has an ed25519 key, too, which nobody here has seen."""
    key = tmp_path / "host"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", key], check=True)
    public = " ".join(key.with_suffix(".pub").read_text().split()[:2])
    with (
        own_machine(tmp_path / "own", settings=f"HostKey {key}") as made,
        reachable(made, monkeypatch),
    ):
        made.known.write_text(f"{made.known.read_text().partition(' ')[0]} {public}\n")
        outs = KeyProvider().create(_props(run, made.name)).outs
        assert outs["host_key"] == public
        ReadyProvider().create({"run": run.id, "ssh_host": made.name, "host_key": public})
        machine = made.server.machine
        its = dataclasses.replace(machine, host_key=public)
        keys = Keys(run.id, run.directory / "user_key", b"k" * 32)
        with Session(its, keys, connect_timeout_s=20) as session:
            assert session.host_key == public
            # The run's key opens no less than a cloud's: `dayfly forward` works.
            with (
                session.forward(machine.port, 0, print) as tunnel,
                socket.create_connection(("127.0.0.1", tunnel.port)) as through,
            ):
                assert through.recv(4) == b"SSH-"
        ssh_machine.take_away(made.name, run.id)
        assert made.is_clean


def test_a_record_that_cannot_be_read_is_an_error(run: Run, clean_environment: Path) -> None:
    """It says where a key is, and nobody may pass over that."""
    ssh_records.write(ssh_records.Record(run.id, "box", "me", str(run.directory), 1.0, 0.0))
    file = clean_environment / "ssh-hosts" / f"{run.id}.json"
    file.write_text(json.dumps({"run": run.id}))
    with pytest.raises(DayflyError, match=str(file)):
        SSH.inventory("me")


def test_records_of_what_is_gone_are_forgotten_in_time(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at once: somebody may ask what has become of it."""
    record = ssh_records.Record(run.id, "box", "me", str(run.directory), 1.0, 0.0)
    ssh_records.gone(record)
    assert ssh_records.of(run.id) is not None
    assert ssh_records.open_ones() == []
    monkeypatch.setattr(ssh_records, "_KEEP_GONE_S", -1.0)
    ssh_records.gone(ssh_records.Record(new_id(), "box", "me", str(run.directory), 1.0, 0.0))
    assert ssh_records.of(run.id) is None


def test_a_host_that_is_known_through_an_authority_is_refused_where_it_tells_no_key(
    machine: OwnMachine, run: Run
) -> None:
    """A session pins a key, and this machine's is not where OpenSSH keeps them."""
    folder, key = machine.known.parent, machine.server.log.with_name("host_key")
    make_key(folder / "authority")
    for file in (folder / "authority", key):
        done = subprocess.run(["ssh-keygen", "-y", "-f", file], capture_output=True, check=True)
        file.with_suffix(".pub").write_bytes(done.stdout)
    signing = ["ssh-keygen", "-q", "-h", "-I", "box", "-s", str(folder / "authority")]
    subprocess.run([*signing, str(key.with_suffix(".pub"))], check=True)
    config = key.with_name("config")
    config.write_text(f"HostCertificate {key}-cert.pub\n{config.read_text()}")
    os.kill(machine.server.pid, signal.SIGHUP)
    authority = (folder / "authority.pub").read_text()
    machine.known.write_text(f"@cert-authority {machine.known.read_text().split()[0]} {authority}")
    until = time.monotonic() + 10
    # It takes a moment until the server has read its new configuration.
    while (refused := _refusal(machine)) and "ssh-keyscan" not in refused:
        assert time.monotonic() < until, refused
        time.sleep(0.1)
    assert refused
    # Behind that look nothing is certain any more: the key may be in, and is looked for.
    with pytest.raises(ConfigurationError, match="ssh-keyscan"):
        KeyProvider().create(_props(run, machine.name))
    assert [c.outcome for c in creations.read(run.directory)] == ["open"]
    ssh_machine.take_away(machine.name, run.id)
    assert machine.is_clean


def _refusal(machine: OwnMachine) -> str:
    try:
        _offers(machine)
    except (ConfigurationError, NoCapacity) as refused:
        return str(refused)
    return ""


def test_a_host_that_cannot_be_is_refused_when_the_spec_is_made() -> None:
    """And not by a rung that is left for the next one."""
    for host in ("bad host!", "box:99999", "-oProxyCommand=x"):
        with pytest.raises(SpecError, match="is no host that"):
            Spec(provider=["ssh", "lambda"], host=host)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, 'needs host=, the machine that is there already: write host="gpu-box"'),
        ({"host": "box", "keep": "10m"}, "stays anyway"),
        ({"host": "box", "nodes": 2}, "is one machine"),
    ],
)
def test_a_mistake_is_no_reason_to_rent_a_machine(fields: dict[str, Any], says: str) -> None:
    """Whatever else the ladder has."""
    for live in (True, False):
        with pytest.raises(SpecError, match=says):
            ladder(Spec(provider=["ssh", "local"], **fields), to_run=False, live=live)


def test_a_fast_plan_asks_no_host(machine: OwnMachine) -> None:
    """What this process has been told before is enough, and nothing else is."""
    spec = Spec(provider="ssh", host=machine.name)
    with pytest.raises(SpecError, match="is not asked in a fast plan"):
        SSH.catalog_offers(spec)
    notes: list[str] = []
    both = Spec(provider=["ssh", "local"], host=machine.name)
    offers = ladder(both, notes.append, to_run=False, live=False)
    assert {offer.provider for offer in offers} == {"local"}
    assert "is not asked in a fast plan" in notes[0]
    assert "Accepted publickey" not in machine.server.log.read_text()
    asked = SSH.offers(spec)
    assert SSH.catalog_offers(spec) == asked


def test_a_host_that_lets_in_and_says_nothing_is_not_out_of_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """Nothing was put there, and no other machine is taken for it."""
    with (
        own_machine(tmp_path / "own", settings="ForceCommand sleep 99") as made,
        reachable(made, monkeypatch),
        pytest.raises(SshFailed, match="let this computer in, and did not begin") as failed,
    ):
        Login.own(SshHost.parse(made.name)).ask({"op": "probe"}, 3.0)
    assert failed.value.did_nothing
    assert kind_of(str(failed.value)) == "invalid"


def test_a_revoked_host_key_is_told_as_such(machine: OwnMachine) -> None:
    """To answer yes would be the worst thing to do."""
    machine.known.write_text(f"@revoked {machine.known.read_text()}")
    with pytest.raises(ConfigurationError, match="@revoked") as refused:
        _offers(machine)
    assert "answer yes" not in str(refused.value)


def test_a_process_with_many_open_files_can_ask(machine: OwnMachine) -> None:
    """As one that follows a thousand runs has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    opened: list[int] = []
    try:
        while not opened or opened[-1] < 1024:
            opened.append(os.open(os.devnull, os.O_RDONLY))
        assert _offers(machine)
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_ssh_has_the_same_environment_in_a_plan_as_in_the_engine(
    machine: OwnMachine, monkeypatch: pytest.MonkeyPatch, workspace: Workspace, engine: Engine
) -> None:
    """A variable that the run's own ssh would not have is none that a plan may lean on, and the error says so."""
    seen, script = machine.config.with_name("seen"), machine.config.with_name("proxy")
    script.write_text(f'#!/bin/sh\nenv > "{seen}"\nexit 1\n')
    script.chmod(0o755)
    machine.also("behind", f"ProxyCommand {script}")
    for name in (*ssh_environment.NAMES, "LC_TIME", "MINE"):
        monkeypatch.setenv(name, "/bin/sh" if name == "SHELL" else "x")
    with pytest.raises(ConfigurationError, match=r"environment what docs/ssh\.md lists"):
        SSH.offers(Spec(provider="ssh", host="behind"))
    names = {line.partition("=")[0] for line in seen.read_text().splitlines()}
    assert {*ssh_environment.NAMES, "LC_TIME", "HOME", "PATH"} <= names
    assert "MINE" not in names
    given = ssh_environment.of_ssh()
    its = workspace.environment(engine, "", SSH)
    assert {name: its.get(name) for name in given} | {"PATH": ""} == given | {
        "PATH": "",
        "SSH_ASKPASS_REQUIRE": None,
    }
    keeper = workspace.bare_environment() | workspace.credentials(SSH)
    assert set(given) - {"SSH_ASKPASS_REQUIRE"} <= set(keeper)
    page = (Path(__file__).parents[1] / "docs/ssh.md").read_text()
    assert all(f"`{name}`" in page for name in ssh_environment.NAMES)


def test_what_is_known_of_a_host_key_is_not_written_again(tmp_path: Path) -> None:
    """Another process may be reading it just now."""
    place = Place("127.0.0.1", 22, "me", "", "box", ())
    Login.of_run("box", place, "ssh-ed25519 AAAA", tmp_path)
    file = tmp_path / "known_hosts.ssh"
    before = file.stat()
    with file.open() as opened:
        Login.of_run("box", place, "ssh-ed25519 AAAA", tmp_path)
        assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
        Login.of_run("box", place, "ssh-ed25519 BBBB", tmp_path)
        assert opened.read() == f"dayfly-{tmp_path.name} ssh-ed25519 AAAA\n"
    assert file.read_text() == f"dayfly-{tmp_path.name} ssh-ed25519 BBBB\n"


def test_a_run_that_has_put_nothing_anywhere_does_not_hang_on_another_s_host(
    machine: OwnMachine, run: Run
) -> None:
    """Once nothing more can be sent for it; a run that nothing is known of here is looked for everywhere."""
    machine.also("down", "HostName 127.0.0.1", "Port 1")
    other = ssh_records.Record(new_id(), "down", "me", str(run.directory), 0.0, 0.0)
    ssh_records.write(other)
    for id in (run.id, new_id()):
        with pytest.raises(DayflyError, match="down cannot be reached"):
            SSH.left_of(id, "me")
    fence.shut(run.directory)
    with pytest.raises(DayflyError, match="down cannot be reached"), _passing(run.directory):
        SSH.left_of(run.id, "me")
    assert SSH.left_of(run.id, "me") == []
    # Its key was sent, and the record of where is lost.
    creations.begin(run.directory, "instance")
    with pytest.raises(DayflyError, match="down cannot be reached"):
        SSH.left_of(run.id, "me")


@contextlib.contextmanager
def _passing(directory: Path) -> Iterator[None]:
    with (directory / fence.FILE).open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        yield


def test_a_run_that_is_closed_while_its_host_is_connected_to_sends_no_key(
    machine: OwnMachine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fence is looked at once more when the machine is there, and nothing is on record that was never sent."""
    greeted = ssh_login._Conversation.read_up_to

    def shut_meanwhile(self: ssh_login._Conversation, mark: bytes) -> None:
        greeted(self, mark)
        assert creations.read(run.directory) == ()
        assert ssh_records.of(run.id) is None
        fence.shut(run.directory)

    monkeypatch.setattr(ssh_login._Conversation, "read_up_to", shut_meanwhile)
    with pytest.raises(fence.FenceShut):
        KeyProvider().create(_props(run, machine.name))
    assert creations.read(run.directory) == ()
    assert SSH.left_of(run.id, "me") == []
    assert machine.is_clean


def test_a_key_that_is_long_on_its_way_is_not_put_in_any_more(
    machine: OwnMachine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sender may be dead by then: whoever has seen that nothing came of it was right."""
    monkeypatch.setattr(ssh_records, "PUT_WITHIN_S", 0.5)
    send = ssh_login._Conversation.send

    def late(self: ssh_login._Conversation, request: dict[str, object]) -> None:
        (record,) = ssh_records.open_ones()
        assert time.time() - record.at < 5
        assert [c.outcome for c in creations.read(run.directory)] == ["open"]
        time.sleep(0.7)
        send(self, request)

    monkeypatch.setattr(ssh_login._Conversation, "send", late)
    with pytest.raises(SshFailed, match="after it was let in"):
        KeyProvider().create(_props(run, machine.name))
    assert machine.is_clean


def test_a_second_attempt_that_does_not_get_there_leaves_the_first_on_record(
    machine: OwnMachine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first may have put the key in; and each that is sent has its time to arrive."""
    send = ssh_login._Conversation.send

    def cut(self: ssh_login._Conversation, request: dict[str, object]) -> None:
        send(self, request)
        raise SshFailed("lost", "cut")

    with monkeypatch.context() as cutting, pytest.raises(SshFailed, match="ssh/lost"):
        cutting.setattr(ssh_login._Conversation, "send", cut)
        KeyProvider().create(_props(run, machine.name))
    (first,) = creations.read(run.directory)
    config = machine.config.read_text()
    machine.config.write_text("Host *\n Port 1\n HostName 127.0.0.1\n")
    with pytest.raises(SshFailed, match="ssh/unreachable"):
        KeyProvider().create(_props(run, machine.name))
    assert creations.read(run.directory) == (first,)
    assert [record.run for record in ssh_records.open_ones()] == [run.id]
    machine.config.write_text(config)
    KeyProvider().create(_props(run, machine.name))
    (second,) = creations.read(run.directory)
    assert (second.token, second.outcome) == (first.token, "answered")
    assert second.begun > first.begun
    ssh_machine.take_away(machine.name, run.id)
    assert machine.is_clean


def test_a_line_of_a_run_that_was_seen_gone_is_taken_out_all_the_same(
    machine: OwnMachine, run: Run
) -> None:
    """To ask once more costs a login."""
    made = KeyProvider().create(_props(run, machine.name))
    record = ssh_records.of(run.id)
    assert record is not None
    ssh_records.gone(record)
    KeyProvider().delete(made.id, made.outs)
    assert machine.is_clean


def test_a_jump_that_leads_nowhere_says_why(machine: OwnMachine, run: Run) -> None:
    """In the error of whoever wanted a session."""
    server = machine.server.machine
    machine.also("lost", "HostName 127.0.0.1", "Port 1", f"ProxyJump {machine.name}")
    its = dataclasses.replace(server, via="lost")
    connection = Connection(its, run.directory / "user_key")
    with pytest.raises(Disconnected, match=r"on the way there: .*Connection refused"):
        connection.open("true", 30)
