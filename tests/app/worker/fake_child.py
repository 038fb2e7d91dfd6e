"""A child without the torch stack: it does, step by step, what the request of its task says."""

import os
import sys
import time
from pathlib import Path

from app.worker.attempts import marks_of
from app.worker.link import EXIT_CANCELED, Link
from app.worker.reports import Reporter, Stop
from distillery.errors import Cancelled
from distillery.progress import Progress


def once(path: Path) -> bool:
    """Say whether this is the first time, over all processes."""
    if path.exists():
        return False
    path.write_text("")
    return True


def do(step: list, folder: Path, link: Link, reporter: Reporter) -> None:
    """Take one step."""
    name, *values = step
    if name == "report":
        reporter(Progress("finetune", values[0], 10, "learning", {"loss": 0.5}))
    elif name == "steps":  # reports every 20 ms
        for number in range(values[0]):
            reporter(Progress("finetune", number, values[0]))
            time.sleep(0.02)
    elif name == "log":
        with open(folder / "job.log", "a") as file:
            file.write(values[0].replace("FOLDER", str(folder)) + "\n")
    elif name == "send":
        link.send(values[0], values[1])
    elif name == "work":
        place = folder / "stages" / "finetune-0123.partial"
        link.send("work", {"folder": str(place), "marks": marks_of(place)})
    elif name == "checkpoint":
        place = folder / "stages" / "finetune-0123.partial"
        place.mkdir(parents=True, exist_ok=True)
        (place / "checkpoint-state").write_text(str(os.getpid()))
    elif name == "die" or (name == "die_once" and once(folder / "died")):
        os.kill(os.getpid(), values[0])
    elif name == "hang":  # no report, no end
        time.sleep(values[0])
    elif name == "deaf":  # a C call that does not end: not even a signal is looked at
        import signal

        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGALRM})
        reporter(Progress("finetune", 1, 10))  # only now: who waits for it finds nobody listening
        time.sleep(values[0])


def main() -> None:
    """Do tasks until there are no more."""
    sink = os.dup(1)
    link, stop = Link(0, sink), Stop()
    link.send("ready", os.getpid())
    while True:
        task = link.next_task()
        folder, last = Path(task["folder"]), {"pid": os.getpid()}
        reporter = Reporter(link.send, stop)
        try:
            with stop:
                for step in task["request"]["do"]:
                    do(step, folder, link, reporter)
        except Cancelled:
            (folder / "stopped").write_text("")
            link.send("canceled", None)
            os._exit(EXIT_CANCELED)
        reporter.flush()
        link.send("done", last | {"environment": sorted(os.environ)})


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[3]))
    main()
