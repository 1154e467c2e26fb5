"""`python -m tests.emulators.lambda_cloud`: the emulator in the foreground, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
import threading
from pathlib import Path

from tests.emulators import lifetime
from tests.emulators.lambda_cloud import operations
from tests.emulators.lambda_cloud.cloud import Cloud
from tests.emulators.lambda_cloud.options import Options
from tests.emulators.lambda_cloud.server import Server
from tests.emulators.machines.box import NoNamespaces
from tests.emulators.machines.port_map import PortMap
from tests.emulators.machines.truth import Truth

_EPILOG = f"""\
The first line on standard output is a JSON object: url, api_key, port_map, log. The same as lines to paste
into a shell goes to standard error.

examples:
  python -m tests.emulators.lambda_cloud
  python -m tests.emulators.lambda_cloud --options '{{"own_addresses": true}}'
  python -m tests.emulators.lambda_cloud --options '{{"time_scale": 10, "boot_s": 60}}'
  python -m tests.emulators.lambda_cloud --options '{{"faults": [{{"op": "launch", "at": 1, "kind": "drop_after"}}]}}'

options and their meaning: tests/emulators/lambda_cloud/options.py; faults: faults.py; control: control.py
operations that a fault can name: {", ".join(operations.NAMES)}
"""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.emulators.lambda_cloud",
        description="An emulator of Lambda Cloud on loopback; its instances are real SSH servers and cost nothing.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=0, help="of the API; a free one by default")
    parser.add_argument(
        "--folder", type=Path, help="for log, port map and disks; a temporary one by default"
    )
    parser.add_argument(
        "--options",
        default="{}",
        metavar="JSON",
        help="how the cloud behaves; - for a line on standard input, which nobody else can read",
    )
    parser.add_argument(
        "--until-stdin-closes", action="store_true", help="end when standard input does, for tests"
    )
    return parser.parse_args()


def main() -> None:
    """The emulator's whole life."""
    asked = _arguments()
    try:
        text = sys.stdin.readline() if asked.options == "-" else asked.options
        options = Options.from_json(json.loads(text))
        operations.check(options.faults)
    except ValueError as error:
        sys.exit(f"--options: {error}")
    os.umask(0o022)  # the disks' folders are an instance's /etc and /usr
    made = None if asked.folder else tempfile.TemporaryDirectory(prefix="lambda-cloud-")
    folder = asked.folder or Path(made.name if made else "")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    tempfile.tempdir = str(folder)
    ended = lifetime.ended(until_stdin_closes=asked.until_stdin_closes)
    try:
        _serve(options, folder.resolve(), asked.port, ended)
    except (NoNamespaces, OSError) as error:
        sys.exit(f"{error}")
    finally:
        if made is not None:
            made.cleanup()


def _serve(options: Options, folder: Path, port: int, ended: int) -> None:
    log, ports = Truth(folder / "truth.jsonl"), PortMap(folder / "ports.json")
    cloud = Cloud(options, folder, log, ports)
    with Server(cloud, port) as server:
        cloud.start(server.url, os.getpid())
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        _announce(cloud, server)
        os.read(ended, 1)
        server.shutdown()
        serving.join()
        server.cloud.close()
    log.close()


def _announce(cloud: Cloud, server: Server) -> None:
    shown = {
        "url": f"{server.url}{operations.BASE}",
        "control": f"{server.url}/_emulator",
        "api_key": cloud.account.key,
        "port_map": str(cloud.ports.path),
        "log": str(cloud.truth.path),
        "pid": os.getpid(),
    }
    print(json.dumps(shown), flush=True)
    variables = {"LAMBDA_API_URL": shown["url"], "LAMBDA_API_KEY": shown["api_key"]}
    if not cloud.options.own_addresses:
        variables["DAYFLY_SSH_PORT_MAP"] = shown["port_map"]
    if cloud.clock.scale != 1:
        variables["LAMBDA_TIME_SCALE"] = cloud.clock.scale
    for name, value in variables.items():
        print(f"export {name}={shlex.quote(str(value))}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
