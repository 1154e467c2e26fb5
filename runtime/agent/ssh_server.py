"""The machine's SSH server and the keys that it has."""

from __future__ import annotations

import json
import os
import sys

from .asked import Asked
from .files import sync_folder, write_file
from .processes import process_table
from .refusal import Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class SshServer:
    """The SSH server through which this process was started: its host keys, and how it is told that one has changed."""

    CLOUD_COPIES = ("/var/lib/cloud", "/run/cloud-init")

    def __init__(self) -> None:
        self._listener, self._command = self._find()

    @staticmethod
    def _find() -> tuple[int, list[str]]:
        """Give the server's process and command line, from the processes above this one; 0 where each connection is one."""
        table = process_table()
        found, pid = (0, ["/usr/sbin/sshd"]), os.getpid()
        while pid in table and pid > 1:
            pid = table[pid][0]
            try:
                program = os.readlink(f"/proc/{pid}/exe").replace(" (deleted)", "")
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    words = file.read().decode(errors="replace").rstrip("\0").split("\0")
            except OSError:
                continue
            if not os.path.basename(program).startswith("sshd"):
                continue
            title = words[0]
            # Newer ones write "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups" over their arguments.
            if " [listener]" in title:
                found = (pid, [program, *title.partition(" [listener]")[0].split()[2:]])
            elif not title.startswith(("sshd: ", "sshd-session: ")):
                found = (pid, [program, *words[1:]])
        return found

    def _key_files(self) -> list[str]:
        asked = Asked([*self._command, "-T"]).wait(10.0)
        if asked.code != 0:
            raise Refusal("host_key", f"{' '.join(self._command)} -T: {asked.complaint}")
        rows = [line.split(None, 1) for line in asked.words.splitlines()]
        return [row[1] for row in rows if row[0] == "hostkey" and os.path.exists(row[1])]

    @staticmethod
    def _public(path: str) -> str:
        """Give a key's public half without its comment; of what is no key that can be read, why."""
        asked = Asked(["ssh-keygen", "-y", "-P", "", "-f", path]).wait(10.0)
        return " ".join(asked.words.split()[:2]) if asked.code == 0 else f"? {asked.complaint}"

    def _holding(self, *keys: str) -> tuple[str, str]:
        """Give the file of the host key that is one of `keys`, and which it is."""
        shown = {path: self._public(path) for path in self._key_files()}
        for path, key in shown.items():
            if key in keys:
                return path, key
        raise Refusal("host_key", f"the SSH server's host keys are others: {shown}")

    def offer(self, pinned: str) -> str:
        """Make the key that is to take the place of `pinned`, or find it made, and give its public half."""
        aside = self._holding(pinned)[0] + ".dayfly"
        if not (os.path.exists(aside) and self._public(aside).startswith("ssh-")):
            for path in (aside, aside + ".pub"):
                if os.path.exists(path):
                    os.unlink(path)
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", aside]
            made = Asked(command).wait(10.0)
            if made.code != 0:
                raise Refusal("host_key", f"ssh-keygen: {made.complaint}")
        return self._public(aside)

    def install(self, pinned: str, offered: str) -> None:
        """Put the offered key in the place of the pinned one, of which no copy stays; done already is success."""
        path, shown = self._holding(pinned, offered)
        if shown == pinned:
            aside = path + ".dayfly"
            if self._public(aside) != offered:
                raise Refusal("host_key", f"{aside} is not the key that was offered")
            with open(path, encoding="ascii") as file:
                # While its text is still known: after the next line nobody could look for it.
                scrub(self.CLOUD_COPIES, file.read())
            write_file(path + ".pub", offered.encode() + b"\n")
            os.chmod(path + ".pub", 0o644)
            os.rename(aside, path)
            sync_folder(os.path.dirname(path))
            if os.path.exists(aside + ".pub"):
                os.unlink(aside + ".pub")
        if self._listener:
            import signal

            # It reads its keys anew; the connections that it has go on.
            os.kill(self._listener, signal.SIGHUP)


def scrub(folders: Iterable[str], private_key: str) -> int:
    """Overwrite the lines of a private key in every file below `folders`, and give the number of files.

    The lengths stay, so that what else is in such a file, a pickle perhaps, can still be read.
    """
    # The first line of the body is the same in all keys of a kind.
    lines = [line.encode() for line in private_key.splitlines() if "-----" not in line][1:]
    lines = [line for line in lines if len(line) >= 16]
    changed = 0
    for folder in folders:
        for place, _, names in os.walk(folder):
            for path in (os.path.join(place, name) for name in names):
                if os.path.isfile(path) and not os.path.islink(path):
                    changed += _scrub_file(path, lines)
    return changed


def _scrub_file(path: str, lines: Iterable[bytes]) -> bool:
    with open(path, "rb") as file:
        before = after = file.read()
    for line in lines:
        after = after.replace(line, b"x" * len(line))
    if after == before:
        return False
    with open(path, "r+b") as file:
        file.write(after)
        file.flush()
        os.fsync(file.fileno())
    return True


def host_key(step: str) -> None:
    """Do one step of replacing a host key; the public half is the output."""
    asked = json.loads(step)
    os.umask(0o077)
    try:
        server = SshServer()
        if asked["offered"]:
            server.install(asked["pinned"], asked["offered"])
        shown = asked["offered"] or server.offer(asked["pinned"])
    except Refusal as refusal:
        sys.exit(str(refusal))
    os.write(1, shown.encode())
