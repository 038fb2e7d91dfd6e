"""The recovery of a dead worker's jobs, in a process that has its id for a moment.

Started by `app.worker.reaper`, which holds the locks: `python -m app.worker.reap ID`, with data
folder and database URL as JSON on the standard input.
Launching DBOS under an id puts what that id held back into the queue; no queue is listened to.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from dbos import DBOS

from app.jobs.engine import engine_url
from app.settings import read_settings
from app.worker.launch import engine_config

TIMEOUT_S = 30.0


def main(executor_id: str, address: Mapping[str, str]) -> int:
    """Give back what an executor id holds; return 0 when it holds nothing any more."""
    settings = replace(
        read_settings(), data=Path(address["data"]), database_url=address["database_url"]
    )
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
    code = main(sys.argv[1], json.load(sys.stdin))
    os._exit(code)  # the engine's threads have nothing more to do
