"""The gpu grammar: what `gpu="A100-80GB:8"` asks for, in one place for all providers."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from dayfly.errors import SpecError

# A hyphen begins a size, "-80GB", or goes on with the name: "H100-NVL", "RTX-PRO-6000".
_MODEL = r"(?P<model>[A-Z][A-Z0-9 ]*(?:-(?:[A-Z]|\d{3,}(?!\d*GB))[A-Z0-9 ]*)*)(?:-(?P<memory>[1-9]\d*)GB)?"
_SIZE = r"[1-9]\d*"
_MEMORY = rf"(?P<least>{_SIZE})GB|(?:(?P<low>{_SIZE})GB)?\.\.(?:(?P<high>{_SIZE})GB)?"
_COUNT = r"[1-9]\d{0,3}"
# A driver counts in GiB what is left of the vendor's gigabytes: 44.7 of 48, 79.6 of 80, 22.2 of 24.
_TAKEN = 0.08
_MAKERS = r"^(NVIDIA|TESLA|QUADRO|GEFORCE)"


@dataclass(frozen=True)
class GpuRequest:
    """One kind of GPUs that a Spec asks for.

    Attributes:
        model: as vendors write it, in capitals without blanks: "A100", "RTX6000"; "" is any.
        count: how many at least.
        least_gb: memory of each at least, as vendors write it.
        most_gb: memory of each at most.
    """

    model: str
    count: int = 1
    least_gb: float = 0.0
    most_gb: float = math.inf

    @classmethod
    @functools.lru_cache  # A ladder asks it of each machine that is sold.
    def parse(cls, text: str) -> tuple[GpuRequest, ...]:
        """The kinds of which any will do, the preferred one first.

        From "A100", "A100-80GB:8", "24GB..48GB:2" (any model with so much memory each; either end may be left out, and
        "24GB" is that much at least), or several of them: "H100,A100-80GB".

        Raises:
            SpecError: it is not of that form, or says of some kinds how many, and not of others.
        """
        parts = [part.strip() for part in text.split(",")]
        found = [each for each in map(cls._one, parts) if each is not None]
        if len(found) < len(parts):
            raise SpecError(
                f'gpu={text!r}: write "MODEL:COUNT", e.g. "A100:1" or "A100-80GB:8", a range of memory, "24GB..48GB:2",'
                ' or several, the preferred one first: "H100:8,A100-80GB:8"'
            )
        without = [part for part in parts if ":" not in part]
        if without and len(without) < len(parts):
            raise SpecError(
                f"gpu={text!r} does not say how many {without[0]} it asks for: write a number behind each, {without[0]}:1"
            )
        return tuple(dict.fromkeys(found))

    @classmethod
    def _one(cls, text: str) -> GpuRequest | None:
        """One kind; None where it is of no form."""
        kind, colon, number = text.upper().partition(":")
        if colon and not re.fullmatch(_COUNT, number):
            return None
        count = int(number or 1)
        if match := re.fullmatch(_MEMORY, kind):
            least, most = match["least"] or match["low"], match["high"]
            if least is None and most is None:
                return None
            found = cls("", count, float(least or 0), float(most or math.inf))
            return found if found.least_gb <= found.most_gb else None
        if match := re.fullmatch(_MODEL, kind):
            memory = match["memory"]
            low, high = (float(memory), float(memory)) if memory else (0.0, math.inf)
            return cls(normal_model(match["model"]), count, low, high)
        return None

    def fits(self, model: str, memory_gb: float) -> bool:
        """Whether GPUs that a price list calls so are the kind that is asked for, however many there are."""
        # A vendor's size is a whole number; some lists have what the driver tells of it, 44.7.
        return self._is_model(model) and self._is_between(round(memory_gb), 0.0)

    def is_sold_with(self, machine: Machinery) -> bool:
        """Whether a machine has enough of them."""
        fits = self.fits(machine.gpu_model, machine.gpu_memory_gb)
        return machine.gpus >= self.count and fits

    def is_met_by(self, gpu: DriverGpu) -> bool:
        """Whether a GPU that a driver has found is of the kind that is asked for."""
        return self._is_model(gpu.name) and self._is_between(gpu.memory_gb, _TAKEN)

    def _is_model(self, name: str) -> bool:
        return not self.model or is_named(self.model, name)

    def _is_between(self, memory_gb: float, tolerance: float) -> bool:
        if (self.least_gb, self.most_gb) == (0.0, math.inf):
            return True
        low, high = self.least_gb * (1 - tolerance), self.most_gb * (1 + tolerance)
        return memory_gb > 0 and low <= memory_gb <= high


class Machinery(Protocol):
    """What a price list tells of a machine's GPUs."""

    @property
    def gpus(self) -> int:
        """How many."""
        ...

    @property
    def gpu_model(self) -> str:
        """What they are."""
        ...

    @property
    def gpu_memory_gb(self) -> float:
        """Memory of each."""
        ...


class DriverGpu(NamedTuple):
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
    """A model's name as it is compared: "RTX 6000", "rtx6000" and "Quadro RTX-6000" are RTX6000."""
    return re.sub(_MAKERS, "", text.upper().replace(" ", "").replace("-", ""))


def is_named(model: str, name: str) -> bool:
    """Whether the full name of a GPU has that model in it: RTX6000 in "Quadro RTX 6000", H100 in "H100-NVL", and no A10 in
    "NVIDIA A100"."""
    words = re.findall(r"[A-Z0-9]+", name.upper())
    return any(
        "".join(words[start:end]) == model
        for start in range(len(words))
        for end in range(start + 1, len(words) + 1)
    )
