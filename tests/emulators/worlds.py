"""Several emulated clouds at once, as the environment tells of them."""

from __future__ import annotations

from collections.abc import Mapping

# A list, to which each has to add its own.
_ATTACHED = "PULUMI_DEBUG_PROVIDERS"


def together(*environments: Mapping[str, str]) -> dict[str, str]:
    """One environment for all of them: the plugins of each are attached to."""
    attached = [each[_ATTACHED] for each in environments if each.get(_ATTACHED)]
    merged = {name: value for each in environments for name, value in each.items()}
    return merged | ({_ATTACHED: ",".join(attached)} if attached else {})
