"""What goes wrong, as a test asks for it: refusals at once or after the answer, waits, and too many requests."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.emulators.azure.refusal import ArmError

# As the clouds say it: Microsoft's pages on allocation failures and quotas, and issues of pulumi-azure-native.
WORDS = {
    "AllocationFailed": (
        200,
        "Allocation failed. We do not have sufficient capacity for the requested VM size in this region. Read more about"
        " improving likelihood of allocation success at http://aka.ms/allocation-guidance",
    ),
    "ZonalAllocationFailed": (
        200,
        "Allocation failed. We do not have sufficient capacity for the requested VM size in this zone. Read more about"
        " improving likelihood of allocation success at http://aka.ms/allocation-guidance",
    ),
    "SkuNotAvailable": (
        409,
        "The requested VM size for resource 'Following SKUs have failed for Capacity Restrictions: Standard_NC4as_T4_v3' is"
        " currently not available in location 'eastus'. Please try another size or deploy to a different location or"
        " different zone. See https://aka.ms/azureskunotavailable for details.",
    ),
    # github.com/scylladb/scylla-cluster-tests/issues/12948.
    "OperationNotAllowed": (
        409,
        "Operation could not be completed as it results in exceeding approved standardNCASv3_T4Family Cores quota. Additional"
        " details - Deployment Model: Resource Manager, Location: eastus, Current Limit: 0, Current Usage: 0, Additional"
        " Required: 4, (Minimum) New Limit Required: 4.",
    ),
    # github.com/theonemule/fahclient-azure-vm/issues/3.
    "QuotaExceeded": (
        409,
        "Operation could not be completed as it results in exceeding approved Total Regional Cores quota. Additional details -"
        " Deployment Model: Resource Manager, Location: eastus, Current Limit: 4, Current Usage: 4, Additional Required: 4,"
        " (Minimum) New Limit Required: 8.",
    ),
    "AuthorizationFailed": (
        403,
        "The client '00000000-0000-0000-0000-000000000001' with object id '00000000-0000-0000-0000-000000000001' does not have"
        " authorization to perform action over scope '/subscriptions/...' or the scope is invalid. If access was recently"
        " granted, please refresh your credentials.",
    ),
    # Of the policy of regions that subscriptions of students and new customers have; recalled.
    "RequestDisallowedByAzure": (
        403,
        "Resource 'dayfly' was disallowed by Azure: This policy maintains a set of best available regions where your"
        " subscription can deploy resources. Should you need additional or different regions, contact support..",
    ),
    "LocationNotAvailableForResourceGroup": (
        400,
        "The provided location 'eastus' is not available for resource group. List of available regions is 'westeurope'.",
    ),
    "TooManyRequests": (429, "The request is being throttled."),
    "InternalServerError": (500, "Encountered internal server error."),
    "ScopeLocked": (
        409,
        "The scope cannot perform delete operation because following scope(s) are locked. Please remove the lock and try again.",
    ),
}


@dataclass
class Fault:
    """One.

    Attributes:
        act: "write" or "delete".
        type: of the resource, "Microsoft.Compute/virtualMachines"; "" for groups.
        code: of the refusal; "" for none, it is merely held.
        late: after the answer that it was accepted; else the answer itself.
        times: how often; what waits comes last.
        only: a region or a size that alone has it; "" for any.
        held: it goes on when this is set.
    """

    act: str
    type: str
    code: str = ""
    late: bool = False
    times: int = 1
    only: str = ""
    held: threading.Event | None = None
    met: threading.Event = field(default_factory=threading.Event)

    @property
    def error(self) -> ArmError:
        """As the API says it."""
        status, message = WORDS[self.code]
        return ArmError(status, self.code, message)

    def wait(self) -> None:
        """For whoever holds it."""
        self.met.set()
        if self.held is not None:
            self.held.wait()


class Faults:
    """Those that are still to come."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Fault] = []
        self._held: list[threading.Event] = []
        self._throttled = 0

    def add(self, fault: Fault) -> Fault:
        """It will happen."""
        with self._lock:
            self._waiting.append(fault)
            if fault.held is not None:
                self._held.append(fault.held)
        return fault

    def throttle(self, requests: int) -> None:
        """So many requests over HTTP are too many."""
        with self._lock:
            self._throttled += requests

    def is_throttled(self) -> bool:
        """Of the request that has come."""
        with self._lock:
            if not self._throttled:
                return False
            self._throttled -= 1
            return True

    def take(self, act: str, type: str, body: Mapping[str, Any]) -> Fault | None:
        """The first that meets a request."""
        size = ((body.get("properties") or {}).get("hardwareProfile") or {}).get("vmSize", "")
        with self._lock:
            for fault in self._waiting:
                same = (fault.act, fault.type.lower()) == (act, type.lower())
                if same and fault.only in ("", body.get("location"), size):
                    fault.times -= 1
                    if not fault.times:
                        self._waiting.remove(fault)
                    return fault
        return None

    def release(self) -> None:
        """Nothing is held any more."""
        with self._lock:
            for held in self._held:
                held.set()
