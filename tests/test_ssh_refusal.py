"""What ssh has said and how it has ended, and what that means: a machine that is not there is another matter than one that is not let
in to."""

from __future__ import annotations

import pytest

from dayfly.infra import ssh_failed, ssh_refusal

_STEPS = "OpenSSH_9.2p1\r\ndebug1: Connecting to box [127.0.0.1] port 22.\r\n"
_IN = 'Authenticated to box ([127.0.0.1]:22) using "publickey".\r\n'
_PROXIED = "debug1: Executing proxy command: exec ssh -v -W '[box]:22' jump\r\n"
_JUMP_IN = 'Authenticated to jump ([127.0.0.1]:22) using "publickey".\r\n'
_BEHIND = 'Authenticated to box (via proxy) using "publickey".\r\n'
_REVOKED = (
    "@@@\r\n@       WARNING: REVOKED HOST KEY DETECTED!               @\r\n@@@\r\n"
    "Host key verification failed.\r\n"
)


@pytest.mark.parametrize(
    ("said", "code", "name", "words"),
    [
        ("ssh: connect to host box port 22: Connection refused\r\n", 255, "unreachable", "refused"),
        ("ssh: connect to host box port 22: Permission denied\r\n", 255, "unreachable", "denied"),
        ("ssh: Could not resolve hostname box: Name or service not known\r\n", 255, "unreachable", "resolve"),
        ("Connection timed out during banner exchange\r\n", 255, "unreachable", "banner"),
        (
            f"{_PROXIED}{_JUMP_IN}channel 0: open failed: connect failed: Connection refused\r\n"
            "Connection closed by UNKNOWN port 65535\r\n",
            255,
            "unreachable",
            "connect failed",
        ),
        (f"{_IN}ssh: connect to host else port 22: refused\r\n", 255, "silent", "let this computer in"),
        (_IN, None, "silent", "did not begin"),
        (f"{_PROXIED}{_JUMP_IN}{_BEHIND}", None, "silent", "did not begin"),
        (f"{_PROXIED}{_JUMP_IN}", None, "handshake", "docs/ssh.md"),
        (
            "Unable to negotiate with 127.0.0.1 port 22: no matching host key type found.\r\n",
            255,
            "handshake",
            "no matching host key",
        ),
        ("", None, "handshake", "does not get in"),
        ("root@box: Permission denied (publickey).\r\n", 255, "login", "BatchMode"),
        (_REVOKED, 255, "host-key", "@revoked"),
        ("Host key verification failed.\r\n", 255, "host-key", "answer yes"),
        (f"{_IN}sh: 1: exec: python3: not found\r\n", 1, "python", "no python3"),
        (f"{_IN}bash: line 1: python3: command not found\r\n", 1, "python", "no python3"),
        (f"{_IN}python3 says no\r\n", 1, "python", "ended with 1"),
        ("ssh: connect to host python3-box port 22: Connection refused\r\n", 255, "unreachable", "box"),
    ],
)  # fmt: skip
def test_what_it_means(said: str, code: int | None, name: str, words: str) -> None:
    """Only what was not there leaves the ladder to its next rung, which may cost money."""
    failed = ssh_refusal.of("box", _STEPS + said, code)
    assert failed.code == name
    assert words in failed.words
    assert failed.did_nothing
    assert (ssh_failed.kind_of(str(failed)) == "capacity") is (name == "unreachable")
