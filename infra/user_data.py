"""The cloud-init user data that gives a machine the host key that its client pins."""

from __future__ import annotations

from dayfly.infra.run import Run


def of(run: Run, node: int) -> str:
    """That of one machine of a run, with its host key; a preview has none."""
    file = run.host_key_file(node)
    private_key = file.read_text() if file.is_file() else ""
    return with_host_key(private_key, run.host_key_of(node))


def with_host_key(private_key: str, public_key: str) -> str:
    """A cloud-config that replaces every host key of the image by one that only this run knows.

    The key is worth something until the first login, which replaces it: whoever can read user data on the machine or in
    the provider's records could stand in for the machine no longer than that.

    Args:
        private_key: as OpenSSH writes it.
        public_key: "ssh-ed25519 AAAA...".
    """
    block = "".join(f"    {line}\n" for line in private_key.strip().splitlines())
    return (
        "#cloud-config\n"
        "ssh_deletekeys: true\n"
        # Without it cloud-init would make keys of its own in place of those it has deleted.
        "ssh_genkeytypes: []\n"
        "ssh_keys:\n"
        f"  ed25519_private: |\n{block}"
        f"  ed25519_public: {public_key}\n"
    )
