"""`python -m tests.emulators.gcp`: the emulator in the foreground, until Ctrl-C, SIGTERM or the end of its standard input."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

from tests.emulators import lifetime
from tests.emulators.gcp.plugin import GcpPlugin
from tests.emulators.gcp.server import ApiServer
from tests.emulators.gcp.world import World
from tests.emulators.machines.box import NoNamespaces
from tests.emulators.machines.machines import Machines
from tests.emulators.machines.port_map import PortMap
from tests.emulators.machines.truth import Truth

_PROJECT = "dayfly-test"
_EPILOG = """\
The first line on standard output is a JSON object with the variables; the same as lines to paste into a shell goes to
standard error. Then, in that shell:

  dayfly run --provider gcp --gpu T4 MODULE:FUNCTION
"""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.emulators.gcp",
        description="An emulator of Compute Engine and of its Pulumi plugin; its instances are real SSH servers.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--no-machines", action="store_true", help="rows alone, without root")
    parser.add_argument("--create-s", type=float, default=60.0, help="how long the plugin waits")
    parser.add_argument(
        "--until-stdin-closes", action="store_true", help="end when standard input does, for tests"
    )
    return parser.parse_args()


def main() -> None:
    """The emulator's whole life."""
    asked = _arguments()
    os.umask(0o022)  # the disks' folders are an instance's /etc and /usr
    ended = lifetime.ended(until_stdin_closes=asked.until_stdin_closes)
    with tempfile.TemporaryDirectory(prefix="gcp-") as folder:
        tempfile.tempdir = folder
        try:
            _serve(asked, Path(folder), ended)
        except NoNamespaces as error:
            sys.exit(f"{error}")


def _serve(asked: argparse.Namespace, folder: Path, ended: int) -> None:
    truth, ports = Truth(folder / "truth.jsonl"), PortMap(folder / "ports.json")
    machines = None if asked.no_machines else Machines(folder / "machines", ports, truth)
    world = World(truth, machines)
    plugin = GcpPlugin(world, asked.create_s)
    plugin.start()
    kind = type("BoundServer", (ApiServer,), {"world": world})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        server.daemon_threads = True
        serving = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        serving.start()
        _announce(f"http://127.0.0.1:{server.server_port}", plugin, ports, truth)
        os.read(ended, 1)
        server.shutdown()
        serving.join()
    plugin.close()
    world.close()
    if machines is not None:
        machines.close()
    truth.close()


def _announce(url: str, plugin: GcpPlugin, ports: PortMap, truth: Truth) -> None:
    variables = {
        "DAYFLY_GCP_URL": url,
        "GOOGLE_CLOUD_PROJECT": _PROJECT,
        "PULUMI_DEBUG_PROVIDERS": plugin.environment,
        "DAYFLY_SSH_PORT_MAP": str(ports.path),
    }
    print(json.dumps({"variables": variables, "log": str(truth.path)}), flush=True)
    for name, value in variables.items():
        print(f"export {name}={shlex.quote(value)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
