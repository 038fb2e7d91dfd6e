"""Does the API stay quick, small and free of errors beside a running job? How fast is a download?

50 clients ask once a second for 60 s, one request in 20 is a `POST /jobs`, 100 event streams are
open, and one job of the digits runs in one thread at low priority. Then a bundle of 1 GB is
downloaded, in turns with a plain `sendfile` of the same file over loopback.

    python -m benchmarks.service_load [--seconds N] [--clients N] [--streams N] [--gigabytes N]
        [--no-job] [--only load|download]

Targets: no error, `POST /jobs` p99 under 100 ms, `GET /jobs/{id}` p99 under 50 ms, the download at
30 % or more of `sendfile`, API memory under 150 MB. Writes benchmarks/results/service_load.json.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.jobs.service import open_service
from app.settings import read_settings
from benchmarks.jobs import save

REPEATS = 5
BLOCK = 1 << 20
POST_SHARE = 0.05


@dataclass
class Server:
    """A service in a process of its own, and how to ask it."""

    port: int
    key: str
    pid: int
    data: Path

    def head(self, method: str, path: str, extra: str = "") -> bytes:
        """Return the head of a request."""
        return (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            f"Authorization: Bearer {self.key}\r\n{extra}\r\n"
        ).encode()

    def memory_mb(self) -> float:
        """Return the resident memory of the API process."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


@dataclass
class Seen:
    """What the clients saw."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    events: int = 0
    jobs: list[str] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Start `distillery serve` with raised limits and end it afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ, "DISTILLERY_DATA": str(folder / "data"), "OMP_NUM_THREADS": "1",
        "DISTILLERY_CACHE": str(folder / "cache"), "DISTILLERY_MAX_QUEUED": "100000",
        "DISTILLERY_MAX_STREAMS": "1000", "DISTILLERY_MAX_REQUESTS_PER_S": "0",
    }  # fmt: skip
    command = [sys.executable, "-m", "app.cli.main", "serve", "--no-worker", "--port", str(port)]
    with open(folder / "serve.log", "wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        settings = read_settings({"HOME": str(folder), "DISTILLERY_DATA": str(folder / "data")})
        _wait_for(port)
        service = open_service(settings)
        _, key = service.keys.create("benchmark")
        service.close()
        yield Server(port, key, process.pid, folder / "data")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _wait_for(port: int) -> None:
    """Wait until the service answers."""
    for _ in range(600):
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as link:
                link.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
                if b" 200 " in link.recv(100):
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError("the service did not start within 60 s")


@contextmanager
def working(server: Server, folder: Path) -> Iterator[None]:
    """Run a worker in one thread at low priority on a digits job, until the block ends."""
    environment = {
        **os.environ, "DISTILLERY_DATA": str(server.data), "OMP_NUM_THREADS": "1",
        "DISTILLERY_CACHE": str(folder / "cache"), "OMP_WAIT_POLICY": "PASSIVE",
    }  # fmt: skip
    command = ["nice", "-n", "19", sys.executable, "-m", "app.cli.main", "worker"]
    with open(folder / "worker.log", "wb") as log:
        process = subprocess.Popen(
            [*command, "--device", "cpu"], env=environment, stdout=log, stderr=log
        )
    try:
        job_id = asyncio.run(_started_job(server))
        print(f"job {job_id} runs")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(90)


async def _started_job(server: Server) -> str:
    """Create a job and wait until it fine-tunes or trains its base."""
    link = await asyncio.open_connection("127.0.0.1", server.port)
    body = {"dataset": "digits", "ipc": 10, "num_threads": 1, "priority": 1}
    _, content = await ask(link, server, "POST", "/jobs", body)
    job_id = str(json.loads(content)["id"])
    for _ in range(600):
        _, content = await ask(link, server, "GET", f"/jobs/{job_id}")
        job = json.loads(content)
        if job["phase"] in ("base", "finetune"):
            return job_id
        if job["status"] in ("failed", "succeeded"):
            raise RuntimeError(f"the job {job['status']}: {job['error']}")
        await asyncio.sleep(0.2)
    raise RuntimeError("the job did not start within two minutes")


Link = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def ask(
    link: Link, server: Server, method: str, path: str, body: Any = None
) -> tuple[int, bytes]:
    """Send a request on a connection that is kept; return status and body."""
    reader, writer = link
    content = b"" if body is None else json.dumps(body).encode()
    extra = f"Content-Length: {len(content)}\r\n" if body is not None else ""
    extra += "Content-Type: application/json\r\n" if body is not None else ""
    writer.write(server.head(method, path, extra) + content)
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    length = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
    return status, await reader.readexactly(int(length or 0))


async def client(server: Server, seen: Seen, until: float, number: int) -> None:
    """Ask once a second until the end."""
    rng = random.Random(number)
    link = await asyncio.open_connection("127.0.0.1", server.port)
    await asyncio.sleep(rng.random())
    while time.perf_counter() < until:
        started = time.perf_counter()
        is_post = rng.random() < POST_SHARE
        path = "/jobs" if is_post else f"/jobs/{rng.choice(seen.jobs)}"
        body = {"dataset": "digits", "ipc": rng.randint(1, 50), "priority": 9} if is_post else None
        try:
            status, content = await ask(link, server, "POST" if is_post else "GET", path, body)
        except (OSError, asyncio.IncompleteReadError) as error:
            seen.errors.append(f"{path}: {error!r}")
            link = await asyncio.open_connection("127.0.0.1", server.port)
            continue
        took = time.perf_counter() - started
        seen.seconds.setdefault("POST /jobs" if is_post else "GET /jobs/{id}", []).append(took)
        if status != (202 if is_post else 200):
            seen.errors.append(f"{path}: {status} {content[:200]!r}")
        elif is_post:
            seen.jobs.append(json.loads(content)["id"])
        await asyncio.sleep(max(0.0, 1.0 - took))


async def stream(server: Server, seen: Seen, job_id: str) -> None:
    """Follow a job's events until cancelled."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(server.head("GET", f"/jobs/{job_id}/events", "Accept: text/event-stream\r\n"))
    try:
        while line := await reader.readline():
            seen.events += line.startswith(b"event:")
    finally:
        writer.close()


