"""How long does the embedded default take, with and without a cached base, and how much memory?

Runs `distillery run` on the digits as a user would, in a process of its own: once with an empty
cache, then once with another seed, so that only prepared data and base are cached; and once the
preset `smoke`, with an empty cache.

    python -m benchmarks.whole_run

Targets on two idle cores: 120 s without a cache, 50 s with it, of which 25 s evaluation; 15 s
for `smoke`; peak memory under 1.5 GB. Writes benchmarks/results/whole_run.json.
"""

import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.jobs import save
from distillery.files import read_json

TARGETS = {"empty cache": 120.0, "cached base": 50.0, "smoke": 15.0}
POLL_S = 0.25
MAIN = "from app.cli.main import main; main()"


def memory_of(pid: int) -> int:
    """Return the memory of a process and those below it; what they share counts once each."""
    total = 0
    with suppress(psutil.NoSuchProcess):  # one has just ended
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            total += each.memory_info().rss
    return total


def one(name: str, folder: Path, cache: str, *options: str) -> dict[str, Any]:
    """Run the command once, with a cache in the folder; returns seconds by stage, peak memory."""
    started = time.monotonic()
    out = folder / name.replace(" ", "-")
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "run", "--out", str(out), "--yes", *options],
        env={"DISTILLERY_CACHE": str(folder / cache), "PATH": "/usr/bin:/bin"},
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, memory_of(process.pid))
        time.sleep(POLL_S)
    if process.returncode:
        raise SystemExit(f"the run failed with {process.returncode}")
    seconds = time.monotonic() - started
    stages = read_json(out / "bundle" / "report.json")["stages"]
    return {
        "name": name,
        "seconds": round(seconds, 1),
        "target_s": TARGETS[name],
        "stages": {stage["name"]: 0.0 if stage["cached"] else stage["seconds"] for stage in stages},
        "peak_memory_bytes": peak,
    }


def main() -> None:
    """Time all runs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [
            one("empty cache", folder, "cache"),
            one("cached base", folder, "cache", "--seed", "1"),
            one("smoke", folder, "smoke-cache", "--preset", "smoke"),
        ]
    for row in rows:
        print(row)
    save("whole_run.json", {"question": __doc__.splitlines()[0], "rows": rows})


if __name__ == "__main__":
    main()
