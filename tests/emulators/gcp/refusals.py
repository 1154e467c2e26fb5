"""How Compute Engine refuses: at once, in its answer, or later, in the operation."""

from __future__ import annotations

import re
from typing import Any

# Of both statuses (terraform-provider-google, google/transport/error_retry_predicates.go: "incorrectly return a 403 rather than
# a 429 on rate limits").
TOO_MANY = (
    "Quota exceeded for quota metric 'Queries' and limit 'Queries per minute'"
    " of service 'compute.googleapis.com'."
)
_PER_MINUTE = re.compile(
    r"Quota exceeded for quota metric '.*' and limit '.* per minute' of service"
)


class Refusal(Exception):
    """An answer with a status of 400 and more.

    Attributes:
        status: of HTTP.
        reason: of `error.errors[]`.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason

    @property
    def is_tried_again(self) -> bool:
        """Whether the plugin asks once more, as `defaultErrorRetryPredicates` of that file have it."""
        too_many = self.status == 403 and bool(_PER_MINUTE.search(str(self)))
        return self.status in (429, 500, 502, 503) or too_many

    def envelope(self) -> dict[str, Any]:
        """The answer's body."""
        each = {"message": str(self), "domain": "global", "reason": self.reason}
        return {"error": {"code": self.status, "message": str(self), "errors": [each]}}


class Failure(Exception):
    """An operation that ends in `error.errors[]`.

    Attributes:
        code: of the error.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def denied(how: str, kind: str, path: str) -> Refusal:
    """What an account may not make at all, or not so often.

    Args:
        how: status and reason: "403 forbidden".
        kind: of what, "instances".
        path: of the one that was to be made.
    """
    status, _, reason = how.partition(" ")
    text = f"Required 'compute.{kind}.create' permission for '{path}'"
    return Refusal(int(status), reason, text if reason == "forbidden" else TOO_MANY)


def not_found(path: str) -> Refusal:
    """What nobody has."""
    return Refusal(404, "notFound", f"The resource '{path}' was not found")


def exists(path: str) -> Refusal:
    """A name that is taken."""
    return Refusal(409, "alreadyExists", f"The resource '{path}' already exists")


def invalid(field: str, value: object, why: str) -> Refusal:
    """A field that cannot be."""
    return Refusal(400, "invalid", f"Invalid value for field '{field}': '{value}'. {why}")


def in_use(kind: str, path: str, by: str) -> Refusal:
    """What something else still needs."""
    text = f"The {kind} resource '{path}' is already being used by '{by}'"
    return Refusal(400, "resourceInUseByAnotherResource", text)


def stockout(project: str, zone: str) -> Failure:
    """As recorded (googlefonts/fontbakery-dashboard#81, terraform-docs-samples#974)."""
    text = (
        f"The zone 'projects/{project}/zones/{zone}' does not have enough resources available to fulfill the request."
        "  '(resource type:compute)'."
    )
    return Failure("ZONE_RESOURCE_POOL_EXHAUSTED", text)


def quota(metric: str, limit: float, region: str) -> Failure:
    """As recorded (fastai/course-v3#165, terraform-provider-google#20573)."""
    where = f"in region {region}" if region else "globally"
    return Failure("QUOTA_EXCEEDED", f"Quota '{metric}' exceeded.  Limit: {limit:.1f} {where}.")