async def _load(server: Server, options: argparse.Namespace) -> Seen:
    """Put the load on and return what was seen; its jobs are cancelled afterwards."""
    seen = Seen()
    link = await asyncio.open_connection("127.0.0.1", server.port)
    _, content = await ask(link, server, "GET", "/jobs?limit=1")
    seen.jobs += [job["id"] for job in json.loads(content)["data"]]
    for _ in range(3):
        body = {"dataset": "digits", "priority": 9}
        seen.jobs.append(json.loads((await ask(link, server, "POST", "/jobs", body))[1])["id"])
    streams = [
        asyncio.create_task(stream(server, seen, seen.jobs[n % len(seen.jobs)]))
        for n in range(options.streams)
    ]
    await asyncio.sleep(2)
    until = time.perf_counter() + options.seconds
    clients = [client(server, seen, until, number) for number in range(options.clients)]
    sampler = asyncio.create_task(_sample(server, seen))
    await asyncio.gather(*clients)
    sampler.cancel()
    alive = sum(not task.done() for task in streams)
    if alive < options.streams:
        seen.errors.append(f"{options.streams - alive} streams ended")
    for task in streams:
        task.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    link = await asyncio.open_connection("127.0.0.1", server.port)  # an idle one is closed
    for job_id in dict.fromkeys(seen.jobs):
        await ask(link, server, "POST", f"/jobs/{job_id}/cancel")
    return seen


async def _sample(server: Server, seen: Seen) -> None:
    while True:
        seen.memory_mb.append(server.memory_mb())
        await asyncio.sleep(1)


