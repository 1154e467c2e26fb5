"""The user data is a cloud-config that leaves one host key on the machine: the pinned one."""

from __future__ import annotations

from pathlib import Path

import yaml

from dayfly.infra import user_data
from dayfly.stacks.intent import make_key


def test_the_host_key_replaces_all_of_the_image_s(tmp_path: Path) -> None:
    """Both halves come through YAML as they were."""
    public = make_key(tmp_path / "host_key")
    private = (tmp_path / "host_key").read_text()
    text = user_data.with_host_key(private, public)
    assert text.startswith("#cloud-config\n")
    assert yaml.safe_load(text) == {
        "ssh_deletekeys": True,
        "ssh_genkeytypes": [],
        "ssh_keys": {"ed25519_private": private, "ed25519_public": public},
    }
