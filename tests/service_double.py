"""A service that says what a test tells it to, over real HTTP on a free port."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    """Bytes of the body after which the connection breaks."""


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


def reply(value: Any, status: int = 200, **headers: str) -> Answer:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"} | named)


def problem(status: int, code: str, detail: str, **fields: Any) -> Answer:
    value = {"status": status, "code": code, "detail": detail, "request_id": "req_1"} | fields
    body = json.dumps(value).encode()
    return Answer(status, body, {"Content-Type": "application/problem+json"})


class ServiceDouble:
    """Answers with `script` in order, or with what `handler` returns."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.script: list[Answer] = []
        self.handler: Callable[[Asked], Answer] | None = None
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(self.command, self.path, headers, self.rfile.read(length))
                double.asked.append(asked)
                answer = double.handler(asked) if double.handler else double.script.pop(0)
                self.send_response(answer.status)
                headers = {"Content-Length": str(len(answer.body))} | answer.headers
                if answer.status != 204:
                    for name, value in headers.items():
                        self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.body[: answer.cut_after])
                if answer.cut_after is not None:
                    self.close_connection = True

            do_GET = do_POST = do_HEAD = do_DELETE = do  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}
        )
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
