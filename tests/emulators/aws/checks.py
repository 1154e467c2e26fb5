"""What the plugin says of inputs before AWS is asked."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence

from tests.emulators.plugin import UNKNOWN, Values

# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateSecurityGroup.html
_DESCRIPTION = re.compile(r"[a-zA-Z0-9. _\-:/()#,@\[\]+=&;{}!$*]{1,255}")


def _check_key(inputs: Values) -> Sequence[tuple[str, str]]:
    key = str(inputs.get("publicKey", ""))
    known = key in (UNKNOWN, "") or key.startswith(("ssh-rsa ", "ssh-ed25519 "))
    return [] if known else [("publicKey", f"invalid public key: {key!r}")]


def _check_group(inputs: Values) -> Sequence[tuple[str, str]]:
    wrong = []
    description = str(inputs.get("description", "Managed by Pulumi"))
    if not _DESCRIPTION.fullmatch(description):
        wrong.append(("description", f"invalid value for description: {description!r}"))
    for rule in [*inputs.get("ingress", ()), *inputs.get("egress", ())]:
        for cidr in rule.get("cidrBlocks", ()):
            try:
                ipaddress.IPv4Network(cidr)
            except ValueError as error:
                wrong.append(("cidrBlocks", f'"{cidr}" is not a valid CIDR block: {error}'))
    return wrong


def _check_instance(inputs: Values) -> Sequence[tuple[str, str]]:
    wrong = []
    behaviour = inputs.get("instanceInitiatedShutdownBehavior", "stop")
    if behaviour not in ("stop", "terminate"):
        wrong.append(
            ("instanceInitiatedShutdownBehavior", f"expected stop or terminate, got {behaviour}")
        )
    tokens = inputs.get("metadataOptions", {}).get("httpTokens", "optional")
    if tokens not in ("optional", "required"):
        wrong.append(("metadataOptions.httpTokens", f"expected optional or required, got {tokens}"))
    market = inputs.get("instanceMarketOptions", {}).get("marketType", "spot")
    if market not in ("spot", "capacity-block"):
        wrong.append(("instanceMarketOptions.marketType", f"unknown: {market}"))
    return wrong


CHECKS: Mapping[str, Callable[[Values], Sequence[tuple[str, str]]]] = {
    "aws:ec2/keyPair:KeyPair": _check_key,
    "aws:ec2/securityGroup:SecurityGroup": _check_group,
    "aws:ec2/instance:Instance": _check_instance,
}
