"""Builds both images step by step and starts what they start; prints what it found as JSON.

A program for `unshare -m`, so that its mounts go with it: CONTEXT WORK.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from dockerfile import Builder

PORT = "18765"
PAGE = """
import re, urllib.request
page = urllib.request.urlopen("{url}/login").read().decode()
style = re.search(r'/static/[^"?]+[.]css', page)[0]
print(urllib.request.urlopen("{url}" + style).status)
"""
"""Prints 200 where the page and its style are in the image."""


def ask(builder: Builder, name: str, *command: str, limit_s: float = 60.0) -> tuple[int, str]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with builder.start(name, list(command), **options) as process:
        text, _ = process.communicate(timeout=limit_s)
    return process.returncode, text


def until_well(builder: Builder, name: str, *command: str, limit_s: float = 90.0) -> str:
    end, text = time.monotonic() + limit_s, ""
    while time.monotonic() < end:
        code, text = ask(builder, name, *command)
        if code == 0:
            return "well"
        time.sleep(0.5)
    return f"not well: {text[-500:]}"


def main() -> None:
    context, work = Path(sys.argv[1]), Path(sys.argv[2])
    # a file system of its own: layers may not lie below the root that they are laid over
    subprocess.run(["mount", "-t", "tmpfs", "layers", work], check=True)
    index = os.environ.get("DISTILLERY_TEST_TORCH_INDEX", "https://pypi.org/simple")
    text = (context / "docker" / "Dockerfile").read_text()
    builder = Builder(text, context, work, {"TORCH_INDEX": index})
    data = work / "data"
    data.mkdir()
    os.chown(data, 10001, 0)
    found: dict[str, object] = {}
    for name in ("api", "worker"):
        builder.build(name)
        builder.close_root(name, data)
        found[f"{name} packages"] = ask(builder, name, "pip", "list", "--format=freeze")[1]
        found[f"{name} user"] = ask(builder, name, "id", "-u")[1].strip()
        found[f"{name} root"] = ask(builder, name, "sh", "-c", "touch /opt/x /usr/x")[1]
        found[f"{name} imports"] = ask(builder, name, "python3", "-c", "import torch")[1][-80:]
    found["migrate"] = ask(builder, "api", "distillery", "migrate")[1]
    command = [*builder.commands["api"][:-1], PORT, "--no-migrate"]
    running = []
    with open(work / "api.log", "w") as log:
        running.append(builder.start("api", command, stdout=log, stderr=log))
    url = f"http://127.0.0.1:{PORT}"
    found["api"] = until_well(builder, "api", "distillery", "healthcheck", "api", "--url", url)
    found["page"] = ask(builder, "api", "python3", "-c", PAGE.format(url=url))[1]
    with open(work / "worker.log", "w") as log:
        command = [*builder.commands["worker"], "--no-migrate", "--device", "cpu"]
        running.append(builder.start("worker", command, stdout=log, stderr=log))
    found["worker"] = until_well(builder, "worker", "distillery", "healthcheck", "worker")
    create = ("distillery", "jobs", "create", "digits", "--ipc", "1", "--preset", "smoke")
    code, job = ask(builder, "api", *create, "--threads", "1")
    found["job"] = job if code else job.split()[-1]
    wait = ("distillery", "jobs", "wait", "--timeout", "10m", str(found["job"]))
    found["ended"] = ask(builder, "api", *wait, limit_s=700)[1]
    found["estimate"] = ask(
        builder, "api", "python3", "-c",
        "import json, distillery; c = json.load(open('/data/client.json')); "
        "print(distillery.Client(c['url'], api_key=c['api_key']).estimate('digits', 1)['object'])",
        limit_s=300,
    )[1]  # fmt: skip
    for process in running:
        process.send_signal(signal.SIGTERM)
    found["exit codes"] = [process.wait(60) for process in running]
    found["logs"] = {name: (work / f"{name}.log").read_text()[-1500:] for name in ("api", "worker")}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
