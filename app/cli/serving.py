"""HTTP for `distillery serve`: the socket, the server, and an end that leaves nothing half done."""

import errno
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from app.api.protocol import TimelyProtocol
from distillery.errors import ConfigError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

DRAIN_S = 5
"""Open answers have this long to end once the server stops; event streams are picked up again."""
BACKLOG = 2048
QUIET = ("uvicorn", "uvicorn.error", "dbos", "alembic")
"""Loggers that would come before the address: DBOS has a line for each of its migrations."""


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes any free one.

    Raises:
        ConfigError: If the address cannot be had.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except (OSError, OverflowError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            why = "another program listens there: name another --port, or stop that program"
        else:
            why = f"{error}: name another --host or --port"
        raise ConfigError(f"cannot listen on {host} port {port}; {why}") from error
    listener.set_inheritable(False)
    return listener


def address_of(listener: socket.socket) -> str:
    """Return the URL under which a browser on this machine reaches a listening socket."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """uvicorn that says when it is there, and when it was asked to stop."""

    def __init__(
        self, app: "ASGIApp", *, on_start: Callable[[], None], on_stop: Callable[[], None],
        trusted_proxies: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Take the application, what to call, and whose word on addresses is believed."""
        super().__init__(uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, lifespan="on",
            timeout_graceful_shutdown=DRAIN_S, timeout_keep_alive=30, ws="none",
            http=TimelyProtocol,
            proxy_headers=bool(trusted_proxies), forwarded_allow_ips=list(trusted_proxies),
        ))  # fmt: skip
        self._on_start, self._on_stop = on_start, on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to answer."""
        await super().startup(sockets=sockets)
        if self.started:
            self._on_start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal: answer what is open, then end; a second one ends at once."""
        self._on_stop()
        super().handle_exit(sig, frame)


@contextmanager
def signals_kept() -> Iterator[None]:
    """Keep signals from ending this process before it has put everything in order.

    uvicorn raises the signals that it took once more when it is done; here they mean nothing new,
    but for a Ctrl-C of somebody who does not want to wait.
    """
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [(number, signal.signal(number, lambda *_: None)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def log_for(terminal: bool) -> None:
    """Send logs to stderr: lines for people on a terminal, JSON lines elsewhere."""
    if not terminal:
        from app.api.logs import log_json

        log_json()
        for name in QUIET:
            logging.getLogger(name).setLevel(logging.WARNING)
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in ("app.access", *QUIET):
        logging.getLogger(name).handlers[:] = []
        logging.getLogger(name).setLevel(logging.WARNING)
