"""`/login`, `/logout`: from a one-time link or a key to a session of this browser."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from app.api.auth import COOKIE, LINK, SESSION_S
from app.api.bodies import LoginBody
from app.api.content import JsonOnly
from app.api.context import Api, ApiDep
from app.api.head import IS_HEAD
from app.api.middleware import client_of, session_of
from app.api.openapi import documented
from app.api.problems import Problem
from app.api.schemas import LoginOut
from app.api.views import answer, time_text

router = APIRouter(tags=["operations"])


@router.get("/login", include_in_schema=False)
def login_link(
    request: Request, api: ApiDep, token: Annotated[str | None, Query(max_length=200)] = None
) -> Response:
    """Begin a session from the link that `serve` printed; it works once."""
    if getattr(request.state, IS_HEAD, False):  # whoever only looks must not use the link up
        return Response(headers={"Cache-Control": "no-store"})
    if token is None:
        return request.app.state.login_page(request, "")
    client = client_of(request.scope)
    api.auth.check_attempts(client)
    if not api.auth.use_login_token(token):
        api.auth.note_failure(client)
        message = "This link has been used, or is too old."
        return request.app.state.login_page(request, message)
    response = Response(status_code=303, headers={"Location": "/", "Cache-Control": "no-store"})
    _begin(request, api, response, LINK)
    return response


@router.post(
    "/login", dependencies=[JsonOnly], summary="Begin a session",
    **documented({200: (LoginOut, "The cookie is set.")}, 415, 422),
)  # fmt: skip
async def login(request: Request, api: ApiDep, body: LoginBody) -> Response:
    """Exchange an API key for a session cookie, for pages."""
    client = client_of(request.scope)
    key_id = await run_in_threadpool(api.auth.admit, body.key, client)
    if key_id is None and api.settings.is_auth_on:
        api.auth.note_failure(client)
        raise Problem("unauthorized", "the key is not valid, or was revoked")
    response = answer({"status": "ok"})
    expires = _begin(request, api, response, key_id or "no key")
    shown = answer({"status": "ok", "expires_at": time_text(datetime.fromtimestamp(expires, UTC))})
    shown.headers.append("set-cookie", response.headers["set-cookie"])
    return shown


@router.post("/logout", status_code=204, summary="End a session",
             **documented({204: (None, "The session has ended.")}))  # fmt: skip
def logout(request: Request, api: ApiDep) -> Response:
    """End the session of the cookie, also for whoever has a copy of it."""
    api.auth.end_session(session_of(request.headers) or "")
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return response


def _begin(request: Request, api: Api, response: Response, owner: str) -> float:
    """Set the session's cookie and return when it ends."""
    value, expires = api.auth.new_session(owner)
    secure = request.url.scheme == "https"
    response.set_cookie(
        COOKIE, value, max_age=SESSION_S, path="/", httponly=True, samesite="strict",
        secure=secure,
    )  # fmt: skip
    return expires
