"""The gpu grammar: what `gpu="A100-80GB:8"` asks for, in one place for all providers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dayfly.errors import SpecError

_FORM = re.compile(
    r"^(?P<model>[A-Za-z0-9][A-Za-z0-9 ]*?)(?:-(?P<memory>\d+)GB)?(?::(?P<count>\d+))?$", re.I
)


@dataclass(frozen=True)
class GpuRequest:
    """GPUs that a Spec asks for.

    Attributes:
        model: as vendors write it, in capitals without blanks: "A100", "RTX6000".
        count: how many at least.
        memory_gb: memory of each, as vendors write it; None is any.
    """

    model: str
    count: int = 1
    memory_gb: int | None = None

    @classmethod
    def parse(cls, text: str) -> GpuRequest:
        """From "A100", "A100:1" or "A100-80GB:8".

        Raises:
            SpecError: it is not of that form.
        """
        match = _FORM.match(text.strip())
        if match is None or (match["count"] is not None and int(match["count"]) < 1):
            raise SpecError(f'gpu={text!r}: write "MODEL:COUNT", e.g. "A100:1" or "A100-80GB:8"')
        memory = match["memory"]
        return cls(
            normal_model(match["model"]), int(match["count"] or 1), int(memory) if memory else None
        )

    def fits(self, model: str, memory_gb: float) -> bool:
        """Whether GPUs that a price list calls so are the kind that is asked for, however many there are."""
        return normal_model(model) == self.model and self._is_near(memory_gb)

    def is_met_by(self, gpu: DriverGpu) -> bool:
        """Whether a GPU that a driver has found is of the kind that is asked for."""
        # "Quadro RTX 6000" is an RTX6000, and an "A100" is no A10.
        model = re.sub(r"(?<=[A-Z])(?=[0-9])", " ?", self.model)
        named = re.search(rf"(?<![A-Z0-9]){model}(?![A-Z0-9])", gpu.name.upper()) is not None
        return named and self._is_near(gpu.memory_gb)

    def _is_near(self, memory_gb: float) -> bool:
        # Drivers and price lists round the same memory differently: 80 GB, 81,559 MiB, 79.6 GiB.
        return self.memory_gb is None or abs(memory_gb - self.memory_gb) <= 0.1 * self.memory_gb


@dataclass(frozen=True)
class DriverGpu:
    """One GPU as its driver tells of it.

    Attributes:
        name: "NVIDIA A100-SXM4-40GB".
        memory_gb: 0 where the driver does not say.
    """

    name: str
    memory_gb: float

    @classmethod
    def of(cls, line: str) -> DriverGpu:
        """From one line of `nvidia-smi --query-gpu=name,memory.total --format=csv,noheader,nounits`."""
        name, _, mib = line.rpartition(",")
        number = mib.strip()
        return cls(
            name.strip() or number, float(number) / 1024 if name and number.isdigit() else 0.0
        )


def normal_model(text: str) -> str:
    """A model's name as it is compared: "RTX 6000", "rtx6000" and "Tesla V100" are RTX6000 and V100."""
    return re.sub(r"^(NVIDIA|TESLA|QUADRO)", "", text.upper().replace(" ", ""))
