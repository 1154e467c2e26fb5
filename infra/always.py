"""Variables of the environment that every process of a run may see: no credential is among them."""

from __future__ import annotations

import re

_ALWAYS = (
    r"(?i)^(https?_proxy|no_proxy|all_proxy|ssl_cert_(file|dir)|requests_ca_bundle|curl_ca_bundle"
    r"|aws_ca_bundle|home|user|logname|lang|lc_.*|tmpdir|dayfly_home)$"
)


def is_for_all(name: str) -> bool:
    """Whether every process of a run may see the variable of that name."""
    return re.match(_ALWAYS, name) is not None
