"""What a session hands over and gets back: keys, facts, the task, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dayfly.stacks import journal

if TYPE_CHECKING:
    from dayfly.runtime.parts import Parts


@dataclass(frozen=True)
class Keys:
    """What proves a client to be the run's own, and the machine's frames to be for this run.

    Attributes:
        home: by which the machine tells the clients of one home from another's; "" where no other can have them.
    """

    run_id: str
    user_key: Path
    hmac_key: bytes = field(repr=False)
    home: str = ""

    @classmethod
    def of(cls, directory: Path) -> Keys:
        """Those that a run's directory holds."""
        key = (directory / "hmac_key").read_bytes()
        return cls(directory.name, directory / "user_key", key, journal.home_of(directory))


@dataclass(frozen=True)
class Facts:
    """What the agent found on its machine.

    Attributes:
        devices: the GPUs that calls can have, as CUDA_VISIBLE_DEVICES names them.
        loopback: the same for machines that share one, and for no others; "" where that cannot be told.
    """

    hostname: str
    platform: str
    libc: str
    pythons: tuple[str, ...]
    cores: int
    memory_bytes: int
    free_disk_bytes: int
    agent_pid: int
    gpus: tuple[str, ...]
    driver: str
    devices: tuple[str, ...] = ()
    loopback: str = ""


@dataclass(frozen=True)
class Gpu:
    """One GPU, as nvidia-smi or the driver tells it; the driver's uuid is ""."""

    name: str
    memory_bytes: int
    uuid: str


@dataclass(frozen=True)
class GpuFindings:
    """What was found of a machine's GPUs.

    Attributes:
        listed: what nvidia-smi lists.
        driver: version of the driver.
        smi_failure: why nvidia-smi gave no list, "" where it did.
        usable: those that the driver made a context on, and whose memory could be used.
        driver_failure: the first call that failed, hung or crashed, "" where none did.
        starting: True where that may be over by itself: the switches between the GPUs are still being set up.
    """

    listed: tuple[Gpu, ...]
    driver: str
    smi_failure: str
    usable: tuple[Gpu, ...]
    driver_failure: str
    starting: bool


@dataclass(frozen=True)
class Task:
    """What is to be executed.

    Attributes:
        sealed: the packed function, sealed with frames.TASK_SEQ.
        python: path of an interpreter on the machine, or "3.11" for any of that minor.
        secrets: environment variables that travel over pipes only.
        variables: environment variables that are not secret.
        max_runtime_s: when the machine itself ends the job.
        grace_s: between asking the job to end and ending it.
        hold_s: for how long its result waits on the machine after its end, where nobody comes for it.
        pickler: the zip of cloudpickle, of the client's version.
        gpu_floor_percent: the machine ends the job where a GPU stays under this for `gpu_window_s`; 0 never.
        gpu_window_s: see there.
        checkpoints: digest of the list of an earlier attempt's checkpoints, all of which are on the machine; "" for none.
        restored: whether the machine itself has brought them from a bucket (`Session.restore_checkpoints`).
        bucket: URL of the folder of a bucket with which the machine keeps them in step; "" for none.
        bucket_every_s: how often it looks whether they have changed.
        ends_rest: what it leaves running is ended with it: its machine is kept, or it has many calls made.
    """

    sealed: bytes | Parts = field(repr=False)
    python: str
    pickler: Path
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    variables: dict[str, str] = field(default_factory=dict)
    max_runtime_s: float = 86400.0
    grace_s: float = 10.0
    hold_s: float = 3600.0
    gpu_floor_percent: float = 0.0
    gpu_window_s: float = 3600.0
    checkpoints: str = ""
    restored: bool = False
    bucket: str = ""
    bucket_every_s: float = 15.0
    ends_rest: bool = False


@dataclass(frozen=True)
class Restored:
    """What a bucket had of earlier attempts.

    Attributes:
        files: how many.
        size: bytes of all together.
        run: which had left them, "" where there was nothing.
    """

    files: int
    size: int
    run: str


@dataclass(frozen=True)
class JobEnd:
    """How a job ended; "finished" means that it left a result, whatever is in it; "vanished" that
    its folder on the machine was deleted; "idle" that a GPU was, which `detail` names. `cue` is "deadline" or "idle" where it
    finished when it was asked to end for that. Times are unix times."""

    how: Literal["finished", "killed", "exited", "deadline", "stopped", "vanished", "idle"]
    code: int
    signal: int
    out_of_memory: bool
    started: float
    ended: float
    peak_rss_bytes: int = 0
    detail: str = ""
    cue: str = ""


@dataclass(frozen=True)
class JobStatus:
    """Where a job stands."""

    state: Literal["absent", "running", "ended"]
    end: JobEnd | None
    has_result: bool
    acknowledged: bool
    stdout_size: int
    stderr_size: int


@dataclass(frozen=True)
class Glance:
    """What one look at a job has found.

    Attributes:
        status: where it stands.
        samples: lines for a run's SampleLog, and the number of the last; b"" where none is new.
        last: that number.
        tails: the last bytes of each log, by the stream's name.
    """

    status: JobStatus
    samples: bytes
    last: int
    tails: dict[str, bytes] = field(repr=False)
