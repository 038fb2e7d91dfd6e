"""The OpenAPI 3.1 document: every status of every route, problems included, security, examples."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.api.problems import MEDIA_TYPE, TITLES
from app.api.schemas import ProblemOut

ALWAYS = (400, 401, 403, 413, 429, 500, 503)
"""Refusals that can meet any request before its route is reached."""
HEADER_TEXTS = {
    "Location": "Where the new thing is.", "Retry-After": "Seconds to wait before asking again.",
    "ETag": "Strong: changes with the content.", "Preference-Applied": "The wait that was granted.",
    "Idempotency-Replayed": "`true` where the first answer is given again.",
    "Repr-Digest": "SHA-256 of the whole file (RFC 9530).", "Accept-Ranges": "`bytes`.",
    "Content-Disposition": "Name to save it under.", "Content-Range": "Which bytes these are.",
    "X-Request-Id": "Name of this exchange in the logs.",
}  # fmt: skip
DESCRIPTION = """Turns an image-classification dataset into a small synthetic one.

`POST /jobs` with `{"dataset": "digits", "ipc": 10}` starts a job; follow it with
`GET /jobs/{id}/events`; take `GET /jobs/{id}/bundle` when it has succeeded. Refusals are problem
documents (RFC 9457): a program should look at their `code`."""


def documented(
    answers: Mapping[int, tuple[Any, str]], *refusals: int,
    headers: Mapping[int, Sequence[str]] | None = None, example: Any = None,
    upload: Sequence[str] = (), stream: bool = False, page: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Return what a route tells of itself, as keyword arguments of its decorator.

    Args:
        answers: By status: a model, a media type, or None for no body; and a sentence.
        refusals: Further statuses; those of `ALWAYS` need not be named.
        headers: Names of headers by status.
        example: Of the body.
        upload: Media types of a body that is bytes.
        stream: Whether server-sent events are another form of the answer.
        page: Whether HTML is another form of it.
    """
    responses: dict[int | str, dict[str, Any]] = {}
    for status, (kind, text) in answers.items():
        responses[status] = {"description": text, **_content(kind)}
        extra = ["text/event-stream"] * stream + ["text/html"] * page
        if extra and status == 200:
            content = responses[status].setdefault("content", {})
            content.update({each: {"schema": {"type": "string"}} for each in extra})
        names = (*(headers or {}).get(status, ()), "X-Request-Id")
        responses[status]["headers"] = {name: _header(name) for name in names}
    for status in sorted({*refusals, *ALWAYS}):
        responses[status] = _refusal(status)
    operation: dict[str, Any] = {}
    if example is not None:
        operation["requestBody"] = {"content": {"application/json": {"example": example}}}
    if upload:
        binary = {"schema": {"type": "string", "format": "binary"}}
        operation["requestBody"] = {"required": True, "content": dict.fromkeys(upload, binary)}
    return {"responses": responses, "openapi_extra": operation, "response_model": None}


def _content(kind: Any) -> dict[str, Any]:
    if kind is None:
        return {}
    if isinstance(kind, str):
        schema: dict[str, Any] = {"type": "string", "format": "binary"}
        if kind == "application/json":
            schema = {"type": "object"}
        if kind == "text/plain":
            schema = {"type": "string"}
        return {"content": {kind: {"schema": schema}}}
    return {"model": kind}


def _header(name: str) -> dict[str, Any]:
    return {"description": HEADER_TEXTS[name], "schema": {"type": "string"}}


def _refusal(status: int) -> dict[str, Any]:
    if status in (204, 304):
        text = {204: "Nothing more will happen.", 304: "As it was: the ETag is the same."}
        return {"description": text[status]}
    codes = [f"`{code}`" for code, (at, _) in TITLES.items() if at == status]
    schema = {"$ref": "#/components/schemas/ProblemOut"}
    return {
        "description": f"Problem: {', '.join(codes)}.",
        "content": {MEDIA_TYPE: {"schema": schema}},
    }


def add_openapi(app: FastAPI) -> None:
    """Let the application describe itself; the document is made when it is first asked for."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title="Distillery", version=app.version, description=DESCRIPTION,
                routes=app.routes, openapi_version="3.1.0",
            )  # fmt: skip
            app.openapi_schema = _complete(made)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _complete(document: dict[str, Any]) -> dict[str, Any]:
    """Add security and the problem's schema; take out FastAPI's own form of a refusal."""
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    template = "#/components/schemas/{model}"
    own = ProblemOut.model_json_schema(ref_template=template)
    schemas.update(own.pop("$defs"))
    schemas["ProblemOut"] = own
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    components["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "An API key, `dst_...`."},
        "session": {"type": "apiKey", "in": "cookie", "name": "distillery_session"},
    }
    for path, operations in document["paths"].items():
        for operation in operations.values():
            is_open = path.startswith(("/health", "/login"))
            operation["security"] = [] if is_open else [{"key": []}, {"session": []}]
            operation["responses"] = dict(sorted(operation["responses"].items()))
            for status, response in operation["responses"].items():
                content = response.get("content", {})
                if status == "422" and "application/json" in content:
                    operation["responses"][status] = _refusal(422)
    return document
