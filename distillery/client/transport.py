"""One request to the service: retried where that is safe, its refusal turned into one sentence.

Requests that change something carry an `Idempotency-Key` of their own, so that a repeated one is
answered from the first; that is what makes repeating a POST safe.
"""

import email.utils
import logging
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from json import dumps
from typing import Any

import httpx2

from distillery.errors import ConfigError, ServiceError

log = logging.getLogger(__name__)

RETRY_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
MAX_WAIT_S = 60.0
"""A service that asks for more patience than this gets its refusal handed to the caller."""
FIRST_DELAY_S, MAX_DELAY_S = 0.5, 8.0
KEY_ADVICE = (
    "give a key (DISTILLERY_API_KEY, or Client(api_key=...)); on the service's machine "
    "`distillery keys create NAME` makes one"
)
Sleep = Callable[[float], None]


class Transport:
    """The connection to one service."""

    def __init__(
        self, url: str, api_key: str | None, *, timeout_s: float, max_retries: int,
        wire: httpx2.BaseTransport | None = None, sleep: Sleep = time.sleep,
    ) -> None:  # fmt: skip
        """Take the address and key; `wire` and `sleep` are there for tests.

        Raises:
            ConfigError: If the address or the key cannot be one.
        """
        self.url, self.sleep, self._max_retries = url.rstrip("/"), sleep, max_retries
        headers = {"Accept": "application/json", "User-Agent": "distillery-client"}
        if api_key is not None:
            if not (api_key.isascii() and api_key.isprintable()) or " " in api_key or not api_key:
                raise ConfigError("the API key holds characters that no key has: copy it again")
            headers["Authorization"] = f"Bearer {api_key}"
        parsed = _parse_url(url)
        is_local = parsed.host in ("localhost", "127.0.0.1", "::1")
        self._http = httpx2.Client(
            base_url=parsed, headers=headers, timeout=timeout_s, transport=wire,
            trust_env=not is_local,  # a proxy is never the way to this machine
        )  # fmt: skip

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def request(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None,
        json: Any = None, params: Mapping[str, Any] | None = None, idempotency_key: str = "",
        timeout_s: float | None = None,
    ) -> httpx2.Response:  # fmt: skip
        """Return the answer, of a status below 400.

        Raises:
            ConfigError: If `json` holds a number that JSON has not.
            ServiceError: If the service refuses, or stays out of reach after all retries.
        """
        check_json(json)
        sent = dict(headers or {})
        if method == "POST":
            sent.setdefault("Idempotency-Key", idempotency_key or str(uuid.uuid4()))
        timeout = httpx2.USE_CLIENT_DEFAULT if timeout_s is None else timeout_s
        for attempt in range(self._max_retries + 1):
            delay_s, is_last = delay_of(attempt), attempt == self._max_retries
            try:
                response = self._http.request(
                    method, path, headers=sent, json=json, params=params, timeout=timeout
                )
            except httpx2.TransportError as error:
                if is_last:
                    raise self.unreachable(error) from error
                log.debug("%s %s failed (%r), again in %.1f s", method, path, error, delay_s)
            else:
                if response.status_code < 400 and not response.has_redirect_location:
                    return response
                asked_s = retry_after_s(response)
                refusal = refusal_of(response)
                if is_last or not _may_retry(refusal) or (asked_s or 0) > MAX_WAIT_S:
                    raise refusal
                delay_s = delay_s if asked_s is None else asked_s
                log.debug("%s %s: %s, again in %.1f s", method, path, refusal.code, delay_s)
            self.sleep(delay_s)
        raise AssertionError("the last attempt returns or raises")

    @contextmanager
    def stream(
        self, path: str, *, headers: Mapping[str, str], read_timeout_s: float
    ) -> Iterator[httpx2.Response]:
        """Open a GET whose body is read piece by piece; raises `ServiceError` when refused.

        httpx's own errors pass through: whoever reads the body decides how to go on.
        """
        timeout = httpx2.Timeout(read_timeout_s, connect=10.0)
        # not compressed: the bytes of a range must be those of the file
        sent = {"Accept-Encoding": "identity"} | dict(headers)
        with self._http.stream("GET", path, headers=sent, timeout=timeout) as response:
            if response.status_code >= 400 or response.has_redirect_location:
                response.read()
                raise refusal_of(response)
            yield response

    def unreachable(self, error: Exception) -> ServiceError:
        """Return what to say when nobody answers."""
        cause = str(error).strip() or type(error).__name__
        return ServiceError(
            f"no service answers at {self.url} ({cause}): start one with `distillery serve`, or "
            "name another with DISTILLERY_URL or Client(url)"
        )


def _parse_url(url: str) -> httpx2.URL:
    """Return an http or https address."""
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, TypeError) as error:
        raise ConfigError(f"the service's address must be a URL, got {url!r}: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo:
        raise ConfigError(
            f"the service's address must look like http://127.0.0.1:8000, got {url!r}"
        )
    return parsed


def delay_of(attempt: int) -> float:
    """Return seconds before the next attempt, longer each time and never the same for all."""
    return min(MAX_DELAY_S, FIRST_DELAY_S * 2**attempt) * random.uniform(0.75, 1.0)


def retry_after_s(response: httpx2.Response) -> float | None:
    """Return the seconds of `Retry-After`, given as a number or a date; None where there is none.

    Source: RFC 9110, section 10.2.3.
    """
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        date = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def _may_retry(refusal: ServiceError) -> bool:
    """Say whether the same request may be answered otherwise a little later."""
    return refusal.status in RETRY_STATUSES or refusal.code == "idempotency_in_progress"


def check_json(value: Any) -> None:
    """Refuse NaN and infinity, which JSON has not.

    Raises:
        ConfigError: If there is one.
    """
    try:
        dumps(value, allow_nan=False)
    except ValueError:
        raise ConfigError(
            "a request holds NaN or infinity, which cannot be sent: give a finite number"
        ) from None


def refusal_of(response: httpx2.Response) -> ServiceError:
    """Return a refusal as a sentence, from its problem document where there is one."""
    status, asked = response.status_code, f"{response.request.method} {response.request.url.path}"
    problem = _problem(response)
    code = str(problem.get("code") or f"http_{status}")
    request_id = problem.get("request_id") or response.headers.get("X-Request-Id")
    if response.has_redirect_location:
        text = f"the service sends {asked} elsewhere: name {response.headers['Location']!r} itself"
    elif problem:
        text = _sentence(problem)
    else:
        text = (
            f"{asked} was answered {status} {response.reason_phrase}, not by a Distillery service"
        )
    if status == 401:
        text = f"{text}: {KEY_ADVICE}"
    return ServiceError(
        text, code=code, status=status, request_id=str(request_id) if request_id else None
    )


def _problem(response: httpx2.Response) -> dict[str, Any]:
    """Return the problem document of an answer (RFC 9457), or nothing."""
    if not response.headers.get("Content-Type", "").startswith("application/problem+json"):
        return {}
    try:
        problem = response.json()
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}


def _sentence(problem: Mapping[str, Any]) -> str:
    """Return detail and fields of a problem document."""
    text = str(problem.get("detail") or problem.get("title") or problem.get("code") or "refused")
    fields = problem.get("errors")
    named = [
        f"{str(field.get('pointer', '')).removeprefix('#/')}: {field.get('detail')}"
        for field in (fields if isinstance(fields, list) else [])
        if isinstance(field, dict) and str(field.get("detail")) not in text
    ]
    return "; ".join([text.rstrip("."), *named])
