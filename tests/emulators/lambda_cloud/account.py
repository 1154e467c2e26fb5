"""The one account of the emulated cloud: its key, whether it is in order, and how fast it may ask."""

from __future__ import annotations

import base64
import binascii
import secrets

from tests.emulators.lambda_cloud import refusal
from tests.emulators.lambda_cloud.clock import Clock
from tests.emulators.lambda_cloud.limiter import Limiter
from tests.emulators.lambda_cloud.options import Options


class TooMany(Exception):
    """The account asks too often.

    Attributes:
        wait_s: real seconds until it may ask again.
    """

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"{wait_s} s too early")
        self.wait_s = wait_s


class Account:
    """Lets requests in, or refuses them.

    Attributes:
        key: what opens it.
        active: False answers 403 to everything.
        address: False answers 403 to launches and new file systems.
        may_see_instances: False answers 403 to whoever asks for instances: the key is of a member who may not.
        revoked: keys that are no longer good.
    """

    def __init__(self, options: Options, clock: Clock) -> None:
        self.key = options.api_key or f"secret_emulated_{secrets.token_hex(16)}"
        self.active = True
        self.address = True
        self.may_see_instances = True
        self.revoked: set[str] = set()
        self._clock = clock
        self.requests = Limiter(clock, options.request_interval_s, options.limit_tolerance)
        self.launches = Limiter(clock, options.launch_interval_s, options.limit_tolerance)

    def admit(self, authorization: str | None, launch: bool) -> None:
        """Counts the request against the limits.

        Raises:
            Refusal: the key is not good, or the account is not.
            TooMany: it came too early.
        """
        given = _key_of(authorization)
        good = given is not None and secrets.compare_digest(given, self.key.encode())
        if not good or self.key in self.revoked:
            raise refusal.invalid_key()
        limiters = [self.requests, self.launches] if launch else [self.requests]
        for limiter in limiters:
            if wait_s := limiter.wait_s():
                limiter.refused += 1
                raise TooMany(self._clock.real(wait_s))
        for limiter in limiters:
            limiter.take()
        if not self.active:
            raise refusal.inactive()

    def need_address(self) -> None:
        """Refuses where bills would have nowhere to go."""
        if not self.address:
            raise refusal.invalid_address()

    def need_instances(self) -> None:
        """Refuses a key that may not see instances."""
        if not self.may_see_instances:
            raise refusal.forbidden()

    def revoke(self) -> None:
        """The key opens nothing from now on."""
        self.revoked.add(self.key)

    def replace_key(self, key: str = "") -> str:
        """A new key in the old one's place."""
        self.key = key or f"secret_emulated_{secrets.token_hex(16)}"
        self.revoked.discard(self.key)
        return self.key


def _key_of(authorization: str | None) -> bytes | None:
    """The key in a header: `Bearer KEY`, `Basic base64(KEY:)` or, as the API allows, `Basic KEY`."""
    scheme, _, value = (authorization or "").partition(" ")
    value = value.strip()
    if not value:
        return None
    if scheme.lower() == "bearer":
        return value.encode()
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(value, validate=True).partition(b":")
    except binascii.Error:
        return value.encode()
    return user if colon and not password else value.encode()
