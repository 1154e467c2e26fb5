"""pulumi-aws, of which the parts that a run needs take more than a second to be loaded."""

from __future__ import annotations

import warnings
from typing import Any


def load() -> Any:
    """The package, with those parts."""
    with warnings.catch_warnings():
        # Loading it makes its own old names warn of themselves, whoever uses them.
        warnings.simplefilter("ignore", DeprecationWarning)
        import pulumi_aws

        # Each part is loaded when something of it is looked at.
        for part, name in (("ec2", "Instance"), ("ssm", "Parameter")):
            getattr(getattr(pulumi_aws, part), name)
    return pulumi_aws
