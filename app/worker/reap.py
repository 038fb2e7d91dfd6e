"""The recovery of a dead worker's jobs, in a process that has its id for a moment.

Started by `app.worker.reaper`, which holds the locks: `python -m app.worker.reap ID DATA URL`.
Launching DBOS under an id puts what that id held back into the queue; no queue is listened to.
"""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dbos import DBOS

from app.jobs.engine import engine_url
from app.settings import read_settings
from app.worker.launch import engine_config

TIMEOUT_S = 30.0


def main(arguments: Sequence[str]) -> int:
    """Give back what an executor id holds; return 0 when it holds nothing any more."""
    executor_id, data, url = arguments
    settings = replace(read_settings(), data=Path(data), database_url=url)
    dbos = DBOS(config=engine_config(engine_url(settings), executor_id))
    dbos.listen_queues([])
    DBOS.launch()
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        left = DBOS.list_workflows(
            status="PENDING", executor_id=executor_id, load_input=False, load_output=False
        )
        if not left:
            return 0
        time.sleep(0.1)
    return 1


if __name__ == "__main__":
    code = main(sys.argv[1:])
    os._exit(code)  # the engine's threads have nothing more to do