def load(server: Server, options: argparse.Namespace) -> dict[str, Any]:
    """Return latencies, errors and memory under load."""
    seen = asyncio.run(_load(server, options))
    found: dict[str, Any] = {"errors": len(seen.errors), "first_errors": seen.errors[:5]}
    for name, seconds in sorted(seen.seconds.items()):
        ordered = sorted(seconds)
        found[name] = {
            "requests": len(ordered), "p50_ms": round(1e3 * ordered[len(ordered) // 2], 1),
            "p99_ms": round(1e3 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 1),
            "max_ms": round(1e3 * ordered[-1], 1),
        }  # fmt: skip
    memory = seen.memory_mb
    found |= {
        "events_received": seen.events, "clients": options.clients, "streams": options.streams,
        "seconds": options.seconds,
        "api_memory_mb": {
            "start": round(memory[0], 1), "end": round(memory[-1], 1), "max": round(max(memory), 1)
        },
    }  # fmt: skip
    return found


def download(server: Server, options: argparse.Namespace) -> dict[str, Any]:
    """Return the speed of a bundle's download as a share of a plain `sendfile`."""
    job_id, path = _finished_job(server, int(options.gigabytes * 1e9))
    request = server.head("GET", f"/jobs/{job_id}/bundle", "Connection: close\r\n")
    fetch(server.port, server.head("HEAD", f"/jobs/{job_id}/bundle", "Connection: close\r\n"))
    rates: dict[str, list[float]] = {"api": [], "sendfile": []}
    with plain_sendfile(path) as port:
        for _ in range(REPEATS):
            rates["sendfile"].append(fetch(port, b"GET / HTTP/1.1\r\n\r\n"))
            rates["api"].append(fetch(server.port, request))
    shares = [ours / plain for ours, plain in zip(rates["api"], rates["sendfile"], strict=True)]
    return {
        "bytes": path.stat().st_size,
        "api_mb_per_s": round(statistics.median(rates["api"]) / 1e6),
        "sendfile_mb_per_s": round(statistics.median(rates["sendfile"]) / 1e6),
        "share": round(statistics.median(shares), 3),
        "share_range": [round(min(shares), 3), round(max(shares), 3)],
        "api_memory_mb_after": round(server.memory_mb(), 1),
    }


def _finished_job(server: Server, size: int) -> tuple[str, Path]:
    """Enter a job that has succeeded with a bundle of this size."""
    settings = read_settings({"HOME": str(server.data), "DISTILLERY_DATA": str(server.data)})
    service = open_service(settings, migrate=False)
    job = service.store.create({"data": {"dataset": "digits"}})
    service.store.change(job.id, expect={"queued"}, status="running", phase="bundle")
    path = service.job_folder(job.id) / "bundle" / "distilled.safetensors"
    path.parent.mkdir(parents=True)
    block = os.urandom(BLOCK)
    with open(path, "wb") as file:
        for _ in range(size // BLOCK):
            file.write(block)
    service.store.change(job.id, expect={"running"}, status="succeeded", result={})
    service.close()
    return job.id, path


def fetch(port: int, request: bytes) -> float:
    """Return the bytes a second of an answer that ends with its connection."""
    buffer, total = bytearray(4 * BLOCK), 0
    with socket.create_connection(("127.0.0.1", port), 120) as link:
        started = time.perf_counter()
        link.sendall(request)
        while got := link.recv_into(buffer):
            total += got
    return total / (time.perf_counter() - started)


SENDER = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    link, _ = listener.accept()
    with link, open(sys.argv[1], "rb") as file:
        link.recv(1000)
        link.sendfile(file)
"""


@contextmanager
def plain_sendfile(path: Path) -> Iterator[int]:
    """Serve one file with nothing but `sendfile`, in a process of its own; give its port."""
    process = subprocess.Popen(
        [sys.executable, "-c", SENDER, str(path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--no-job", action="store_true", help="without the running job")
    parser.add_argument("--only", choices=("load", "download"), default=None)
    options = parser.parse_args()
    result: dict[str, Any] = {"question": __doc__.splitlines()[0]}
    with tempfile.TemporaryDirectory(prefix="service-load-") as name, serving(Path(name)) as server:
        if options.only != "download":
            if options.no_job:
                result["load"] = load(server, options)
            else:
                with working(server, Path(name)):
                    result["load"] = load(server, options)
        if options.only != "load":
            result["download"] = download(server, options)
    print(json.dumps(result, indent=2))
    if options.only is None and not options.no_job:
        save(f"{Path(__file__).stem}.json", result)


if __name__ == "__main__":
    main()
