"""What AWS refuses, in the words in which Pulumi's plugin passes it on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.emulators.plugin import Refusal


class Gone(Exception):
    """It is not there any more."""


@contextlib.contextmanager
def worded(doing: str, service: str, operation: str) -> Iterator[None]:
    """What AWS refuses, in the words in which the real plugin passes it on."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        told, about = error.response["Error"], error.response["ResponseMetadata"]
        if str(told["Code"]).endswith(".NotFound") and doing.startswith("deleting"):
            raise Gone from error
        raise Refusal(
            f"1 error occurred:\n\t* {doing}: operation error {service}: {operation}, https response error StatusCode:"
            f" {about['HTTPStatusCode']}, RequestID: {about.get('RequestId', '')}, api error {told['Code']}: {told['Message']}\n\n"
        ) from error
    except BotoCoreError as error:
        raise Refusal(
            f"1 error occurred:\n\t* {doing}: operation error {service}: {operation}, {error}\n\n"
        ) from error
