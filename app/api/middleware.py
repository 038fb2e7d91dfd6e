"""What happens to every request before and after its route, as plain ASGI.

In this order: request id, host, size of the body, origin, who asks, how often; afterwards headers
of security, the log line, the figures. A crash of a route ends as a problem without a traceback.
"""

import ipaddress
import logging
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.auth import COOKIE, Auth
from app.api.limits import Buckets
from app.api.logs import ACCESS
from app.api.problems import Problem, problem_response, wants_page
from app.api.telemetry import Telemetry

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
PUBLIC = ("/health/", "/static/", "/login", "/favicon.ico")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
JOB_ID = re.compile(r"job_[0-9a-z]{26}")
PAGE_POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'self'"
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": PAGE_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class Exchange:
    """One request and what became of it."""

    method: str
    path: str
    headers: Headers
    client: str
    request_id: str
    started: float = field(default_factory=time.perf_counter)
    status: int = 0
    has_begun: bool = False
    code: str | None = None


class Guard:
    """The outermost layer of the application."""

    def __init__(
        self, app: ASGIApp, *, auth: Auth, telemetry: Telemetry, hosts: frozenset[str],
        max_body_bytes: int, max_upload_bytes: int, requests_per_s: float,
    ) -> None:  # fmt: skip
        """Take the application and the limits."""
        self.app, self.auth, self.telemetry, self.hosts = app, auth, telemetry, hosts
        self.max_body_bytes, self.max_upload_bytes = max_body_bytes, max_upload_bytes
        self.rate = Buckets(requests_per_s, 4 * requests_per_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1000})
            else:
                await self.app(scope, receive, send)
            return
        exchange = _exchange(scope)
        scope.setdefault("state", {})["request_id"] = exchange.request_id
        send = self._sender(send, exchange)
        try:
            receive = self._limited(receive, exchange)
            await self._check(scope, exchange)
            await self.app(scope, receive, send)
        except Problem as problem:
            await self._refuse(problem, exchange, scope, receive, send)
        except Exception:
            LOG.exception("a route failed", extra=_extra(exchange))
            if exchange.has_begun:
                raise  # half an answer is on its way: let the server cut the connection
            crash = Problem("internal_error", "the log of the service has the details")
            await self._refuse(crash, exchange, scope, receive, send)
        finally:
            self._note(scope, exchange)

    async def _refuse(
        self, problem: Problem, exchange: Exchange, scope: Scope, receive: Receive, send: Send
    ) -> None:
        response = problem_response(problem, exchange.path, exchange.request_id)
        if "app" in scope and wants_page(exchange.method, exchange.headers):
            response = _page(Request(scope), problem) or response
        exchange.code = problem.code
        await response(scope, receive, send)

    async def _check(self, scope: Scope, exchange: Exchange) -> None:
        """Refuse what must not reach a route.

        Raises:
            Problem: Why.
        """
        _check_host(exchange.headers.getlist("host"), self.hosts)
        _check_address(scope)
        self._check_length(exchange)
        _check_origin(exchange)
        scope["state"]["client_id"] = client = await self._who(scope, exchange)
        wait = self.rate.wait_s(client)
        if wait:
            raise Problem("rate_limited", f"try again in {wait} s", retry_after_s=wait)

    async def _who(self, scope: Scope, exchange: Exchange) -> str:
        """Return who asks: a key, a browser's session, or an address where none is needed."""
        if not self.auth.settings.is_auth_on or exchange.path.startswith(PUBLIC):
            return f"address:{exchange.client}"
        state = scope["state"]
        header = exchange.headers.get("authorization")
        if header is not None:
            scheme, _, secret = header.partition(" ")
            key_id = None
            if scheme.lower() == "bearer":
                secret = secret.strip()
                key_id = self.auth.cached_key(secret)
                if key_id is None:
                    key_id = await run_in_threadpool(self.auth.admit, secret, exchange.client)
            if key_id is None:
                self.auth.note_failure(exchange.client)
                raise Problem("unauthorized", "the key is not valid, or was revoked")
            state["may_stay"] = partial(self.auth.keys.is_valid, key_id)
            return key_id
        cookie = session_of(exchange.headers)
        if cookie and (
            self.auth.cached_session(cookie)
            or await run_in_threadpool(self.auth.check_session, cookie)
        ):
            state["may_stay"] = partial(self.auth.check_session, cookie)
            if exchange.method not in SAFE and "origin" not in exchange.headers:
                raise Problem(
                    "cross_origin", "a browser's session needs the Origin header to change things"
                )
            return "session"
        raise Problem("unauthorized", "send 'Authorization: Bearer dst_...', or log in")

    def _limit_of(self, exchange: Exchange) -> tuple[int, str]:
        if exchange.path == "/datasets":
            return self.max_upload_bytes, "upload_too_large"
        return self.max_body_bytes, "payload_too_large"

    def _check_length(self, exchange: Exchange) -> None:
        text = exchange.headers.get("content-length")
        if text is None:
            return
        if not (text.isascii() and text.isdigit()):
            raise Problem("malformed_request", "Content-Length must be a number")
        limit, code = self._limit_of(exchange)
        if len(text) > 18 or int(text) > limit:
            raise Problem(code, f"at most {limit} bytes are taken, got {text[:30]}")

    def _limited(self, receive: Receive, exchange: Exchange) -> Receive:
        """Return `receive`, counting the bytes of the body."""
        limit, code = self._limit_of(exchange)
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                if taken > limit:
                    raise Problem(code, f"at most {limit} bytes are taken")
            return message

        return counted

    def _sender(self, send: Send, exchange: Exchange) -> Send:
        """Return `send`, adding the headers that every answer has."""

        async def sender(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.has_begun, exchange.status = True, message["status"]
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                headers["X-Request-Id"] = exchange.request_id
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        return sender

    def _note(self, scope: Scope, exchange: Exchange) -> None:
        """Write the log line and count."""
        seconds = time.perf_counter() - exchange.started
        route: Any = scope.get("route")
        name = getattr(route, "path", None) or "none"
        self.telemetry.observe(exchange.method, name, exchange.status, seconds)
        if exchange.code:
            self.telemetry.refused.labels(exchange.code).inc()
        quiet = exchange.path.startswith("/health/") and exchange.status < 400
        level = logging.DEBUG if quiet else logging.INFO
        if ACCESS.isEnabledFor(level):
            extra = _extra(exchange) | {"seconds": round(seconds, 4)}
            ACCESS.log(level, "%s %s", exchange.method, exchange.path, extra=extra)


def _page(request: Request, problem: Problem) -> Response | None:
    """Return a refusal as a page, where there is one for it."""
    state = request.app.state
    if problem.status_code == 401 and hasattr(state, "refusal_page"):
        login: Response = state.refusal_page(request)
        return login
    if problem.code == "malformed_request" and hasattr(state, "missing_page"):
        missing: Response = state.missing_page(request, problem.detail)
        missing.status_code = 400
        return missing
    return None


def _exchange(scope: Scope) -> Exchange:
    headers = Headers(scope=scope)
    given = headers.get("x-request-id", "")
    request_id = given if REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
    client = client_of(scope)
    method = scope["method"] if scope["method"].isalpha() else "OTHER"
    return Exchange(method[:12], scope["path"], headers, client, request_id)


def client_of(scope: Scope) -> str:
    """Return the address that a request came from."""
    address: str = (scope.get("client") or ("local", 0))[0]
    return address


def _extra(exchange: Exchange) -> dict[str, Any]:
    job = JOB_ID.search(exchange.path)
    return {
        "request_id": exchange.request_id, "job_id": job[0] if job else None,
        "method": exchange.method, "path": exchange.path[:300], "status": exchange.status or None,
        "client": exchange.client, "code": exchange.code,
    }  # fmt: skip


def _check_host(values: list[str], allowed: frozenset[str]) -> None:
    """Refuse names that are not ours: another site's name may point to this address.

    Raises:
        Problem: If the Host header is missing, not one name, or unknown.
    """
    if len(values) == 1 and "*" in allowed:
        return
    name = host_name(values[0]) if len(values) == 1 else None
    if name is None or not (name in allowed or _is_address(name)):
        shown = ascii(values[0])[:80] if values else "none"
        raise Problem(
            "invalid_host",
            f"host {shown} is not served here: use localhost or the address, or name it in "
            "DISTILLERY_ALLOWED_HOSTS",
        )


def _check_address(scope: Scope) -> None:
    """Refuse an address with a NUL in it: Postgres takes none in any text.

    Raises:
        Problem: If the path or the query holds one.
    """
    if "\0" in scope["path"] or b"%00" in scope["query_string"]:
        raise Problem("malformed_request", "the address holds a NUL character (%00): leave it out")


def host_name(text: str) -> str | None:
    """Return the name in a Host header without its port, None where it is malformed."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?", text.strip())
    return match[1].lower().rstrip(".") if match else None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _check_origin(exchange: Exchange) -> None:
    """Refuse changes that another site's page asks for.

    Raises:
        Problem: If the origin is not this host.
    """
    origin = exchange.headers.get("origin")
    if exchange.method in SAFE or origin is None:
        return
    try:
        netloc = urlsplit(origin).netloc.lower()
    except ValueError:
        netloc = ""
    if netloc != exchange.headers.get("host", "").strip().lower():
        raise Problem("cross_origin", f"requests from {ascii(origin)[:80]} are refused")


def session_of(headers: Headers) -> str | None:
    """Return the session in the cookies, None where there is none."""
    try:
        jar: SimpleCookie = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return None
    return jar[COOKIE].value if COOKIE in jar else None
