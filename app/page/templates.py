"""Templates of the page and how they become responses: everything escaped, nothing undefined."""

from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from fastapi import Request
from fastapi.responses import HTMLResponse

from app.page import text

FOLDER = Path(__file__).parent / "templates"


@cache
def environment() -> jinja2.Environment:
    """Return the surroundings of all templates; they are read once in a process's life."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
        "duration": text.duration,
        "size": text.size,
        "stamp": text.stamp,
        "clock": text.clock,
        "count": text.count,
        "ago": lambda moment: text.ago(moment, datetime.now(UTC)),
    }
    return made


def render(
    request: Request, template: str, *, status_code: int = 200, **values: Any
) -> HTMLResponse:
    """Return a page; what it shows changes, so nobody keeps it."""
    content = environment().get_template(template).render(here=request.url.path, **values)
    return HTMLResponse(content, status_code, headers={"Cache-Control": "no-store"})


def render_missing(request: Request, title: str, message: str) -> HTMLResponse:
    """Return the page for something that is not there."""
    return render(request, "missing.html", status_code=404, title=title, message=message)


def render_login(request: Request, message: str = "", *, status_code: int = 401) -> HTMLResponse:
    """Return the page that asks for a login token, after `message` where one failed."""
    return render(request, "login.html", status_code=status_code, message=message)
