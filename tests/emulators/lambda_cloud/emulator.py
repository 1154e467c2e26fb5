"""The emulator from a test's side: starts it in a process of its own, says where it is, and does things to it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.emulators import lifetime
from tests.emulators.lambda_cloud.faults import Fault
from tests.emulators.lambda_cloud.options import Options
from tests.emulators.machines import truth

_CHECKOUT = Path(__file__).parents[3]
_START_S = 30.0


class Emulator:
    """A running emulator for as long as a `with` block lasts.

    Lifecycle: entering starts the process and waits until it answers; leaving ends it with all of its instances,
    also when this process dies. The folder is removed at the end unless it was given.

    Attributes:
        url: of the API, for LAMBDA_API_URL.
        api_key: of its account.
        port_map: the file for DAYFLY_SSH_PORT_MAP.
        log: the ground truth.
        pid: of its process.
    """

    def __init__(
        self, options: Options | None = None, *, folder: Path | None = None, port: int = 0
    ) -> None:
        self.options = options or Options()
        self.url = ""
        self.api_key = ""
        self.port_map = Path()
        self.log = Path()
        self.pid = 0
        self._control = ""
        self._port = port
        self._given = folder
        self._folder = folder or Path()
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Emulator:
        self._folder = self._given or Path(tempfile.mkdtemp(prefix="lambda-cloud-"))
        command = [sys.executable, "-m", "tests.emulators.lambda_cloud", "--until-stdin-closes"]
        command += ["--folder", str(self._folder), "--port", str(self._port)]
        command += ["--options", "-"]
        with (self._folder / "stderr").open("w") as said:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                cwd=_CHECKOUT,
                start_new_session=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # Not on the command line: it may hold the account's key.
        self._process.stdin.write(json.dumps(self.options.as_json()) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            reason = (self._folder / "stderr").read_text().strip()
            error = RuntimeError(f"the emulator did not start: {reason}")
            self.__exit__(type(error), error, None)
            raise error
        shown = json.loads(line)
        self.url, self.api_key, self.pid = shown["url"], shown["api_key"], shown["pid"]
        self.port_map, self.log = Path(shown["port_map"]), Path(shown["log"])
        self._control = shown["control"]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        try:
            lifetime.end(process)
        finally:
            failed = self._mistakes()
            if self._given is None:
                shutil.rmtree(self._folder, ignore_errors=True)
        if failed and error is None:
            raise RuntimeError(f"the emulator made mistakes: {failed}")

    def _mistakes(self) -> str:
        """What it did wrong itself, if it came so far as to have a log."""
        if not self.log.is_file():
            return ""
        events = [each for log in truth.logs(self.log) for each in truth.read(log)]
        failed = [each for each in events if each["event"] == "failed"]
        return "\n".join(f"{each['where']}: {each['error']}" for each in failed)

    def environment(self) -> dict[str, str]:
        """The variables by which Dayfly takes it for the real thing."""
        scale, own_addresses = self.options.time_scale, self.options.own_addresses
        return (
            {"LAMBDA_API_URL": self.url, "LAMBDA_API_KEY": self.api_key}
            | ({} if own_addresses else {"DAYFLY_SSH_PORT_MAP": str(self.port_map)})
            | ({} if scale == 1 else {"LAMBDA_TIME_SCALE": str(scale)})
        )

    def kill(self) -> None:
        """SIGKILL, as a crash of the computer that it runs on would end it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """The ground truth since the last `renew`, or its events of one name."""
        return [each for each in truth.read(self.log) if name in ("", each["event"])]

    def renew(self, options: Options | None = None) -> None:
        """An empty world in the place of this one, for much less than a new process; every machine of the old one is gone.

        Args:
            options: of the new world, its key excepted; the old ones where None.
        """
        self.options = options or self.options
        self._ask("POST", "renew", self.options.as_json())

    def live(self) -> list[dict[str, Any]]:
        """The instances that cost money, with their port and the ids of their processes."""
        found: list[dict[str, Any]] = self._ask("GET", "instances")
        return found

    def meter(self) -> dict[str, Any]:
        """`dollars` of all, and the `bills` of each instance that ever was."""
        found: dict[str, Any] = self._ask("GET", "meter")
        return found

    def health(self) -> dict[str, Any]:
        """`now` in emulated seconds, `calls` by operation, and how many requests the limits refused."""
        found: dict[str, Any] = self._ask("GET", "health")
        return found

    def advance(self, emulated_s: float) -> float:
        """So many emulated seconds pass at once, and are billed.

        Returns:
            By how many seconds its time of day is before this computer's now.
        """
        return float(self._ask("POST", "advance", {"seconds": emulated_s})["ahead_s"])

    def set_capacity(
        self, type: str, region: str, left: int, *, listed: bool | None = None
    ) -> None:
        """Puts the stock; `listed` makes the listing say so, whatever the stock is."""
        asked = {"type": type, "region": region, "left": left}
        self._ask("POST", "capacity", asked | ({} if listed is None else {"listed": listed}))

    def mark(self, instance: str, status: str) -> None:
        """Makes an instance unhealthy, preempted or active again."""
        self._ask("POST", "mark", {"instance": instance, "status": status})

    def kill_sshd(self, instance: str) -> None:
        """Ends its SSH server with all connections; what was detached goes on."""
        self._do(instance, "kill_sshd")

    def start_sshd(self, instance: str) -> None:
        """Starts it again."""
        self._do(instance, "start_sshd")

    def halt(self, instance: str) -> None:
        """Ends every process of the instance, as a kernel panic would; row and bill go on."""
        self._do(instance, "halt")

    def freeze(self, instance: str) -> None:
        """Makes it hang: connections stay open, and nothing on it answers or goes on."""
        self._do(instance, "freeze")

    def thaw(self, instance: str) -> None:
        """Ends that."""
        self._do(instance, "thaw")

    def lie(self, instance: str, lie: str) -> None:
        """Its GPUs lie from now on, in one of the ways of `tests.emulators.gpu.LIES`; "" makes them honest."""
        self._ask("POST", "lie", {"instance": instance, "lie": lie})

    def lie_next(self, *lies: str) -> None:
        """The GPUs of the launches to come lie, one after the other; "" is the truth."""
        self._ask("POST", "lie", {"next": list(lies)})

    def revoke_key(self) -> None:
        """The key answers 401 from now on."""
        self._ask("POST", "account", {"revoke": True})

    def replace_key(self, key: str = "") -> str:
        """A new key in the place of the old one."""
        self.api_key = str(self._ask("POST", "account", {"key": key})["api_key"])
        return self.api_key

    def set_account(
        self, *, active: bool = True, address: bool = True, instances: bool = True
    ) -> None:
        """Whether the account is active, has an address for bills, and whether its key may see instances."""
        asked = {"active": active, "address": address, "instances": instances}
        self._ask("POST", "account", asked)

    def add_faults(self, faults: Iterable[Fault | Mapping[str, Any]]) -> None:
        """Puts lines at the end of the fault script; their calls count from now."""
        lines = [each.as_json() if isinstance(each, Fault) else dict(each) for each in faults]
        self._ask("POST", "faults", lines)

    def faults(self) -> dict[str, Any]:
        """The lines in force with their `calls` and `hits`, and how many calls are `held`."""
        found: dict[str, Any] = self._ask("GET", "faults")
        return found

    def clear_faults(self) -> None:
        """Takes all lines out, and lets go what is held."""
        self._ask("DELETE", "faults")

    def release(self) -> None:
        """Lets every held call go on."""
        self._ask("POST", "release")

    def wait_held(self, count: int = 1, timeout_s: float = 30.0) -> None:
        """Waits until so many calls are held.

        Raises:
            TimeoutError: they do not come.
        """
        until = time.monotonic() + timeout_s
        while self.faults()["held"] < count:
            if time.monotonic() > until:
                raise TimeoutError(f"{self.faults()['held']} of {count} calls are held")
            time.sleep(0.01)

    def _do(self, instance: str, what: str) -> None:
        self._ask("POST", "machine", {"instance": instance, "do": what})

    def _ask(self, method: str, name: str, content: Any = None) -> Any:
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"{self._control}/{name}", data=body, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(f"{method} {name}: {error.read().decode()}") from None
