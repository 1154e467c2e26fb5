"""Why a machine of one's own was not come to: from what `ssh -v` has said and how it has ended, before anything was sent."""

from __future__ import annotations

import re

from dayfly.infra.ssh_failed import SshFailed

# Of the client itself, or of the one that it jumps through: nobody was there. All else is a fault that another machine's rent
# would only hide.
_NOT_THERE = re.compile(
    r"^ssh: connect to host .*: "
    r"|^ssh: Could not resolve hostname "
    r"|^channel \d+: open failed: connect failed: "
    r"|timed out during banner exchange",
    re.MULTILINE,
)
_NO_PYTHON = re.compile(r"python3: (command )?not found")
_RUNS_COMMANDS = ("debug1: Executing proxy command: ", "debug1: Executing command: ")
_SSH_S_OWN = 255


def told(everything: str) -> str:
    """The last lines, without what ssh tells of each of its steps."""
    lines = everything.replace("\r", "").splitlines()
    return "; ".join([line for line in lines if line and not _is_step(line)][-4:]) or (
        "nothing was said"
    )


def of(name: str, everything: str, code: int | None) -> SshFailed:
    """The failure.

    Args:
        name: of the host, as it was written.
        everything: that ssh has said.
        code: with which it has ended, None where it was still there.
    """
    everything = everything.replace("\r", "")
    said = told(everything)
    if any(mark in everything for mark in _RUNS_COMMANDS):
        said += (
            "; the commands of its configuration have of this computer's environment what docs/ssh.md lists, and nothing"
            " else"
        )
    if code not in (None, _SSH_S_OWN):
        return _ran(name, said, everything, code)
    return _host_key(name, said, everything) or _login(name, said, everything, code)


def _ran(name: str, said: str, everything: str, code: int | None) -> SshFailed:
    """ssh ends as what it has run there has ended."""
    if code in (126, 127) or _NO_PYTHON.search(everything):
        return SshFailed(
            "python",
            f"host {name} has no python3 on its PATH, which Dayfly needs there; install Python 3.8 or newer ({said})",
        )
    return SshFailed("python", f"host {name} ran no command, and ended with {code}: {said}")


def _host_key(name: str, said: str, everything: str) -> SshFailed | None:
    # In this order: after any of the first two ssh says the last one, too.
    if "REVOKED HOST KEY" in everything:
        return SshFailed(
            "host-key",
            f"host {name} shows a host key that is marked as @revoked in the known_hosts of this computer; nothing was sent"
            f" to it: whoever has that key may be anybody ({said})",
        )
    if "IDENTIFICATION HAS CHANGED" in everything:
        where = re.search(r"Offending \S+ key in (\S+:\d+)", everything)
        known = f"the one in {where[1]}" if where else "the one that is known here"
        return SshFailed(
            "host-key",
            f"host {name} shows another host key than {known}; nothing was sent to it. If you know why it has changed:"
            f" remove that line, log in once with `ssh {name}`, and compare the fingerprint",
        )
    if "Host key verification failed" in everything:
        return SshFailed(
            "host-key",
            f"the host key of {name} is not known here: log in once with `ssh {name}`, compare the fingerprint with"
            f" the machine's own, and answer yes ({said})",
        )
    return None


def _login(name: str, said: str, everything: str, code: int | None) -> SshFailed:
    proxied = _RUNS_COMMANDS[0] in everything
    # A jump tells of its own login in the same words, but for the way.
    way = "via proxy" if proxied else ""
    inside = re.search(rf"^Authenticated to \S+ \({way}", everything, re.MULTILINE)
    if _NOT_THERE.search(everything) and (proxied or not inside):
        return SshFailed("unreachable", f"host {name} cannot be reached: {said}")
    if inside:
        how = "ended" if code is not None else "did not begin to run anything in time"
        return SshFailed(
            "silent",
            f"host {name} let this computer in, and {how}: do the start files of its shell wait for something, or end it?"
            f" `ssh {name} true` has to come to an end ({said})",
        )
    if "Permission denied" in said or "Too many authentication failures" in said:
        return SshFailed(
            "login",
            f"host {name} lets nobody in without a question: `ssh -o BatchMode=yes {name} true` has to work, with a key"
            f" or an agent ({said})",
        )
    return SshFailed(
        "handshake",
        f"host {name} answers, and `ssh -o BatchMode=yes {name} true` does not get in: {said}",
    )


def _is_step(line: str) -> bool:
    return line.startswith(("debug1:", "OpenSSH_", "Authenticated to", "Transferred:", "Bytes per"))
