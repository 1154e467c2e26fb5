"""`python -m tests.emulators.aws`: the emulated AWS in the foreground, until Ctrl-C; prints what to paste into a shell."""

from __future__ import annotations

import argparse
import os
import shlex
import signal

from tests.emulators.aws.cloud import Aws
from tests.emulators.machines.box import NoNamespaces


def main() -> None:
    """The emulator's whole life."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.emulators.aws",
        description="AWS on loopback: EC2's API by moto, its instances real SSH servers, a stand-in for Pulumi's plugin.",
    )
    parser.add_argument(
        "--no-default-vpc", action="store_true", help="no region has its default network"
    )
    parser.add_argument("--no-machines", action="store_true", help="rows only; needs no root")
    parser.add_argument("--firewalls", action="store_true", help="security groups are kept to")
    asked = parser.parse_args()
    os.umask(0o022)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Aws(
            machines=not asked.no_machines,
            default_vpc=not asked.no_default_vpc,
            firewalls=asked.firewalls,
        ) as cloud:
            for name, value in cloud.environment().items():
                print(f"export {name}={shlex.quote(value)}", flush=True)
            signal.pause()
    except NoNamespaces as refusal:
        parser.exit(1, f"{refusal}\n")
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
