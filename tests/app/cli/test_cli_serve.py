"""What serve promises of its socket, its worker process and its refusals."""

import asyncio
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.api import protocol
from app.cli import keeper, serving
from app.cli.keeper import Keeper, worker_command
from distillery.errors import ConfigError

Command = Callable[..., tuple[int, str, str]]
WAITS = "import sys; sys.stdin.buffer.read()"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True)\n"


def eventually(check: Callable[[], object], limit_s: float = 10.0) -> None:
    end = time.monotonic() + limit_s
    while not check():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_worker_that_dies_is_started_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeper, "FIRST_DELAY_S", 0.01)
    kept = Keeper(python(WAITS))
    kept.start()
    try:
        eventually(lambda: kept.pid)
        first = kept.pid
        assert first is not None
        subprocess.run(["kill", "-9", str(first)], check=True)
        eventually(lambda: kept.pid != first and kept.pid is not None)
        assert "exit code -9" in caplog.text
    finally:
        kept.stop()
    assert kept.pid is not None and not is_alive(kept.pid)


def test_a_worker_that_keeps_dying_is_started_ever_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "FIRST_DELAY_S", 0.04)
    starts: list[float] = []

    def start(*arguments: object, **options: object) -> "subprocess.Popen[bytes]":
        starts.append(time.monotonic())
        return subprocess.Popen(["false"], stdin=subprocess.PIPE)

    kept = Keeper(["false"], start=start)
    kept.start()
    eventually(lambda: len(starts) == 5)
    kept.stop()
    gaps = [after - before for before, after in zip(starts, starts[1:], strict=False)]
    assert gaps[3] > 0.3 and gaps[0] < gaps[3]  # 0.04, 0.08, 0.16, 0.32 s and the time of a start


def test_a_worker_that_does_not_stop_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    kept = Keeper(python(STUBBORN + "time.sleep(60)"))
    kept.start()
    eventually(lambda: kept.pid and "sleep" in Path(f"/proc/{kept.pid}/cmdline").read_text())
    time.sleep(0.3)  # until it ignores the signal
    kept.stop(grace_s=0.2)
    assert kept.pid is not None and not is_alive(kept.pid) and "is killed" in caplog.text


def test_the_worker_ends_with_its_keeper_however_that_ends() -> None:
    code = (
        "import sys, time\nfrom app.cli.keeper import Keeper\n"
        f"kept = Keeper([sys.executable, '-c', {WAITS!r}])\nkept.start()\n"
        "while kept.pid is None: time.sleep(0.01)\n"
        "print(kept.pid, flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen(python(code), stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        pid = int(holder.stdout.readline())
        assert is_alive(pid)
        holder.send_signal(signal.SIGKILL)
    eventually(lambda: not is_alive(pid))


def test_the_worker_of_serve_is_our_own_verb(tmp_path: Path) -> None:
    command = worker_command(tmp_path, "cpu")
    assert command[:4] == [sys.executable, "-m", "app.cli.main", "worker"]
    assert "--ends-with-stdin" in command


def test_a_port_in_use_is_one_sentence(distillery: Command) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}; another program listens there"):
            serving.bind("127.0.0.1", port)
        code, out, err = distillery("serve", "--no-worker", "--port", port, "--log", "text")
    assert (code, out) == (2, "") and "another program" in err


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.1"])
def test_an_address_that_is_not_ours(host: str) -> None:
    with pytest.raises(ConfigError, match="another --host"):
        serving.bind(host, 0)


def test_the_address_is_one_that_a_browser_can_open() -> None:
    for host, start in (("127.0.0.1", "http://127.0.0.1:"), ("0.0.0.0", "http://127.0.0.1:")):
        with serving.bind(host, 0) as listener:
            assert serving.address_of(listener) == f"{start}{listener.getsockname()[1]}"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_without_keys_only_this_machine_is_served(
    distillery: Command, monkeypatch: pytest.MonkeyPatch, host: str, tmp_path: Path
) -> None:
    monkeypatch.setenv("DISTILLERY_AUTH", "off")
    monkeypatch.setenv("DISTILLERY_DATA", str(tmp_path / "data"))
    code, out, err = distillery("serve", "--host", host, "--port", "0")
    assert (code, out) == (2, "") and "DISTILLERY_AUTH is off" in err
    assert not (tmp_path / "data").exists()


def test_links_begin_with_the_address_that_browsers_use(
    distillery: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DISTILLERY_PUBLIC_URL", "https://distil.example/")
    monkeypatch.setenv("DISTILLERY_URL", "http://127.0.0.1:8000")  # the client's own way
    code, out, _ = distillery("keys", "link", "--data", str(tmp_path))
    assert code == 0 and out.startswith("https://distil.example/login?token=")
    named = distillery("keys", "link", "--data", str(tmp_path), "--url", "http://x:1")[1]
    assert named.startswith("http://x:1/login?token=")


@pytest.mark.parametrize(
    ("trusted", "seen"),
    [((), ("127.0.0.1", "http")), (("10.0.0.9",), ("127.0.0.1", "http")),
     (("127.0.0.1",), ("203.0.113.7", "https")), (("127.0.0.0/8",), ("203.0.113.7", "https"))],
)  # fmt: skip
def test_only_a_named_proxy_says_who_asks(
    monkeypatch: pytest.MonkeyPatch, trusted: tuple[str, ...], seen: tuple[str, str]
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")  # uvicorn's own variable is not heeded
    found: list[tuple[str, str]] = []

    async def app(scope: dict[str, Any], receive: object, send: object) -> None:
        found.append((scope["client"][0], scope["scheme"]))

    def nothing() -> None: ...

    server = serving.Server(app, on_start=nothing, on_stop=nothing, trusted_proxies=trusted)
    server.config.load()
    headers = [(b"x-forwarded-for", b"203.0.113.7"), (b"x-forwarded-proto", b"https")]
    scope = {"type": "http", "scheme": "http", "client": ("127.0.0.1", 9), "headers": headers}
    asyncio.run(server.config.loaded_app(scope, None, None))
    assert found == [seen]


def test_signals_do_not_end_what_puts_things_in_order() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with serving.signals_kept():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("arguments", [("serve", "--log", "xml"), ("worker", "--device", "tpu")])
def test_words_that_are_none(distillery: Command, arguments: tuple[str, ...]) -> None:
    level, handlers = logging.getLogger().level, logging.getLogger().handlers[:]
    try:
        assert distillery(*arguments)[0] == 2
    finally:
        logging.getLogger().setLevel(level)
        logging.getLogger().handlers[:] = handlers


def test_a_request_that_does_not_come_in_time_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                kind = (await receive())["type"]
                await send({"type": f"{kind}.complete"})
                if kind == "lifespan.shutdown":
                    return
        await asyncio.sleep(0.3)  # an answer may take longer than the head of its request
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    monkeypatch.setattr(protocol, "HEAD_S", 0.1)
    listener = serving.bind("127.0.0.1", 0)
    started = threading.Event()
    server = serving.Server(app, on_start=started.set, on_stop=lambda: None)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    try:
        assert started.wait(10)
        head = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
        for sent in (b"", head):
            with socket.create_connection(listener.getsockname(), timeout=5) as client:
                client.sendall(sent)
                assert client.recv(1) == b""  # closed by the server
        with socket.create_connection(listener.getsockname(), timeout=5) as client:
            for _ in range(2):  # on one connection
                client.sendall(head + b"\r\n")
                assert client.recv(100).startswith(b"HTTP/1.1 204")
            client.sendall(head)
            assert client.recv(1) == b""
    finally:
        server.should_exit = True
        thread.join(10)
