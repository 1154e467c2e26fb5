"""Lambda Cloud's API v1 as typed calls, at the pace that it allows; what only reads is tried again, what creates never."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    wait_random_exponential,
)

from dayfly.infra import lambda_http, lambda_key
from dayfly.infra.home import home_path
from dayfly.infra.lambda_endpoint import base_url, time_scale
from dayfly.infra.lambda_errors import ApiError, Unanswered
from dayfly.infra.lambda_key import LambdaKey
from dayfly.infra.lambda_records import FileSystem, Instance, Launch, Ruleset, SshKey, TypeRow
from dayfly.infra.pace import Pace

_INTERVALS_S = {"request": 1.0, "launch": 12.0}
_RETRY_S, _LEAST_RETRY_S = 90.0, 5.0
_MOST_PAGES = 1000
_backoff = wait_random_exponential(multiplier=0.5, max=10)
_T = TypeVar("_T")
Check = Callable[[], None]


class LambdaApi:
    """The API with one key.

    Args:
        key: signs every request.
        url: where it is, without a slash at the end.
        pace: when a request may be sent.
        scale: how many of the API's seconds, in which all waits are told, pass in one of ours.
        now, sleep: time, so that tests need not wait for it.
    """

    def __init__(
        self,
        key: LambdaKey,
        url: str,
        pace: Pace,
        *,
        scale: float = 1.0,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._key = key
        self._url = url
        self._pace = pace
        self._scale = scale
        self._now = now
        self._sleep = sleep

    def __repr__(self) -> str:
        return f"LambdaApi({self._url!r}, {self._key!r})"

    @classmethod
    def from_environment(cls) -> LambdaApi:
        """With the key and the address of this process's environment.

        Raises:
            ConfigurationError: there is no key, or the override of the address cannot be; with the fix.
        """
        key, scale = lambda_key.load(), time_scale()
        intervals_s = {kind: interval_s / scale for kind, interval_s in _INTERVALS_S.items()}
        pace = Pace(home_path() / "pace", key.secret, intervals_s)
        return cls(key, base_url(), pace, scale=scale)

    # -- what is sold

    def instance_types(self) -> list[TypeRow]:
        """Every type with its price now and the regions that say they have it."""
        listed = self._get("/instance-types", "listing instance types")["data"]
        return [_shaped("listing instance types", TypeRow.of, entry) for entry in listed.values()]

    def regions(self) -> list[str]:
        """Names of all regions."""
        return self._rows("/regions", "listing regions", lambda row: str(row["name"]))

    def file_systems(self) -> list[FileSystem]:
        """The account's persistent file systems."""
        return self._rows("/file-systems", "listing file systems", FileSystem.of)

    # -- what there is

    def instances(self) -> list[Instance]:
        """Every machine of the account that is listed, over all pages."""
        return self._rows("/instances", "listing instances", Instance.of)

    def instance(self, id: str) -> Instance:
        """One machine; `ApiError.gone` where there is none of the id."""
        doing = f"looking at instance {id}"
        data = self._get(f"/instances/{quote(id, safe='')}", doing)["data"]
        return _shaped(doing, Instance.of, data)

    def ssh_keys(self) -> list[SshKey]:
        """Every key of the account."""
        return self._rows("/ssh-keys", "listing SSH keys", SshKey.of)

    def rulesets(self) -> list[Ruleset]:
        """Every firewall ruleset of the account."""
        return self._rows("/firewall-rulesets", "listing firewall rulesets", Ruleset.of)

    # -- what creates: sent once, at a turn that was waited for before

    def await_turn(self, check: Check, *, launch: bool = False) -> None:
        """Waits until a creating request may be sent; what `check` raises ends the wait."""
        if launch:
            self._pace.wait("launch", check)
        self._pace.wait("request", check)

    def launch(self, wanted: Launch) -> str:
        """Asks for a machine.

        Returns:
            Its id.

        Raises:
            Unanswered: it may have been made, and be billed.
            ApiError: it was not.
        """
        doing = f"launching {wanted.instance_type} in {wanted.region}"
        data = self._post("/instance-operations/launch", doing, wanted.as_json())
        return _answered(doing, lambda: data["instance_ids"][0])

    def add_ssh_key(self, name: str, public_key: str) -> str:
        """Stores a public key; errors as `launch`.

        Returns:
            Its id.
        """
        doing = f"adding SSH key {name}"
        data = self._post("/ssh-keys", doing, {"name": name, "public_key": public_key})
        return _answered(doing, lambda: data["id"])

    def add_ruleset(self, name: str, region: str, rules: list[dict[str, Any]]) -> str:
        """Makes a firewall ruleset in a region; errors as `launch`.

        Returns:
            Its id.
        """
        doing = f"adding firewall ruleset {name} in {region}"
        body = {"name": name, "region": region, "rules": rules}
        data = self._post("/firewall-rulesets", doing, body)
        return _answered(doing, lambda: data["id"])

    # -- what may be said twice

    def set_rules(self, id: str, rules: Sequence[Mapping[str, Any]]) -> None:
        """Has a firewall ruleset consist of these rules."""
        doing = f"changing firewall ruleset {id}"
        body = {"rules": [dict(rule) for rule in rules]}
        self._again("PATCH", f"/firewall-rulesets/{quote(id, safe='')}", doing, body)

    def terminate(self, id: str) -> None:
        """Asks for the end of a machine; `ApiError.gone` where there is none of the id."""
        body = {"instance_ids": [id]}
        self._again("POST", "/instance-operations/terminate", f"terminating instance {id}", body)

    def delete_ssh_key(self, id: str) -> None:
        """Forgets a key; gone already is success."""
        with _gone_is_success():
            self._again("DELETE", f"/ssh-keys/{quote(id, safe='')}", f"deleting SSH key {id}")

    def delete_ruleset(self, id: str) -> None:
        """Deletes a firewall ruleset; gone already is success, still in use is not."""
        with _gone_is_success():
            doing = f"deleting firewall ruleset {id}"
            self._again("DELETE", f"/firewall-rulesets/{quote(id, safe='')}", doing)

    # -- requests

    def _rows(self, path: str, doing: str, record: Callable[[Any], _T]) -> list[_T]:
        """All rows of a listing; half of one is an error, since absence is concluded from it."""
        found: list[_T] = []
        page = ""
        for _ in range(_MOST_PAGES):
            said = self._get(f"{path}?page_token={quote(page, safe='')}" if page else path, doing)
            found += [_shaped(doing, record, row) for row in _shaped(doing, list, said["data"])]
            page = str(said.get("page_token") or "")
            if not page:
                return found
        raise ApiError(doing, "dayfly/unanswered", f"more than {_MOST_PAGES} pages")

    def _get(self, path: str, doing: str) -> dict[str, Any]:
        return self._again("GET", path, doing)

    def _again(
        self, method: str, path: str, doing: str, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Sends what may be sent twice, until it is answered or the bound is reached; standing in line does not count."""
        until = self._now() + max(_RETRY_S / self._scale, _LEAST_RETRY_S)

        def once() -> dict[str, Any]:
            nonlocal until
            begun = self._now()
            self._pace.wait("request")
            until += self._now() - begun
            return lambda_http.send(self._key, method, self._url + path, doing, body)

        retrying = Retrying(
            retry=retry_if_exception(lambda error: _passes(error, until - self._now())),
            wait=self._patience,
            stop=lambda _: self._now() >= until,
            sleep=self._sleep,
            reraise=True,
        )
        return retrying(once)

    def _patience(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked_s = error.retry_after_s if isinstance(error, ApiError) else None
        return max(asked_s or 0.0, _backoff(state) / self._scale)

    def _post(self, path: str, doing: str, body: dict[str, Any]) -> dict[str, Any]:
        said = lambda_http.send(self._key, "POST", self._url + path, doing, body)["data"]
        if not isinstance(said, dict):
            raise Unanswered(doing, "dayfly/unanswered", "the answer has no data")
        return said


def _passes(error: BaseException, left_s: float) -> bool:
    """Whether an error may pass by itself in the time that is left."""
    if not isinstance(error, ApiError):
        return False
    return error.kind in ("transient", "rate_limit") and (error.retry_after_s or 0.0) < left_s


def _shaped(doing: str, record: Callable[[Any], _T], row: Any) -> _T:
    """A record of one row.

    Raises:
        ApiError: the row is not as documented: nothing may be concluded from it.
    """
    try:
        return record(row)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ApiError(
            doing, "dayfly/unanswered", f"the answer is not as documented ({error!r})"
        ) from error


def _answered(doing: str, id: Callable[[], Any]) -> str:
    """The id in the answer of a creating request; an answer without one leaves open what was made."""
    with contextlib.suppress(KeyError, IndexError, TypeError):
        found = id()
        if isinstance(found, str) and found:
            return found
    raise Unanswered(doing, "dayfly/unanswered", "the answer names no id")


@contextlib.contextmanager
def _gone_is_success() -> Iterator[None]:
    try:
        yield
    except ApiError as error:
        if not error.gone:
            raise
