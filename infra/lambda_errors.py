"""What Lambda Cloud's API refuses, as typed errors by its own codes; every message ends in "[code ...]"."""

from __future__ import annotations

import re

from dayfly.infra.cloud_error import CloudError
from dayfly.infra.providers.base import FailureKind

_CODE = r"\[code ([a-z0-9/_.-]+)\]"
_KINDS: dict[str, FailureKind] = {
    "global/invalid-api-key": "auth",
    "global/account-inactive": "auth",
    "global/invalid-address": "auth",
    "global/forbidden": "auth",
    "global/quota-exceeded": "quota",
    "instance-operations/launch/insufficient-capacity": "capacity",
    "instance-operations/launch/file-system-in-wrong-region": "invalid",
    "global/invalid-parameters": "invalid",
    "global/object-does-not-exist": "invalid",
    "global/not-found": "invalid",
    "global/duplicate": "invalid",
    "global/conflict": "transient",
    "global/internal-error": "transient",
    "firewall-rulesets/firewall-ruleset-in-use": "invalid",
    "filesystems/filesystem-in-use": "invalid",
    "http/429": "rate_limit",
    # Ours, of what happened on the way or to the machine.
    "dayfly/unreachable": "transient",
    "dayfly/unanswered": "transient",
    "dayfly/maybe-created": "transient",
    "dayfly/not-ready": "transient",
    "dayfly/unhealthy": "transient",
    "dayfly/preempted": "capacity",
    "dayfly/ended": "transient",
}
_FIXES = {
    "global/invalid-api-key": "make a new key at https://cloud.lambda.ai/api-keys",
    "global/account-inactive": "confirm your e-mail address and payment method at https://cloud.lambda.ai",
    "global/invalid-address": "correct the billing address at https://cloud.lambda.ai/settings/billing",
    "global/forbidden": "use a key of a member who may do this",
    "global/quota-exceeded": "end machines that are up (`dayfly ps`, https://cloud.lambda.ai/instances), or ask Lambda's"
    " support for a larger quota",
}
_IN_USE = ("firewall-rulesets/firewall-ruleset-in-use",)
# Lambda's description of its API says so of this one: firewall rules do not apply there.
_WITHOUT_FIREWALL = ("us-south-1",)
_UNSUPPORTED = r"(?i)\b(not (supported|available)|unsupported|unavailable|do(es)? not apply)\b"
_GONE = ("global/object-does-not-exist", "global/not-found")


class ApiError(CloudError):
    """The API said no, or said nothing that can be used.

    Attributes:
        message: the API's own words.
        retry_after_s: how long the API asks to wait, None where it does not say.
    """

    called = "Lambda Cloud"
    gone_codes, in_use_codes = _GONE, _IN_USE

    def __init__(
        self, doing: str, code: str, message: str, retry_after_s: float | None = None
    ) -> None:
        super().__init__(doing, code, message, kind_of(code), _FIXES.get(code))
        self.message = message
        self.retry_after_s = retry_after_s


class Unanswered(ApiError):
    """No usable answer came to a request that may have arrived: what it asked for may have been done."""


class MaybeCreated(ApiError):
    """Whether a creating request was carried out is not known, and no listing has shown it: maybe it comes late."""


def is_without_firewall(error: ApiError, region: str) -> bool:
    """True where a ruleset was refused because its region has none; a wrong rule, say, has the same code."""
    if error.code != "global/invalid-parameters":
        return False
    named = re.search(rf"\b{re.escape(region)}\b", error.message) is not None
    return region in _WITHOUT_FIREWALL or (named and bool(re.search(_UNSUPPORTED, error.message)))


def kind_of(code: str) -> FailureKind:
    """The standard kind of one code; one that nobody has described is unknown."""
    if code.startswith("provider/"):
        return "transient"
    if code.startswith("http/5"):
        return "transient"
    return _KINDS.get(code, "unknown")


def code_in(text: str) -> str:
    """The first code in a text, as the engine passes our messages on; "" without."""
    found = re.search(_CODE, text)
    return "" if found is None else found[1]
