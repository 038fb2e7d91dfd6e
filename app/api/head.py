"""HEAD: the answer to GET without its body, for every address that has no way of its own for it."""

from collections.abc import Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

IS_HEAD = "is_head"
"""In the state of a request that a route sees as GET: nobody reads the body of its answer."""


class HeadAsGet:
    """Hands HEAD to the routes as GET and keeps the body of the answer back."""

    def __init__(self, app: ASGIApp, routes: Sequence[Any]) -> None:
        """Take the routes of the API, some of which take HEAD themselves."""
        self.app = app
        self.own = [route.path_regex for route in routes if "HEAD" in (route.methods or ())]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        is_head = scope["type"] == "http" and scope["method"] == "HEAD"
        if not is_head or any(regex.match(scope["path"]) for regex in self.own):
            await self.app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        scope["method"] = "GET"
        scope.setdefault("state", {})[IS_HEAD] = True
        await self.app(scope, receive, without_body)
