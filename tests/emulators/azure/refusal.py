"""What the API refuses, in its own envelope."""

from __future__ import annotations

from typing import Any


class ArmError(Exception):
    """One refusal.

    Attributes:
        status: of HTTP.
        code, message: of the envelope.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message

    @property
    def retry_after_s(self) -> int | None:
        """Of its header Retry-After; None where it has none."""
        return 1 if self.status == 429 else None

    def as_json(self) -> dict[str, Any]:
        """The answer's body."""
        return {"error": {"code": self.code, "message": self.message}}


def invalid(message: str, code: str = "InvalidParameter") -> ArmError:
    """A property is not as documented."""
    return ArmError(400, code, message)


def no_group(name: str) -> ArmError:
    """There is no resource group of that name."""
    return ArmError(404, "ResourceGroupNotFound", f"Resource group '{name}' could not be found.")


def missing(id: str, group: str) -> ArmError:
    """There is no resource of that id in a group that is there."""
    type_name = "/".join(id.split("/providers/")[1].split("/"))
    return ArmError(
        404,
        "ResourceNotFound",
        f"The Resource '{type_name}' under resource group '{group}' was not found. For more details please go to"
        " https://aka.ms/ARMResourceNotFoundFix",
    )


def no_reference(reference: str, by: str) -> ArmError:
    """A resource names another one that is not there."""
    return invalid(
        f"Resource {reference} referenced by resource {by} was not found. Please make sure that the referenced resource"
        " exists, and that both resources are in the same region.",
        "InvalidResourceReference",
    )


def being_deleted(group: str) -> ArmError:
    """Nothing new comes into a group that is ending."""
    return ArmError(
        409,
        "ResourceGroupBeingDeleted",
        f"The resource group '{group}' is in deprovisioning state and cannot perform this operation.",
    )


def no_parent(parent: str) -> ArmError:
    """A part needs its whole."""
    return ArmError(404, "ParentResourceNotFound", f"Parent resource '{parent}' is not there.")
