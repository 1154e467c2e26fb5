"""Options: what the decorator takes by keyword."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from os import PathLike
from typing import TYPE_CHECKING, Any, TypedDict

from dayfly.errors import SpecError
from dayfly.infra.units import shown

if TYPE_CHECKING:
    from dayfly.stacks.policies import Check


class Options(TypedDict, total=False):
    """What the decorator takes: the fields of `Spec`, `time` as another spelling of `max_runtime`, and `policies`: functions that
    take a Plan of one rung and deny it with a text, by returning False, or by raising."""

    provider: str | Sequence[str]
    instance_type: str | None
    region: str | None
    spot: bool | str
    image: str | None
    host: str | None
    cores: int | None
    memory: int | str | None
    disk: int | str | None
    gpu: str | Sequence[str] | None
    nodes: int
    distributed: str | None
    python: str | None
    environment: str | Sequence[str] | None
    system_packages: Sequence[str]
    secrets: Sequence[str]
    file_systems: Sequence[str]
    allow_cidr: str | None
    max_runtime: float | str | timedelta
    time: float | str | timedelta | None
    max_cost: float | None
    max_price: float | None
    hold: float | str | timedelta
    grace: float | str | timedelta
    keep: float | str | timedelta | None
    outputs: str | PathLike[str] | None
    checkpoints: str | None
    retries: int
    max_machines: int
    wait_for_teardown: bool
    job_name: str | None
    min_gpu_utilization: float | None
    gpu_utilization_window: float | str | timedelta
    policies: Sequence[Check]


def split(options: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[Check, ...]]:
    """What is asked for, and the policies, which are functions and no part of a Spec.

    Raises:
        SpecError: the policies are no list of functions.
    """
    given = dict(options)
    checks = given.pop("policies", ())
    if not isinstance(checks, list | tuple) or not all(map(callable, checks)):
        raise SpecError(
            f"policies={shown(checks)} must be a list of functions, each of which takes a Plan"
        )
    return given, tuple(checks)
