"""What Compute Engine refuses, as typed errors by its own codes; every message of ours ends in "[code ...]".

The one file that knows the exceptions of Google's libraries.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from dayfly.infra.cloud_error import CloudError
from dayfly.infra.providers.base import FailureKind

# Of operations (`operation.error.errors[].code`) and of answers (`error.errors[].reason`), as Compute Engine documents
# them (docs "Resource errors", "Troubleshooting quota errors", API reference "Error messages").
KINDS: dict[str, FailureKind] = {
    "ZONE_RESOURCE_POOL_EXHAUSTED": "capacity",
    "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS": "capacity",
    "insufficientCapacity": "capacity",
    "VM_MIN_COUNT_NOT_REACHED": "capacity",
    "QUOTA_EXCEEDED": "quota",
    "quotaExceeded": "quota",
    "limitExceeded": "quota",
    "PERMISSIONS_ERROR": "auth",
    "forbidden": "auth",
    "authError": "auth",
    "accessNotConfigured": "auth",
    "SERVICE_DISABLED": "auth",
    "required": "invalid",
    "invalid": "invalid",
    "badRequest": "invalid",
    "notFound": "invalid",
    "RESOURCE_NOT_FOUND": "invalid",
    "alreadyExists": "invalid",
    "RESOURCE_ALREADY_EXISTS": "invalid",
    "rateLimitExceeded": "rate_limit",
    "userRateLimitExceeded": "rate_limit",
    "RATE_LIMIT_EXCEEDED": "rate_limit",
    "resourceNotReady": "transient",
    "RESOURCE_NOT_READY": "transient",
    "resourceInUseByAnotherResource": "transient",
    "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE": "transient",
    "backendError": "transient",
    "internalError": "transient",
    "INTERNAL_ERROR": "transient",
    "RESOURCE_OPERATION_RATE_EXCEEDED": "rate_limit",
    # Ours, of what happened on the way.
    "dayfly/unreachable": "transient",
}
# The plugin, as Terraform's provider that it is made of, leaves the code of a failed operation out and prints its message
# alone (terraform-provider-google, google/services/compute/compute_operation.go, writeOperationError): of those that matter
# the message begins or ends with words that are always the same.
_SAID: dict[str, FailureKind] = {
    "does not have enough resources available to fulfill the request": "capacity",
    "' exceeded.": "quota",
}
# Two more of those sentences are recorded by many, "A c2d-standard-32 VM instance is currently unavailable in the us-east1-c
# zone." (of ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS) and "Instance failed to start due to preemption." (of
# UNSUPPORTED_OPERATION, which alone says nothing; GoogleCloudPlatform/PerfKitBenchmarker tells it by the same words).
_WITHOUT_CODE: dict[str, FailureKind] = {
    "login": "auth",
    "unavailable": "capacity",
    "preempted": "capacity",
}
# In this order: an answer's reason at the end of its line, an operation's code anywhere, ours, and those words.
CODE = (
    r"googleapi: Error \d{3}: [^\n]*, (?P<reason>[A-Za-z]+)\b"
    r"|\bReason: (?P<more>[A-Za-z]+), Message: "
    r"|\[code (?P<ours>[A-Za-z_/]+)\]"
    r"|\b(?P<operation>[A-Z]{2,}(?:_[A-Z]+)+)\b"
    r"|(?P<unavailable>\bVM instance (?:with .{1,200}? )?is currently unavailable in the [a-z0-9-]+\s+zone\b)"
    r"|(?P<preempted>\bInstance failed to start due to preemption\b)"
    r"|(?P<full>does not have enough resources available to fulfill the request)"
    r"|\bQuota '[A-Z0-9_-]+(?P<quota>' exceeded\.)"
    r"|(?P<login>could not find default credentials|\"invalid_grant\")"
)
_GLOBALLY = r"\bQuota '[A-Z0-9_-]+' exceeded\.\s+Limit: [\d.]+ globally"
_GONE = ("notFound", "RESOURCE_NOT_FOUND")
# Somebody else holds it, or it is ending already.
_BUSY = ("resourceInUseByAnotherResource", "resourceNotReady")
# What can be done about it.
_FIXES = {
    "accessNotConfigured": "switch the API on in this project (`gcloud services enable compute.googleapis.com`)",
    "forbidden": "give this account the permissions of docs/policies/gcp-permissions.txt",
    "authError": "run `gcloud auth application-default login` again",
}


class GcpError(CloudError):
    """Google Cloud said no, or said nothing that can be used.

    Attributes:
        code: the API's own reason, or one of ours.
    """

    called = "Google Cloud"
    gone_codes, in_use_codes = _GONE, _BUSY

    def __init__(self, doing: str, code: str, message: str) -> None:
        kind = KINDS.get(code, "unknown")
        super().__init__(doing, code, message, kind, _FIXES.get(code))


@contextlib.contextmanager
def asking(doing: str) -> Iterator[None]:
    """Turns what Google's libraries raise into a GcpError.

    Args:
        doing: what the request is for, in the message: "listing instances".
    """
    import requests
    from google.api_core.exceptions import GoogleAPICallError, GoogleAPIError
    from google.auth.exceptions import GoogleAuthError, TransportError
    from google.auth.exceptions import TimeoutError as AuthTimeoutError

    try:
        yield
    except GoogleAPICallError as error:
        raise GcpError(doing, _reason(error), str(error.message)) from error
    except GoogleAuthError as error:
        # Nobody has refused a log-in where nobody has answered.
        unanswered = any(isinstance(e, (TransportError, AuthTimeoutError)) for e in _causes(error))
        code = "dayfly/unreachable" if unanswered or error.retryable else "authError"
        raise GcpError(doing, code, str(error)) from error
    except (GoogleAPIError, requests.RequestException) as error:
        raise GcpError(doing, "dayfly/unreachable", str(error)) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def _reason(error: Any) -> str:
    """The reason of an answer, which its status stands in for where a proxy or a load balancer has answered."""
    for each in error.errors or ():
        if isinstance(each, dict) and each.get("reason"):
            return str(each["reason"])
    by_status = {401: "authError", 403: "forbidden", 404: "notFound", 429: "rateLimitExceeded"}
    status = int(error.code or 500)
    return by_status.get(status, "backendError" if status >= 500 else "badRequest")


def kind_in(text: str) -> FailureKind:
    """The standard kind of what the engine or the API said, by the first code in it that is known."""
    for match in re.finditer(CODE, text):
        found = match[match.lastgroup or 0]
        if kind := _WITHOUT_CODE.get(match.lastgroup or ""):
            return kind
        if kind := KINDS.get(found) or _SAID.get(found):
            return kind
    return "unknown"


def is_global_quota(text: str) -> bool:
    """Whether a quota is the project's, in all regions ('GPUS_ALL_REGIONS'), and not that of one region."""
    return re.search(_GLOBALLY, text) is not None or "_ALL_REGIONS" in text
