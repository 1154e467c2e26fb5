"""Variables of the environment that every process of a run may see: no credential is among them."""

from __future__ import annotations

import re

ALWAYS = re.compile(
    r"^(https?_proxy|no_proxy|all_proxy|ssl_cert_(file|dir)|requests_ca_bundle|curl_ca_bundle"
    r"|aws_ca_bundle|home|user|logname|lang|lc_.*|tmpdir|dayfly_home)$",
    re.IGNORECASE,
)
