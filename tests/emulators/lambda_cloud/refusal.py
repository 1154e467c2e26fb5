"""What the API says when it does not do what it was asked: a status and an error envelope with a documented code."""

from __future__ import annotations

from typing import Any


class Refusal(Exception):
    """One error answer.

    Attributes:
        status: of HTTP.
        code: the documented one, that clients branch on.
        suggestion: left out of the envelope when empty.
    """

    def __init__(self, status: int, code: str, message: str, suggestion: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.suggestion = suggestion

    def envelope(self) -> dict[str, Any]:
        """The body of the answer."""
        error = {"code": self.code, "message": self.message}
        return {"error": error | ({"suggestion": self.suggestion} if self.suggestion else {})}


def invalid(message: str = "Invalid request data.") -> Refusal:
    """The request itself is wrong."""
    return Refusal(400, "global/invalid-parameters", message)


def missing(message: str) -> Refusal:
    """Something that the request names does not exist."""
    return Refusal(
        404, "global/object-does-not-exist", message, "Check that it exists and try again."
    )


def not_found() -> Refusal:
    """Nothing is at this address."""
    return Refusal(404, "global/not-found", "The requested resource was not found.")


def conflict() -> Refusal:
    """Not in this state."""
    return Refusal(
        409, "global/conflict", "The request conflicts with the current state of the resource."
    )


def invalid_key() -> Refusal:
    """No key, or one that opens nothing."""
    return Refusal(
        401,
        "global/invalid-api-key",
        "API key was invalid, expired, or deleted.",
        "Check your API key or create a new one, then try again.",
    )


def inactive() -> Refusal:
    """The account is not in order."""
    return Refusal(
        403,
        "global/account-inactive",
        "Your account is inactive.",
        "Make sure you have verified your email address and have a valid payment method. "
        "Contact Support if problems continue.",
    )


def invalid_address() -> Refusal:
    """The account has no address for bills, which launches and file systems need."""
    return Refusal(
        403,
        "global/invalid-address",
        "Your billing address is invalid.",
        "Make sure your billing address is valid. Contact Support if problems continue.",
    )


def forbidden() -> Refusal:
    """The key is of a member who may not; of what is emulated only whoever asks for instances hears it."""
    return Refusal(403, "global/forbidden", "The API key may not do this.")


def quota_exceeded() -> Refusal:
    """The account has as many as it may have."""
    return Refusal(
        400, "global/quota-exceeded", "Quota exceeded.", "Contact Support to increase your quota."
    )


def insufficient_capacity(regions: list[str]) -> Refusal:
    """The type has no machine left in this region; the suggestion names the regions that list it."""
    suggestion = f"This instance type is available in: {', '.join(regions)}." if regions else ""
    return Refusal(
        400,
        "instance-operations/launch/insufficient-capacity",
        "Not enough capacity to fulfill launch request.",
        suggestion,
    )


def unknown() -> Refusal:
    """Seen in the field when a launch names a key of which there are two."""
    return Refusal(500, "global/unknown", "An unknown error occurred.")
