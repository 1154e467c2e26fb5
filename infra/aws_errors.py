"""What AWS refuses, as typed errors by its own codes; what of botocore fails stops here."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping

from dayfly.infra.cloud_error import CloudError
from dayfly.infra.providers.base import FailureKind

# The plugin's words ("api error CODE:", "last error: Server.CODE:"), boto3's ("error occurred (CODE)") and ours ("[code CODE]").
CODE = r"(?:\bapi error |\berror occurred \(|\[code |\b(?:Server|Client)\.)([A-Za-z][A-Za-z0-9]*(?:\.[A-Z][A-Za-z]*)?)"
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
KINDS: Mapping[str, FailureKind] = {
    "InsufficientInstanceCapacity": "capacity",
    "InsufficientHostCapacity": "capacity",
    "InsufficientCapacityOnHost": "capacity",
    "InsufficientReservedInstanceCapacity": "capacity",
    "InsufficientFreeAddressesInSubnet": "capacity",
    "InsufficientCapacity": "capacity",
    # The type is not sold in that zone; the refusal names those in which it is.
    "Unsupported": "capacity",
    "SpotMaxPriceTooLow": "capacity",
    "SpotInstanceTermination": "capacity",
    "SpotInstanceShutdown": "capacity",
    "VcpuLimitExceeded": "quota",
    "InstanceLimitExceeded": "quota",
    "MaxSpotInstanceCountExceeded": "quota",
    "VolumeLimitExceeded": "quota",
    "VpcLimitExceeded": "quota",
    "InternetGatewayLimitExceeded": "quota",
    "SecurityGroupLimitExceeded": "quota",
    "AddressLimitExceeded": "quota",
    "KeyPairLimitExceeded": "quota",
    "ResourceLimitExceeded": "quota",
    "AuthFailure": "auth",
    "UnauthorizedOperation": "auth",
    "AccessDenied": "auth",
    "AccessDeniedException": "auth",
    "InvalidClientTokenId": "auth",
    "UnrecognizedClientException": "auth",
    "SignatureDoesNotMatch": "auth",
    "ExpiredToken": "auth",
    "ExpiredTokenException": "auth",
    "RequestExpired": "auth",
    "OptInRequired": "auth",
    "PendingVerification": "auth",
    "Blocked": "auth",
    "NoCredentials": "auth",
    "RequestLimitExceeded": "rate_limit",
    "Throttling": "rate_limit",
    "ThrottlingException": "rate_limit",
    "TooManyRequestsException": "rate_limit",
    "InternalError": "transient",
    "InternalFailure": "transient",
    "InternalServerError": "transient",
    "ServiceUnavailable": "transient",
    "Unavailable": "transient",
    "Unreachable": "transient",
    "DependencyViolation": "transient",
    "InvalidAMIID.NotFound": "invalid",
    "InvalidAMIID.Malformed": "invalid",
    "InvalidAMIID.Unavailable": "invalid",
    "InvalidParameterValue": "invalid",
    "InvalidParameterCombination": "invalid",
    "InvalidParameter": "invalid",
    "InvalidKeyPair.Duplicate": "invalid",
    "InvalidGroup.Duplicate": "invalid",
    "InvalidSubnetID.NotFound": "invalid",
    "InvalidBlockDeviceMapping": "invalid",
    "MissingInput": "invalid",
    "MissingParameter": "invalid",
    "ParameterNotFound": "invalid",
    "UnsupportedOperation": "invalid",
    "ValidationError": "invalid",
    "VPCIdNotSpecified": "invalid",
}
_FIXES = {
    "auth": "docs/aws.md lists the permissions that are needed; `aws sts get-caller-identity` says who asks",
    "quota": "ask for more at https://console.aws.amazon.com/servicequotas, or name another type or region",
}
# Deleted already, or never there.
_GONE = r"\.(NotFound|Malformed)$"
# Something of the run still holds it, and has to end first.
_IN_USE = (
    "DependencyViolation",
    "VolumeInUse",
    "InvalidNetworkInterface.InUse",
    "IncorrectState",
    "IncorrectInstanceState",
    "Gateway.NotAttached",
)


class AwsError(CloudError):
    """AWS said no, or could not be asked.

    Attributes:
        code: AWS's own code, or botocore's own name of what went wrong on the way.
    """

    called = "AWS"
    in_use_codes = _IN_USE

    def __init__(self, doing: str, code: str, message: str) -> None:
        kind = KINDS.get(code, "unknown")
        super().__init__(doing, code, message, kind, _FIXES.get(kind))

    @property
    def gone(self) -> bool:
        """True where the very thing that was named does not exist."""
        return re.search(_GONE, self.code) is not None


@contextlib.contextmanager
def mapped(doing: str) -> Iterator[None]:
    """Everything that botocore raises leaves as one of ours.

    Args:
        doing: "listing instances in us-east-1".

    Raises:
        AwsError: what was raised inside.
    """
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    try:
        yield
    except exceptions.ClientError as error:
        told = error.response.get("Error", {})
        code, message = str(told.get("Code", "")), str(told.get("Message", error))
        raise AwsError(doing, code or "Unanswered", message) from error
    except (
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.CredentialRetrievalError,
        exceptions.TokenRetrievalError,
        exceptions.SSOError,
        exceptions.ProfileNotFound,
        exceptions.InvalidConfigError,
        exceptions.ConfigParseError,
    ) as error:
        raise AwsError(doing, "NoCredentials", str(error)) from error
    except (exceptions.HTTPClientError, exceptions.ConnectionError) as error:
        raise AwsError(doing, "Unreachable", str(error)) from error
    except (exceptions.BotoCoreError, ResponseParserError) as error:
        raise AwsError(doing, type(error).__name__, str(error)) from error
