"""What Azure refuses, as typed errors by its own codes; the one place where its SDK's exceptions stop."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from dayfly.infra.cloud_error import CloudError
from dayfly.infra.providers.base import FailureKind

# As its plugin writes it, `Status=409 Code="SkuNotAvailable" Message="..."` (pulumi-azure-native,
# provider/pkg/azure/client_azcore.go), and as `ApiError` does.
CODE = r"(?:\bCode=\"|\[code )(\w+)"
# learn.microsoft.com/azure/azure-resource-manager/troubleshooting/common-deployment-errors and
# learn.microsoft.com/troubleshoot/azure/virtual-machines/windows/allocation-failure.
KINDS: dict[str, FailureKind] = {
    "AllocationFailed": "capacity",
    "ZonalAllocationFailed": "capacity",
    "OverconstrainedAllocationRequest": "capacity",
    "OverconstrainedZonalAllocationRequest": "capacity",
    "SkuNotAvailable": "capacity",
    "NotAvailableForSubscription": "capacity",
    "SpotVMCapacityNotAvailable": "capacity",
    # So far it is said of nothing here but quotas of cores.
    "OperationNotAllowed": "quota",
    "QuotaExceeded": "quota",
    "ResourceQuotaExceeded": "quota",
    "PublicIPCountLimitReached": "quota",
    # A region that the subscription may not use is out, as one whose quota is nought: `is_of_region`.
    "LocationNotAvailableForResourceGroup": "quota",
    "LocationNotAvailableForResourceType": "quota",
    "RequestDisallowedByAzure": "quota",
    "AuthorizationFailed": "auth",
    "LinkedAuthorizationFailed": "auth",
    "AuthenticationFailed": "auth",
    "InvalidAuthenticationToken": "auth",
    "InvalidAuthenticationTokenTenant": "auth",
    "ExpiredAuthenticationToken": "auth",
    "SubscriptionNotFound": "auth",
    "ReadOnlyDisabledSubscription": "auth",
    "RequestDisallowedByPolicy": "auth",
    "MissingSubscriptionRegistration": "auth",
    "TooManyRequests": "rate_limit",
    "OperationPreempted": "transient",
    "InvalidParameter": "invalid",
    "InvalidTemplate": "invalid",
    "InvalidRequestContent": "invalid",
    "InvalidRequestFormat": "invalid",
    "InvalidResourceName": "invalid",
    "InvalidResourceReference": "invalid",
    "NoRegisteredProviderFound": "invalid",
    "PlatformImageNotFound": "invalid",
    "ImageNotFound": "invalid",
    "ScopeLocked": "invalid",
    "Conflict": "transient",
    "AnotherOperationInProgress": "transient",
    "RetryableError": "transient",
    "InternalServerError": "transient",
    "InternalExecutionError": "transient",
    "InternalOperationError": "transient",
    "OSProvisioningTimedOut": "transient",
    "ResourceGroupBeingDeleted": "transient",
    "ServiceUnavailable": "transient",
    # Ours, of what happened on the way.
    "DayflyUnreachable": "transient",
    "DayflyNoLogin": "auth",
}
_FIXES = {
    "AuthorizationFailed": "give that identity the role of docs/policies/azure.json",
    "ScopeLocked": "take the lock off the resource group",
    "RequestDisallowedByAzure": "name a region that the subscription may use, or ask Azure's support for that one",
    "SubscriptionNotFound": "`az account list -o table` shows the subscriptions of this log-in",
    "DayflyNoLogin": "`az login`, or set the AZURE_* variables of a service principal",
}
_GONE = frozenset(
    {
        "ResourceGroupNotFound",
        "ResourceNotFound",
        "NotFound",
        "ParentResourceNotFound",
    }
)
# azure-identity tells of a log-in that nobody has answered by the words of the connection's own error alone, in a message
# without a cause (azure/identity/_credentials/chained.py, _get_error_message); `az`, which is asked as a process, likewise.
_NO_NETWORK = (
    r"Failed to resolve '|Failed to establish a new connection|Unable to connect to proxy|Max retries exceeded with url"
    r"|Name or service not known|Temporary failure in name resolution|nodename nor servname provided|getaddrinfo failed"
    r"|Connection (?:refused|reset by peer|aborted)|Network is unreachable|No route to host|Connection to \S+ timed out"
)
# What is in use is free once its machine has ended.
_IN_USE = frozenset(
    {
        "NicInUse",
        "InUseSubnetCannotBeDeleted",
        "InUseNetworkSecurityGroupCannotBeDeleted",
        "PublicIPAddressCannotBeDeleted",
        "AnotherOperationInProgress",
        "ResourceGroupBeingDeleted",
        "OperationNotAllowed",
    }
)


# Of the kind "quota", and about all that could be made in a region.
_OF_REGION = frozenset(
    {
        "LocationNotAvailableForResourceGroup",
        "LocationNotAvailableForResourceType",
        "RequestDisallowedByAzure",
    }
)


def is_of_region(text: str) -> bool:
    """Whether a refusal says that the subscription may make nothing at all in that region."""
    return any(match[1] in _OF_REGION for match in re.finditer(CODE, text))


class ApiError(CloudError):
    """Azure said no, or said nothing that can be used."""

    called = "Azure"
    gone_codes, in_use_codes = _GONE, _IN_USE

    def __init__(self, doing: str, code: str, message: str) -> None:
        kind = KINDS.get(code, "unknown")
        super().__init__(doing, code, message, kind, _FIXES.get(code))


@contextmanager
def mapped(doing: str) -> Iterator[None]:
    """Whatever its SDK raises is an `ApiError` behind this.

    Args:
        doing: what was tried, for people: "listing machines".
    """
    from azure.core import exceptions
    from azure.identity import CredentialUnavailableError

    try:
        yield
    except exceptions.ClientAuthenticationError as error:
        if error.response is None and _is_unanswered(error):
            raise ApiError(doing, "DayflyUnreachable", str(error)) from error
        if isinstance(error, CredentialUnavailableError):
            raise ApiError(doing, "DayflyNoLogin", str(error)) from error
        raise _refusal(doing, error) from error
    except exceptions.HttpResponseError as error:
        raise _refusal(doing, error) from error
    except exceptions.AzureError as error:
        raise ApiError(doing, "DayflyUnreachable", str(error)) from error


def _is_unanswered(error: BaseException) -> bool:
    """Whether a log-in has failed because nobody could be asked."""
    from azure.core.exceptions import ServiceRequestError, ServiceResponseError

    if isinstance(error.__cause__, (ServiceRequestError, ServiceResponseError, OSError)):
        return True
    # A managed identity is looked for everywhere, and there is no network to it but at Azure.
    tried = re.split(r"\n\t(?=\w+Credential: )", str(error))
    return any(re.search(_NO_NETWORK, each) for each in tried if not each.startswith("ManagedId"))


def _refusal(doing: str, error: object) -> ApiError:
    """By the code of the answer; where it has none, by its status."""
    inner = getattr(error, "error", None)
    status = getattr(error, "status_code", None)
    by_status = {401: "AuthenticationFailed", 404: "NotFound", 429: "TooManyRequests"}
    code = getattr(inner, "code", None) or by_status.get(status or 0, "")
    if not code and status is None:
        # Its log-in has failed without an answer of Resource Manager's.
        code = "DayflyNoLogin"
    message = getattr(inner, "message", None) or getattr(error, "message", str(error))
    return ApiError(doing, code or f"Http{status}", str(message))
