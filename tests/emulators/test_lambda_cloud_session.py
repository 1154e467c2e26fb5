"""Dayfly's own session on an emulated machine, by the ip and port 22 that a real one would have."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from dayfly.errors import GpuUnfit
from dayfly.infra.machine import Machine
from dayfly.infra.offers import Offer
from dayfly.runtime import gpu, host_key
from dayfly.runtime.records import Keys
from dayfly.runtime.session import Session
from tests.emulators.lambda_cloud import Emulator, Options
from tests.emulators.logins import HostKey
from tests.emulators.plain_client import Client
from tests.emulators.until import until
from tests.sshd import write_key

pytestmark = [
    pytest.mark.sshd,
    pytest.mark.skipif(os.getuid() != 0, reason="namespaces and their sshd need root"),
]

SLOW_CLOUD_INIT = Options(
    request_interval_s=0,
    launch_interval_s=0,
    boot_s=0.1,
    ip_s=0.1,
    sshd_s=0,
    user_data_s=0.7,
    listing_lag_s=0,
)


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    with Emulator(SLOW_CLOUD_INIT) as running:
        for name, value in running.environment().items():
            monkeypatch.setenv(name, value)
        yield running


def test_a_session_waits_for_its_host_key_replaces_it_and_checks_the_gpus(
    cloud: Emulator, tmp_path: Path
) -> None:
    """The image's key is waited out; nothing of the bootstrap key stays on the machine; a GPU that lies is found out."""
    api, bootstrap = Client(cloud), HostKey(tmp_path)
    public = write_key(tmp_path / "user_key")
    assert api.post("/ssh-keys", {"name": "key", "public_key": public}).status == 200
    id = api.launched(user_data=bootstrap.user_data(), instance_type_name="gpu_1x_a100_sxm4")
    until(lambda: "ip" in api.get(f"/instances/{id}").data)
    machine = Machine(
        id=id,
        host=api.get(f"/instances/{id}").data["ip"],
        port=22,
        user="ubuntu",
        host_key=bootstrap.public,
        provider="lambda",
        region="us-east-1",
        instance_type="gpu_1x_a100_sxm4",
        host_key_bootstrap=True,
    )
    offer = Offer(
        "lambda", "us-east-1", machine.instance_type, 30, 220 << 30, 1.99,
        gpus=1, gpu_model="A100", gpu_memory_gb=40,
    )  # fmt: skip
    keys = Keys(secrets.token_hex(16), tmp_path / "user_key", secrets.token_bytes(32))
    with Session(machine, keys) as session:
        written = cloud.log.parent / "machines" / id / "upper"
        assert len(_with(bootstrap.secret, written)) == 3, "the key and cloud-init's two copies"
        host_key.rotate(session, lambda *_, **__: None)
        assert session.host_key != bootstrap.public
        assert _with(bootstrap.secret, written) == []
        assert [each.name for each in gpu.verify(session, offer, id).usable] == [
            "NVIDIA A100-SXM4-40GB"
        ]
        cloud.lie(id, "init")
        with pytest.raises(GpuUnfit, match="802"):
            until(lambda: gpu.verify(session, offer, id) is None)


def _with(secret: bytes, folder: Path) -> list[Path]:
    files = [each for each in folder.rglob("*") if each.is_file() and not each.is_symlink()]
    return [each for each in files if secret in each.read_bytes()]
