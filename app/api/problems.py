"""Refusals as RFC 9457 problem documents, each with a stable code: the one place for all of them.

A route raises `Problem`; FastAPI's and Starlette's own refusals are turned into the same form.
Nothing of a traceback is ever sent. Source: RFC 9457, sections 3.1 and 3.2.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app.api.hints import field_errors

MEDIA_TYPE = "application/problem+json"
LOG = logging.getLogger(__name__)

TITLES: Mapping[str, tuple[int, str]] = {
    "malformed_request": (400, "The request cannot be parsed"),
    "malformed_json": (400, "The body is not JSON"),
    "invalid_host": (400, "This host is not served here"),
    "unauthorized": (401, "A valid key is needed"),
    "cross_origin": (403, "Requests from other sites are refused"),
    "forbidden": (403, "This is not allowed"),
    "not_found": (404, "There is no such thing here"),
    "method_not_allowed": (405, "This address does not take this method"),
    "not_acceptable": (406, "No form that the request accepts"),
    "job_not_terminal": (409, "The job is still at work"),
    "job_not_retryable": (409, "The job cannot run again"),
    "not_ready": (409, "The job has no result yet"),
    "idempotency_in_progress": (409, "The first request with this key is at work"),
    "dataset_exists": (409, "The name is taken"),
    "dataset_in_use": (409, "A job uses this dataset"),
    "precondition_failed": (412, "The job has changed"),
    "payload_too_large": (413, "The body is too large"),
    "upload_too_large": (413, "The upload is too large"),
    "unsupported_media_type": (415, "A body of this type is not understood"),
    "range_not_satisfiable": (416, "The range lies outside the file"),
    "validation_failed": (422, "The request is not valid"),
    "idempotency_key_reused": (422, "The key belongs to another request"),
    "dataset_not_found": (422, "There is no such dataset"),
    "dataset_unsupported": (422, "The dataset cannot be used"),
    "model_unsupported": (422, "The model cannot be used"),
    "license_not_accepted": (422, "A licence must be acknowledged"),
    "download_not_allowed": (422, "Downloads are switched off"),
    "rate_limited": (429, "Too many requests"),
    "queue_full": (429, "The queue is full"),
    "too_many_streams": (429, "Too many event streams"),
    "too_many_attempts": (429, "Too many failed log-ins"),
    "internal_error": (500, "Something went wrong here"),
    "service_unavailable": (503, "The service is not ready"),
    "inspection_failed": (503, "The inspection could not finish"),
    "storage_full": (507, "The disk is almost full"),
}  # fmt: skip
"""Status and title of every code."""

_BY_STATUS = {
    400: "malformed_request", 401: "unauthorized", 403: "forbidden", 404: "not_found",
    405: "method_not_allowed", 406: "not_acceptable", 412: "precondition_failed",
    413: "payload_too_large", 415: "unsupported_media_type", 416: "range_not_satisfiable",
    422: "validation_failed", 429: "rate_limited", 503: "service_unavailable",
}  # fmt: skip
"""Codes of refusals that Starlette makes itself."""


class Problem(HTTPException):
    """A refusal with a stable code; `detail` is one sentence for the caller."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        """Take a code of `TITLES` and what to tell."""
        status, self.title = TITLES[code]
        given = dict(headers or {})
        if status == 401:
            given.setdefault("WWW-Authenticate", 'Bearer realm="distillery"')
        if retry_after_s is not None:
            given["Retry-After"] = str(retry_after_s)
        super().__init__(status, detail, given)
        self.code, self.errors = code, list(errors)


def problem_response(problem: Problem, path: str, request_id: str | None) -> Response:
    """Return a problem as an answer."""
    content: dict[str, Any] = {
        "type": f"urn:distillery:problem:{problem.code}",
        "title": problem.title,
        "status": problem.status_code,
        "code": problem.code,
        "detail": problem.detail,
        "instance": path,
        "request_id": request_id,
    }
    if problem.errors:
        content["errors"] = problem.errors
    body = json.dumps(content, ensure_ascii=True, allow_nan=False).encode()
    headers = {"Cache-Control": "no-store", **(problem.headers or {})}
    return Response(body, problem.status_code, headers, MEDIA_TYPE)


def add_problem_handlers(app: FastAPI) -> None:
    """Answer every refusal of the framework in this one form."""
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_validation)


UNPARSED = "There was an error parsing the body"
"""What the framework says of a body that is no text, too deep, or holds an endless number."""


def as_problem(error: HTTPException) -> Problem:
    """Return a refusal of the framework as one of ours."""
    if isinstance(error, Problem):
        return error
    if error.status_code == 400 and error.detail == UNPARSED:
        why = "the body is not JSON: it is no UTF-8, nested too deeply, or holds an endless number"
        return Problem("malformed_json", why)
    code = _BY_STATUS.get(error.status_code, "internal_error")
    detail = error.detail if error.status_code != 404 else "nothing is served at this address"
    if error.status_code == 405:
        detail = f"use {(error.headers or {}).get('Allow') or 'another method'}"
    if detail == HTTPStatus(error.status_code).phrase:
        detail = TITLES[code][1]
    return Problem(code, detail, headers=error.headers)


def respond(request: Request, problem: Problem) -> Response:
    """Return a problem as the answer to a request."""
    request_id = request.scope.get("state", {}).get("request_id")
    return problem_response(problem, request.url.path, request_id)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        error.headers = {"Allow": _methods_at(request) or "GET"}
    problem = as_problem(error)
    page = getattr(request.app.state, "missing_page", None)
    if (
        problem.status_code == 404
        and page is not None
        and wants_page(request.method, request.headers)
    ):
        missing: Response = page(request, problem.detail)
        return missing
    return respond(request, problem)


def wants_page(method: str, headers: Mapping[str, str]) -> bool:
    """Say whether a browser asks for something to show: programs name no HTML."""
    return method in ("GET", "HEAD") and "text/html" in headers.get("accept", "").lower()


def _methods_at(request: Request) -> str:
    """Return the methods of all routes at an address; the framework names those of one only."""
    routes = getattr(request.app.state, "routes", ())
    found = {
        method
        for route in routes
        if route.path_regex.match(request.url.path)
        for method in route.methods or ()
    }
    return ", ".join(sorted(found | ({"HEAD"} if "GET" in found else set())))


async def _on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(each["type"] == "json_invalid" for each in found):
        reason = (found[0].get("ctx") or {}).get("error", "")
        return respond(request, Problem("malformed_json", f"the body is not JSON: {reason}"[:300]))
    errors = field_errors(found, getattr(request.scope.get("route"), "body_field", None))
    count = (
        f"{len(errors)} field{'s' * (len(errors) != 1)} need{'s' * (len(errors) == 1)} attention"
    )
    detail = f"{count}: {errors[0]['detail']}"
    return respond(request, Problem("validation_failed", detail, errors=errors))
