"""The key to Lambda Cloud's API: where it comes from, kept by reference and never shown."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from dayfly.errors import ConfigurationError

if TYPE_CHECKING:
    import requests

VARIABLE = "LAMBDA_API_KEY"


@dataclass(frozen=True, eq=False)
class LambdaKey:
    """One key; as `auth=` of a request it becomes the Bearer header, which a ~/.netrc then does not replace.

    Attributes:
        origin: where it was found, for messages.
    """

    secret: str = field(repr=False)
    origin: str

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Signs one request."""
        request.headers["Authorization"] = f"Bearer {self.secret}"
        return request

    def redacted(self, text: str) -> str:
        """The text without the key, in case somebody sends it back to us."""
        return text.replace(self.secret, "***")


def key_file() -> Path:
    """The file that is read where LAMBDA_API_KEY is not set."""
    return platformdirs.user_config_path("dayfly") / "lambda_api_key"


def load() -> LambdaKey:
    """The key of this user.

    Raises:
        ConfigurationError: there is none, or its file cannot be read, or may be by others; with the fix.
    """
    value = os.environ.get(VARIABLE, "").strip()
    if value:
        return LambdaKey(_printable(value, VARIABLE), f"environment variable {VARIABLE}")
    file = key_file()
    try:
        return LambdaKey(_printable(_read(file), str(file)), str(file))
    except FileNotFoundError:
        raise ConfigurationError(
            f'provider="lambda" needs an API key and finds none: make one at https://cloud.lambda.ai/api-keys and export'
            f" {VARIABLE}, or write it into {file} (chmod 600)"
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"the API key cannot be read from {file} ({error.strerror or error}): make it a file of one line that you may"
            f" read (chmod 600), or export {VARIABLE}"
        ) from None


def is_there() -> bool:
    """Whether somebody has set a key, be it right or wrong."""
    return bool(os.environ.get(VARIABLE, "").strip()) or key_file().exists()


def _read(file: Path) -> str:
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    with os.fdopen(descriptor, errors="replace") as source:
        status = os.fstat(descriptor)
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO) or status.st_uid != os.getuid():
            raise ConfigurationError(
                f"{file} holds an API key and may be read by others (mode {status.st_mode & 0o777:o}, uid"
                f" {status.st_uid}): chown it to yourself and chmod 600 {file}"
            )
        return source.read().strip()


def _printable(value: str, origin: str) -> str:
    # A header takes nothing else; the value itself is not repeated.
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        raise ConfigurationError(
            f"{origin} holds no API key: it must be one word of printable characters"
        )
    return value
