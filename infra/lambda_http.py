"""One request to Lambda Cloud's API and its answer, bounded in time and size, with every failure told apart.

The one file that knows `requests`' exceptions: what comes out is the answer's data or an ApiError.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import requests
import urllib3.exceptions

from dayfly.infra import retry_after
from dayfly.infra.lambda_errors import ApiError, Unanswered
from dayfly.infra.lambda_key import LambdaKey
from dayfly.infra.lambda_line import Line

# Whoever closes a run waits for 75 s for a request that is under way: all of it has to be shorter.
_CONNECT_S, _READ_S, _TOTAL_S = 10.0, 40.0, 60.0
_MOST_BYTES = 16 << 20


@dataclass(frozen=True)
class _Answer:
    status: int
    body: bytes
    retry_after: str | None


def send(
    key: LambdaKey, method: str, url: str, doing: str, json_body: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Sends one request, once.

    Args:
        key: signs it.
        method: of HTTP.
        url: the whole address.
        doing: what it is for, in the message of an error: "launching".
        json_body: what it carries.

    Returns:
        The envelope of a success.

    Raises:
        Unanswered: it may have arrived, and no usable answer came back.
        ApiError: it was refused, or never sent.
    """
    with Line(_TOTAL_S) as line:
        try:
            answer = _exchange(line, key, method, url, json_body)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise _lost(line, doing, error) from None
    return _envelope(key, doing, answer)


def _exchange(
    line: Line, key: LambdaKey, method: str, url: str, json_body: dict[str, Any] | None
) -> _Answer:
    with requests.Session() as session:
        session.mount("https://", line)
        session.mount("http://", line)
        # A connection that is used again may be dead by then, and a launch that is sent into it has no answer.
        session.headers.update({"Connection": "close", "User-Agent": "dayfly"})
        response = session.request(
            method,
            url,
            json=json_body,
            auth=key,
            timeout=(_CONNECT_S, _READ_S),
            allow_redirects=False,
            stream=True,
        )
        with response:
            body = _read(response)
            # A body without a length ends where the line is cut, and looks whole.
            line.check()
            return _Answer(response.status_code, body, response.headers.get("Retry-After"))


def _read(response: requests.Response) -> bytes:
    body = bytearray()
    while data := response.raw.read1(65536, decode_content=True):
        body += data
        if len(body) > _MOST_BYTES:
            raise OSError(f"it is longer than {_MOST_BYTES} bytes")
    expected = response.headers.get("Content-Length", "0")
    if "Content-Encoding" not in response.headers and len(body) < int(expected):
        raise OSError(f"{len(body)} of {expected} bytes came")
    return bytes(body)


def _lost(line: Line, doing: str, error: Exception) -> ApiError:
    """Whether the request can have arrived, told by how far its connection came."""
    reason = str(error)
    try:
        line.check()
    except TimeoutError as late:
        reason = str(late)
    if not line.is_open:
        return ApiError(doing, "dayfly/unreachable", f"not reachable: {reason}")
    return Unanswered(doing, "dayfly/unanswered", f"no answer: {reason}")


def _envelope(key: LambdaKey, doing: str, answer: _Answer) -> dict[str, Any]:
    try:
        said = json.loads(answer.body)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        said = {}
    if answer.status == 200 and "data" in said:
        return said
    raise _refusal(key, doing, answer, said.get("error"))


def _refusal(key: LambdaKey, doing: str, answer: _Answer, error: object) -> ApiError:
    """A refusal where the API itself says so in the 400s; whatever else came leaves open what was done."""
    wait_s = retry_after.seconds(answer.retry_after)
    if answer.status == 429:
        return ApiError(doing, "http/429", "too many requests", wait_s)
    if isinstance(error, dict) and isinstance(error.get("code"), str):
        text = key.redacted(f"{error.get('message', '')} {error.get('suggestion') or ''}".strip())
        kind = ApiError if 400 <= answer.status < 500 else Unanswered
        return kind(doing, error["code"], text, wait_s)
    if answer.status in (401, 403):
        code = "global/invalid-api-key" if answer.status == 401 else "global/forbidden"
        return ApiError(doing, code, f"HTTP {answer.status}")
    shown = key.redacted(answer.body[:80].decode(errors="replace"))
    code = "dayfly/unanswered" if answer.status < 500 else f"http/{answer.status}"
    text = f"HTTP {answer.status} without a usable answer: {shown!r}"
    return Unanswered(doing, code, text, wait_s)
