"""Run a Python function on a machine that exists for that call only, and is proved gone afterwards."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dayfly.errors import DayflyError, LeakRisk
    from dayfly.infra.machine import Machine
    from dayfly.infra.offers import Offer
    from dayfly.infra.plan import Plan
    from dayfly.infra.spec import Spec
    from dayfly.runtime.attach import attach
    from dayfly.runtime.cluster import RemoteFunction, cluster
    from dayfly.runtime.data import Data
    from dayfly.runtime.gather import gather
    from dayfly.runtime.job import Job
    from dayfly.runtime.market import offers
    from dayfly.runtime.warm_call import WarmCall
    from dayfly.runtime.warm_run import WarmRun
    from dayfly.stacks.receipt import Receipt

__all__ = [
    "Data",
    "DayflyError",
    "Job",
    "LeakRisk",
    "Machine",
    "Offer",
    "Plan",
    "Receipt",
    "RemoteFunction",
    "Spec",
    "WarmCall",
    "WarmRun",
    "attach",
    "cluster",
    "gather",
    "offers",
]

# Loaded at first use, so that `import dayfly` costs next to nothing.
_HOME = {
    "Data": "dayfly.runtime.data",
    "DayflyError": "dayfly.errors",
    "Job": "dayfly.runtime.job",
    "LeakRisk": "dayfly.errors",
    "Machine": "dayfly.infra.machine",
    "Offer": "dayfly.infra.offers",
    "Plan": "dayfly.infra.plan",
    "Receipt": "dayfly.stacks.receipt",
    "RemoteFunction": "dayfly.runtime.cluster",
    "Spec": "dayfly.infra.spec",
    "WarmCall": "dayfly.runtime.warm_call",
    "WarmRun": "dayfly.runtime.warm_run",
    "attach": "dayfly.runtime.attach",
    "cluster": "dayfly.runtime.cluster",
    "gather": "dayfly.runtime.gather",
    "offers": "dayfly.runtime.market",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dayfly' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
