"""Canary call: one call with a canary in every input that it has, by a client that is a process of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from dayfly.stacks import engine as engines
from tests.emulators.lambda_cloud import Emulator
from tests.faults.canaries import Canaries
from tests.faults.index_server import USER, IndexServer
from tests.faults.own_keys import NAMES
from tests.faults.place import Place
from tests.faults.starts import Starts

DECLARED = tuple(f"CANARY_{number}" for number in range(6))
PRINTED = tuple(f"CANARY_PRINTED_{number}" for number in range(3))
RAISED = tuple(f"CANARY_RAISED_{number}" for number in range(3))
API_KEY = "LAMBDA_API_KEY"
# Neither the engine nor the machine has any business with them; the engine of a run on Lambda alone has one with Lambda's key.
ENVIRONMENT = (
    "AWS_SECRET_ACCESS_KEY",
    API_KEY,
    "HF_TOKEN",
    "PULUMI_ACCESS_TOKEN",
    "DATABASE_PASSWORD",
    "SOME_SETTING",
)
ARGUMENTS = ("first", "second", "third", "nested", "listed", "global")
INDEXES = ("index", "extra", "direct")
# With those of the product itself.
COUNT = sum(map(len, (DECLARED, PRINTED, RAISED, ENVIRONMENT, ARGUMENTS, INDEXES, NAMES)))
LAMBDA = {"provider": "lambda", "instance_type": "gpu_1x_a10", "region": "us-east-1"}

CLIENT = """
import json, os, sys, time
from dayfly import cluster

given = json.load(sys.stdin)
GLOBAL = given["global"]


@cluster(**given["where"], environment=given["environment"], secrets=given["names"])
def work(mode, port, first, second, *, third, nested):
    import socket

    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        connection.sendall(f"started 0 {os.environ['DAYFLY_RUN']}\\n".encode())
        connection.makefile().readline()
    held = [first, second, third, nested, GLOBAL]
    one, two, three = (os.environ[f"CANARY_PRINTED_{number}"] for number in range(3))
    print("connecting with", one, flush=True)
    print("to", two[:7], end="", flush=True)
    time.sleep(0.3)
    print(two[7:], flush=True)
    print(f"url=https://me:{three}@example.org/", file=sys.stderr, flush=True)
    time.sleep(0.7)
    if "raises" in mode:
        raised = " ".join(os.environ[f"CANARY_RAISED_{number}"] for number in range(3))
        raise ValueError(f"could not log in with {raised}")
    return len(held)


arguments = given["mode"], given["port"], given["first"], given["second"]
try:
    print("value", work(*arguments, third=given["third"], nested=given["nested"]))
except ValueError as error:
    print("raised", type(error).__name__)
"""


@dataclass(frozen=True)
class CanaryCall:
    """One trial's inputs.

    Attributes:
        place: where its client is.
        canaries: the values.
        mode: what the function does, and whether its client is killed.
        on_lambda: where it runs.
        index, cloud, starts: who is there to be asked and told.
    """

    place: Place
    canaries: Canaries
    mode: str
    on_lambda: bool
    index: IndexServer
    cloud: Emulator
    starts: Starts

    @property
    def variables(self) -> dict[str, str]:
        """What the user has exported; Lambda's key is one that opens an account, since `gc` asks there too."""
        names = (*DECLARED, *PRINTED, *RAISED, *ENVIRONMENT)
        held = {name: self.canaries.value(name) for name in names}
        folders = {"HOME": self.user, "XDG_CACHE_HOME": self.user / ".cache", "TMPDIR": self.tmp}
        return {
            **self.cloud.environment(),
            **held,
            **{name: str(folder) for name, folder in folders.items()},
            "DAYFLY_ENGINE_HOME": str(engines.home()),
        }

    @property
    def user(self) -> Path:
        """The user's home."""
        return self.beside("user")

    @property
    def tmp(self) -> Path:
        """For temporary files."""
        return self.beside("tmp")

    def beside(self, name: str) -> Path:
        """A folder of this process's trials outside of DAYFLY_HOME."""
        folder = self.place.home.with_name(f"{self.place.home.name}-{name}")
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    @property
    def foreign(self) -> list[str]:
        """What neither engine nor machine may have."""
        names = [name for name in ENVIRONMENT if not (self.on_lambda and name == API_KEY)]
        return [self.canaries.value(name) for name in names]

    @property
    def asked(self) -> int:
        """How often Lambda was asked what there is."""
        return int(self.cloud.health()["calls"].get("list_instances", 0))

    @property
    def inputs(self) -> bytes:
        """What the client reads from its standard input."""
        value = self.canaries.value
        return json.dumps(
            {
                "where": LAMBDA if self.on_lambda else {"provider": "local"},
                "mode": self.mode,
                "port": self.starts.port,
                "names": [*DECLARED, *PRINTED, *RAISED],
                "environment": str(self._requirements()),
                "first": value("first"),
                "second": {"deep": [value("second")]},
                "third": value("third"),
                "nested": {value("nested"): [value("listed")]},
                "global": value("global"),
            }
        ).encode()

    def _requirements(self) -> Path:
        """A file of the user's with the passwords of three indexes; it is theirs, and outside of what is searched."""
        index, extra, direct = (
            f"http://{USER}:{self.canaries.value(name)}@127.0.0.1:{self.index.port}"
            for name in INDEXES
        )
        file = self.beside("project") / "requirements.txt"
        file.write_text(
            f"--index-url {index}/simple\n--extra-index-url {extra}/other\ncanaryone\n"
            f"canarytwo @ {direct}/files/canarytwo-1.0-py3-none-any.whl\n"
        )
        return file
