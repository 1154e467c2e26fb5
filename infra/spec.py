"""Spec: what the user asks for, checked when it is made and before any money is spent."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from os import PathLike
from typing import Any, Self

from dayfly.errors import SpecError
from dayfly.infra import bucket_url, keep, spec_fields
from dayfly.infra.gpu_request import GpuRequest
from dayfly.infra.ssh_host import SshHost
from dayfly.infra.units import (
    human_seconds,
    is_positive,
    seconds,
    shown,
    size_bytes,
    suggestion,
)

DEFAULT_MAX_RUNTIME_S = 24 * 3600.0
DEFAULT_HOLD_S = 3600.0
DEFAULT_GRACE_S = 10.0
DEFAULT_GPU_WINDOW_S = 3600.0
# In less a GPU may wait for one batch of data.
_LEAST_GPU_WINDOW_S = 60.0
_MOST = 1_000_000
DISTRIBUTED = ("torchrun",)
PREFER_SPOT = "prefer"


@dataclass(frozen=True)
class Spec:
    """One request for a machine and for how a function runs on it.

    Attributes:
        provider: name of a provider, or several as a ladder.
        instance_type: the provider's own name of a machine type; None lets the other fields choose.
        region: the provider's own name of a region; None is any.
        spot: True for machines only that the provider may take back, "prefer" for those first and then the others of the
            same kind, False for none of them.
        image: the provider's own name of the image that a machine starts from; None is the newest with NVIDIA's driver
            where there is a GPU, and Ubuntu's own where there is none.
        host: an existing machine's name as the `ssh` of this computer takes it, "gpu-box" or "me@10.0.0.5:2222"; for
            provider="ssh" alone.
        cores: virtual cores at least.
        memory: bytes at least (given as "32GB" or a number).
        disk: free bytes at least.
        gpu: GPUs at least, "A100:1" or "A100-80GB:8"; any model by its memory, "24GB..48GB:2"; or several kinds of which
            any will do, the preferred one first, "H100:8,A100-80GB:8" or a list.
        nodes: machines in the stack, each as the other fields say.
        distributed: "torchrun" runs the function once on each machine, with a rank, as torchrun does; None runs it on one,
            and the items of a map on all.
        python: major.minor that the function needs; must be the client's own, since code travels as bytecode.
        environment: requirements (a list), a file of them, "live", or None for the project's own.
        system_packages: of the machine's own package manager ("ffmpeg"), installed as root before the environment is made.
        secrets: names of environment variables whose values the function may see.
        file_systems: names of persistent file systems of the provider to mount; they are never destroyed.
        allow_cidr: IPv4 network that may reach the machine, "203.0.113.7/32"; None is this computer's own address.
        max_runtime: seconds after which the machine ends (given as "24h", "01:00:00" or a number).
        max_cost: dollars that the run may cost at most; turns into a deadline from the actual rate.
        max_price: dollars an hour that the machines of the run may cost together.
        hold: seconds for which a result waits on the machine when the client is gone.
        grace: seconds between asking a function to end, at its deadline or when it is stopped, and ending it; what is longer
            than 10 s is taken from the time before the deadline. Half of `max_runtime` at most.
        keep: for how long the machine stays for the next call of the same Spec (given as "10m" or a number), or "on-failure"
            or "always" for until its deadline; None destroys it after each call.
        outputs: folder of this computer in which each run puts what its function has left in DAYFLY_OUTPUT_DIR, in a
            folder named by its id; None keeps it in the run's own directory.
        checkpoints: folder of a bucket, "s3://bucket/folder" (also gs, az), with which the machine itself keeps
            DAYFLY_CHECKPOINT_DIR in step, and from which it is filled in each run that names it; None brings it to this
            computer, for further attempts.
        retries: further attempts, each a run of its own, after the function or its machine failed.
        max_machines: machines to try at most where one after the other turns out to be unfit.
        wait_for_teardown: the call returns only when the machine is proved gone.
        job_name: a label for people, never an identity.
        min_gpu_utilization: percent; where no reading of a GPU reaches it for `gpu_utilization_window`, the machine itself
            ends the run as GpuIdle. None never does.
        gpu_utilization_window: seconds for that (given as "1h", "30m" or a number).

    Raises:
        SpecError: a field cannot be; names it with its value and what to write instead.
    """

    provider: str | Sequence[str] = "local"
    instance_type: str | None = None
    region: str | None = None
    spot: bool | str = False
    image: str | None = None
    host: str | None = None
    cores: int | None = None
    memory: int | str | None = None
    disk: int | str | None = None
    gpu: str | Sequence[str] | None = None
    nodes: int = 1
    distributed: str | None = None
    python: str | None = None
    environment: str | Sequence[str] | None = None
    system_packages: Sequence[str] = ()
    secrets: Sequence[str] = ()
    file_systems: Sequence[str] = ()
    allow_cidr: str | None = None
    max_runtime: float | str | timedelta = DEFAULT_MAX_RUNTIME_S
    max_cost: float | None = None
    max_price: float | None = None
    hold: float | str | timedelta = DEFAULT_HOLD_S
    grace: float | str | timedelta = DEFAULT_GRACE_S
    keep: float | str | timedelta | None = None
    outputs: str | PathLike[str] | None = None
    checkpoints: str | None = None
    retries: int = 0
    max_machines: int = 3
    wait_for_teardown: bool = False
    job_name: str | None = None
    min_gpu_utilization: float | None = None
    gpu_utilization_window: float | str | timedelta = DEFAULT_GPU_WINDOW_S

    def __post_init__(self) -> None:
        self._set("provider", spec_fields.checked_providers(self.provider))
        self._set("gpu", spec_fields.checked_gpu(self.gpu))
        self._set("secrets", spec_fields.checked_secrets(self.secrets))
        self._set("file_systems", spec_fields.checked_file_systems(self.file_systems))
        self._set("system_packages", spec_fields.checked_packages(self.system_packages))
        self._set("allow_cidr", spec_fields.checked_network(self.allow_cidr))
        self._set("max_runtime", seconds(self.max_runtime, "max_runtime"))
        self._set("hold", seconds(self.hold, "hold"))
        self._check_grace()
        self._set("keep", keep.checked(self.keep))
        self._check_idle()
        for name in ("memory", "disk"):
            value = getattr(self, name)
            self._set(name, None if value is None else size_bytes(value, name))
        self._set("environment", spec_fields.checked_environment(self.environment))
        self._set("outputs", spec_fields.checked_folder(self.outputs))
        if self.checkpoints is not None:
            self._set("checkpoints", bucket_url.checked(self.checkpoints, "checkpoints"))
        self._check_counts()
        self._check_keep()
        self._check_texts()
        spec_fields.check_python(self.python)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _check_counts(self) -> None:
        for name, least in (("cores", 1), ("nodes", 1), ("retries", 0), ("max_machines", 1)):
            value = getattr(self, name)
            if value is None and name == "cores":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise SpecError(f"{name}={shown(value)} must be a whole number of at least {least}")
            if value > _MOST:
                raise SpecError(f"{name}={shown(value)} must be at most {_MOST}")
        for name in ("max_cost", "max_price"):
            limit = getattr(self, name)
            if limit is not None and not is_positive(limit):
                per = " an hour" if name == "max_price" else ""
                raise SpecError(
                    f"{name}={shown(limit)} must be a number of dollars{per} above 0; leave it out for no limit"
                )

    def _check_keep(self) -> None:
        if self.keep is not None and self.nodes > 1:
            raise SpecError(
                f"keep={shown(self.keep)} and nodes={self.nodes} do not go together: one machine can be kept, not"
                " several; leave one of them out"
            )

    def _check_grace(self) -> None:
        given = self.grace
        self._set("grace", seconds(given, "grace"))
        if self.grace_s > max(DEFAULT_GRACE_S, self.max_runtime_s / 2):
            raise SpecError(
                f"grace={shown(given)} must be at most half of max_runtime, which is {human_seconds(self.max_runtime_s)}: it is"
                " taken from the function's own time; write less, or a longer max_runtime"
            )

    def _check_idle(self) -> None:
        least = self.min_gpu_utilization
        if least is not None and not (is_positive(least) and least <= 100):
            raise SpecError(
                f"min_gpu_utilization={shown(least)} must be a percentage above 0, 100 at most; leave it out to let a GPU idle"
            )
        given = self.gpu_utilization_window
        window_s = seconds(given, "gpu_utilization_window")
        if window_s < _LEAST_GPU_WINDOW_S:
            raise SpecError(
                f'gpu_utilization_window={shown(given)} must be "1m" at least: a GPU waits for data now and then'
            )
        self._set("gpu_utilization_window", window_s)

    def _check_texts(self) -> None:
        for name in ("instance_type", "region", "image", "host", "job_name"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise SpecError(f"{name}={value!r} must be a text that is not empty")
        if self.host is not None:
            SshHost.parse(self.host)
        if self.distributed not in (None, *DISTRIBUTED):
            raise SpecError(
                f"distributed={shown(self.distributed)} must be {' or '.join(map(repr, DISTRIBUTED))}; leave it out for a"
                " function that runs on one machine"
            )
        if not isinstance(self.spot, bool) and self.spot != PREFER_SPOT:
            raise SpecError(
                f"spot={shown(self.spot)} must be True, False or {PREFER_SPOT!r}: those first, and then on demand"
            )
        if not isinstance(self.wait_for_teardown, bool):
            raise SpecError(f"wait_for_teardown={self.wait_for_teardown!r} must be True or False")

    @property
    def providers(self) -> tuple[str, ...]:
        """The ladder of providers, first choice first."""
        return tuple(self.provider)

    @property
    def gpus(self) -> tuple[GpuRequest, ...]:
        """The kinds of GPUs of which any will do, the preferred one first; none where a machine needs none."""
        return () if self.gpu is None else GpuRequest.parse(str(self.gpu))

    @property
    def max_runtime_s(self) -> float:
        """`max_runtime` in seconds."""
        return float(self.max_runtime)  # type: ignore[arg-type]  # made a float when the Spec was

    @property
    def hold_s(self) -> float:
        """`hold` in seconds."""
        return float(self.hold)  # type: ignore[arg-type]  # made a float when the Spec was

    @property
    def grace_s(self) -> float:
        """`grace` in seconds."""
        return float(self.grace)  # type: ignore[arg-type]  # made a float when the Spec was

    @property
    def kept(self) -> float | str | None:
        """`keep` as seconds, "on-failure", "always" or None."""
        return self.keep  # type: ignore[return-value]  # made so when the Spec was

    @property
    def gpu_window_s(self) -> float:
        """`gpu_utilization_window` in seconds."""
        return float(self.gpu_utilization_window)  # type: ignore[arg-type]  # made a float when the Spec was

    @property
    def memory_bytes(self) -> int:
        """`memory` in bytes, 0 where any will do."""
        return int(self.memory or 0)

    @property
    def disk_bytes(self) -> int:
        """`disk` in bytes, 0 where any will do."""
        return int(self.disk or 0)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """From keyword arguments as the decorator takes them; `time` is another spelling of `max_runtime`.

        Raises:
            SpecError: an unknown option (the nearest names are suggested), or both spellings at once.
        """
        given = dict(options)
        if "time" in given:
            if "max_runtime" in given:
                raise SpecError(
                    "time= and max_runtime= are two spellings of one thing; give one of them"
                )
            given["max_runtime"] = given.pop("time")
            if given["max_runtime"] is None:
                del given["max_runtime"]
        known = {field.name for field in dataclasses.fields(cls)}
        for name in given:
            if name not in known:
                raise SpecError(f"unknown option {name!r}; {suggestion(name, known | {'time'})}")
        return cls(**given)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values that `Spec(**values)` takes back, to be kept and shown.

        Credentials in the addresses of `environment` are masked: only the call itself, which has this Spec, needs them.
        """
        kept = self.environment
        if isinstance(kept, str):
            kept = spec_fields.without_credentials(kept)
        elif kept is not None:
            kept = tuple(map(spec_fields.without_credentials, kept))
        return dataclasses.asdict(dataclasses.replace(self, environment=kept))
