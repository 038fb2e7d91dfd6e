"""The application: routes, pages and the guard in front of them, for one set of settings."""

import html
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI, Request, Response

from app.api.auth import Auth
from app.api.children import Children
from app.api.context import Api
from app.api.files import Digests
from app.api.head import HeadAsGet
from app.api.hub import EventHub
from app.api.middleware import Guard
from app.api.openapi import add_openapi
from app.api.problems import add_problem_handlers
from app.api.routes import datasets, estimates, events, files, jobs, login, system
from app.api.telemetry import Telemetry
from app.jobs.housekeeping import tend
from app.jobs.service import Service, open_service
from app.settings import Settings

MAX_BODY_BYTES = 64 << 10
RECONCILE_S = 30.0
LOCAL_NAMES = frozenset({"localhost"})
ROUTERS = (jobs, events, files, estimates, datasets, system, login)
LOG = logging.getLogger(__name__)


def build_api(settings: Settings, service: Service | None = None) -> FastAPI:
    """Return the application.

    Args:
        settings: Of this process.
        service: Of these settings, where the caller has opened it; else it is opened here, with
            its tables brought up to date, and closed when the application ends.
    """
    is_own = service is None
    service = service or open_service(settings)
    hub = EventHub(service.store)
    telemetry = Telemetry(service, hub, version("distillery"))
    auth = Auth(service.keys, settings)
    children = Children(settings.child_environment)
    api = Api(service, auth, hub, children, telemetry, Digests())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        hub.is_closing, stop = False, threading.Event()
        keeper = threading.Thread(target=_keep_house, args=(service, stop), name="reconcile")
        keeper.start()
        yield
        hub.close()
        stop.set()
        keeper.join()
        if is_own:
            service.close()

    app = FastAPI(
        title="Distillery", version=version("distillery"), lifespan=lifespan,
        openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False,
    )  # fmt: skip
    app.state.api = api
    app.state.login_page = _login_page
    for module in ROUTERS:
        app.include_router(module.router)
    app.state.routes = [route for module in ROUTERS for route in module.router.routes]
    _add_pages(app, service)
    add_openapi(app)
    add_problem_handlers(app)
    app.add_middleware(HeadAsGet, routes=app.state.routes)
    app.add_middleware(
        Guard, auth=auth, telemetry=telemetry, hosts=LOCAL_NAMES | set(settings.allowed_hosts),
        max_body_bytes=MAX_BODY_BYTES, max_upload_bytes=settings.max_upload_bytes,
        requests_per_s=settings.max_requests_per_s,
    )  # fmt: skip
    return app


def _keep_house(service: Service, stop: threading.Event) -> None:
    """Bring queue and store together now and then: a job whose hand-over failed is queued again."""
    while not stop.is_set():
        try:
            tend(service)
            service.answers.purge()
        except Exception:  # the database is away: the next round comes
            LOG.exception("the queue could not be looked through")
        stop.wait(RECONCILE_S)


def _add_pages(app: FastAPI, service: Service) -> None:
    """Add the web page, with its form for a login token."""
    from app.page.routes import add_pages
    from app.page.templates import render_login, render_missing

    add_pages(app, service)
    app.state.login_page = lambda request, message: render_login(
        request, message, status_code=401 if message else 200
    )
    app.state.refusal_page = render_login
    app.state.missing_page = lambda request, detail: render_missing(
        request, "There is nothing here", f"{detail[:1].upper()}{detail[1:]}."
    )


def _login_page(request: Request, message: str) -> Response:
    """Return the plainest page to log in, where the web page is not installed."""
    text = html.escape(message or "Open the link that `distillery serve` printed.")
    return Response(f"<!doctype html><title>Log in</title><p>{text}", media_type="text/html")
