"""`distillery serve`: the API, the page and one worker on this machine, from one command."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.console import err
from app.cli.local import start_local
from app.cli.remote import CLIENT_FILE, local_service, write_local_service
from app.settings import Settings, read_settings

if TYPE_CHECKING:
    from app.jobs.keys import KeyStore
    from app.jobs.service import Service

DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="DIR", help="Jobs, uploads and the queue. Default: DISTILLERY_DATA."
    ),
]
LogOption = Annotated[
    str | None,
    typer.Option("--log", metavar="text|json", help="Default: text on a terminal, else json."),
]
KEY_NAME = "this machine"


def serve_verb(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8000,
    data: DataOption = None,
    no_worker: Annotated[
        bool, typer.Option("--no-worker", help="Only take jobs; workers run elsewhere.")
    ] = False,
    device: Annotated[str, typer.Option(help="Of the worker: auto, cpu, cuda or cuda:N.")] = "auto",
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    no_migrate: Annotated[
        bool, typer.Option("--no-migrate", help="The tables were made by `distillery migrate`.")
    ] = False,
    log: LogOption = None,
) -> None:
    """Serve jobs: HTTP API, page and one worker.

    Everything lies in one folder. The first start prints a login link that works once; `keys link`
    makes another, `keys create` a key for programs. Ctrl-C lets the running stage write a
    checkpoint and ends; the next start goes on from there.

    Example: distillery serve --open
    """
    from app.api.auth import check_bind

    settings = read_settings(data=data)
    check_bind(host, settings)
    if not no_worker:
        start_local()
    log_format(log)
    _serve(
        settings, host, port, device=None if no_worker else device, open_page=open_page,
        migrate=not no_migrate,
    )  # fmt: skip


def log_format(name: str | None) -> None:
    """Set the logs of this process up, as `--log` asks."""
    from app.cli.serving import log_for
    from distillery.errors import ConfigError

    if name not in (None, "text", "json"):
        raise ConfigError(f"--log is text or json, got {name!r}")
    log_for(terminal=sys.stderr.isatty() if name is None else name == "text")


def _serve(
    settings: Settings, host: str, port: int, *, device: str | None, open_page: bool, migrate: bool
) -> None:
    """Serve until a signal comes; the worker is stopped, and waited for, last."""
    from app.api.app import build_api
    from app.cli.keeper import Keeper, worker_command
    from app.cli.serving import Server, address_of, bind, signals_kept

    listener = bind(host, port)
    url = address_of(listener)
    keeper = Keeper(worker_command(settings.data, device)) if device is not None else None
    service = _open(settings, url, migrate=migrate)
    shown = settings.public_url or url
    link = _login_link(settings, shown, is_asked=open_page)

    def started() -> None:
        if keeper is not None:
            keeper.start()
        _greet(settings, shown, link, open_page=open_page)

    with signals_kept():
        try:
            app = build_api(settings, service)

            def stopping() -> None:
                app.state.api.hub.close()  # open event streams would hold the end up
                if keeper is not None:
                    keeper.ask_stop()

            server = Server(
                app, on_start=started, on_stop=stopping, trusted_proxies=settings.trusted_proxies
            )
            server.run(sockets=[listener])
        finally:
            if keeper is not None and keeper.pid is not None:
                err(settings).print("Waiting for the worker to write a checkpoint.")
                keeper.stop()
            service.close()
    if not server.started:
        raise typer.Exit(1)


def _open(settings: Settings, url: str, *, migrate: bool) -> "Service":
    """Open the service, and leave its address and a key for this user's own verbs."""
    from app.jobs.service import open_service

    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    service = open_service(settings, migrate=migrate)
    key = _local_key(service.keys, settings) if settings.is_auth_on else None
    write_local_service(settings.data, url, key)
    return service


def _login_link(settings: Settings, url: str, *, is_asked: bool) -> str | None:
    """Return a login link at the first start, or where one is asked for."""
    from app.api.auth import new_login_token

    is_first = not (settings.data / "login").exists()
    if not settings.is_auth_on or not (is_first or is_asked):
        return None
    return f"{url}/login?token={new_login_token(settings.data)}"


def _local_key(keys: "KeyStore", settings: Settings) -> str:
    """Return the key of this user's own verbs: the one in the data folder while it is good."""
    stored = local_service(settings.data).get("api_key")
    if isinstance(stored, str) and keys.find(stored) is not None:
        return stored
    (settings.data / CLIENT_FILE).unlink(missing_ok=True)
    return keys.create(KEY_NAME)[1]


def _greet(settings: Settings, url: str, link: str | None, *, open_page: bool) -> None:
    """Say where the service is."""
    console = err(settings)
    console.print(f"Distillery serves on {url}", soft_wrap=True)
    if not settings.is_auth_on:
        console.print("Authentication is off: every program on this machine can use it.")
    elif link is not None:
        console.print(f"Log in (works once): {link}", soft_wrap=True)
    else:
        console.print("`distillery keys link` prints a new login link.")
    if open_page:
        import webbrowser

        webbrowser.open(link or url)
