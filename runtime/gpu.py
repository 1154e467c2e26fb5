"""GPU verification: what was found of a machine's GPUs against the Offer that is paid for, before any function starts.

A machine may be active and its GPU not work: nvidia-smi fine, and every program fails at its first call.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dayfly.errors import GpuUnfit
from dayfly.infra.gpu_request import is_named
from dayfly.infra.offers import Offer

if TYPE_CHECKING:
    from dayfly.runtime.records import Gpu, GpuFindings
    from dayfly.runtime.session import Session

# Loading the driver and making contexts takes some seconds where nothing keeps it loaded, times eight on a large machine.
_ANSWER_S = 120.0
# The switches between the GPUs of one machine are set up by a service of its own, which takes a minute or two.
_STARTING_S = 240.0
_ASK_AGAIN_S = 5.0
# Both tools count without what the driver and error correction take, and a price list rounds.
_MEMORY_SHARE = 0.93
_VENDOR = frozenset({"nvidia", "tesla", "quadro", "geforce"})
_FORM = re.compile(r"\d+gb|pcie|nvl|sxm\d*|hbm\d*e?")


def verify(
    session: Session,
    offer: Offer,
    machine_id: str,
    *,
    answer_s: float = _ANSWER_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> GpuFindings:
    """Have the machine list and try out its GPUs, and hold that against the Offer.

    Args:
        session: with the machine.
        offer: what is paid for.
        machine_id: for the words.
        answer_s: how long the tool and the driver may take.
        clock: a monotonic clock.
        sleep: waits between two looks at GPUs that are still being set up.

    Returns:
        What was found, which is as offered.

    Raises:
        GpuUnfit: it is not, or a GPU cannot be used; names the first check that failed.
    """
    until = clock() + _STARTING_S
    while True:
        findings = session.gpu_findings(answer_s)
        failed = unfitness(offer, findings)
        if failed is None:
            return findings
        if not findings.starting or clock() >= until:
            break
        sleep(_ASK_AGAIN_S)
    check, found = failed
    raise GpuUnfit(
        f"machine {machine_id} failed the GPU check {check!r}: {_wanted(offer)} was offered, found: {found}",
        check=check,
        found=found,
    )


def unfitness(offer: Offer, findings: GpuFindings) -> tuple[str, str] | None:
    """The first check that fails, and what was found instead; None where the GPUs are as offered and work."""
    least = _least_bytes(offer)
    right = [gpu for gpu in findings.listed if is_model(offer.gpu_model, gpu.name)]
    large = [gpu for gpu in right if gpu.memory_bytes >= least or not gpu.memory_bytes]
    usable = [gpu for gpu in findings.usable if gpu.memory_bytes >= least]
    listed = _gpus("nvidia-smi lists", findings.listed)
    used = _gpus("the driver sees", findings.usable)
    # In this order: a check means something only where those before it have passed.
    checks = (
        ("nvidia-smi", not findings.smi_failure, findings.smi_failure),
        ("count", len(findings.listed) >= offer.gpus, listed),
        ("model", len(right) >= offer.gpus, listed),
        ("memory", len(large) >= offer.gpus, listed),
        ("driver", not findings.driver_failure, findings.driver_failure),
        ("driver count", len(findings.usable) >= offer.gpus, used),
        ("driver memory", len(usable) >= offer.gpus, used),
    )
    return next(((check, found) for check, passes, found in checks if not passes), None)


def is_model(wanted: str, name: str) -> bool:
    """Whether a GPU of this full name is one of that model: "A100" is "NVIDIA A100-SXM4-40GB" and not "NVIDIA A10"."""
    asked = [word for word in _words(wanted) if word not in _VENDOR and not _FORM.fullmatch(word)]
    return is_named("".join(asked).upper(), name)


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", name.lower())


def _least_bytes(offer: Offer) -> float:
    """What each GPU must have at least; a size in the model's name ("A100-80GB") counts where no other is known."""
    named = re.search(r"(\d+)\s*GB", offer.gpu_model, re.IGNORECASE)
    gigabytes = offer.gpu_memory_gb or (float(named[1]) if named else 0.0)
    return gigabytes * 1e9 * _MEMORY_SHARE


def _wanted(offer: Offer) -> str:
    memory = f" with {offer.gpu_memory_gb:g} GB each" if offer.gpu_memory_gb else ""
    return f"{offer.gpus} x {offer.gpu_model}{memory}"


def _gpus(who: str, found: Sequence[Gpu]) -> str:
    told = ", ".join(f"{gpu.name} ({gpu.memory_bytes >> 20} MiB)" for gpu in found)
    return f"{who} {told or 'no GPU'}"
