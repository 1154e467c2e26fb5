"""Idle floor: whether `min_gpu_utilization=` can be kept where a function is to run; the machine itself keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dayfly.errors import GpuUnfit, SpecError
from dayfly.infra.offers import Offer
from dayfly.infra.spec import Spec

if TYPE_CHECKING:
    from dayfly.runtime.session import Session

_ANSWER_S = 30.0


def check_offer(spec: Spec, offer: Offer) -> None:
    """Refuses an Offer that has no GPU which could be used.

    Raises:
        SpecError: it has none.
    """
    if spec.min_gpu_utilization is not None and not offer.gpus:
        raise SpecError(
            f"min_gpu_utilization={spec.min_gpu_utilization:g}, but {offer.instance_type} of {offer.provider} has no GPU:"
            " leave it out, or ask for a gpu="
        )


def check_machine(spec: Spec, session: Session) -> None:
    """Refuses a machine that does not tell how much its GPUs do.

    Raises:
        GpuUnfit: its nvidia-smi is missing or does not answer; the function was not started there.
    """
    if spec.min_gpu_utilization is None or session.facts.gpus:
        return
    # The facts do not wait for a tool that is slow.
    failure = session.gpu_findings(_ANSWER_S).smi_failure
    if failure:
        raise GpuUnfit(
            f"{session.machine.id}: min_gpu_utilization={spec.min_gpu_utilization:g} cannot be kept there: {failure}",
            check="utilisation",
            found=failure,
        )
