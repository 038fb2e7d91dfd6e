"""A worker: takes stages from the queue until it is told to stop.

Start: the lock of its id, the first beat, the launch of the engine (which takes up again what an
earlier process of this id had left), then the threads that beat, reap and tidy up. End: SIGTERM
lets the running stage write its checkpoint and puts it back into the queue.
"""

import logging
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import sqlalchemy as sa
from dbos import DBOS

from app.jobs.engine import engine_url
from app.jobs.housekeeping import clean, tend
from app.jobs.service import Service, open_service
from app.settings import Settings, child_environment
from app.worker.about import name_work
from app.worker.identity import (
    Identity,
    default_id,
    device_name,
    find_device,
    machine_facts,
    one_gpu,
)
from app.worker.launch import engine_config
from app.worker.liveness import Liveness
from app.worker.locks import hold_executor, shared_lock
from app.worker.reaper import Reaper
from app.worker.spare import Children
from app.worker.stages import RunProcess, StageRunner
from app.worker.supervise import run_stage_process
from app.worker.workflows import define_workflows, register_queues
from distillery.errors import JobError

LOG = logging.getLogger(__name__)
EXIT_GAVE_UP = 70
TEND_INTERVAL_S, CLEAN_INTERVAL_S = 5.0, 3600.0
STOP_TIMEOUT_S = 40.0
"""Longer than a stage may take to write its checkpoint."""
BOOT_WAIT_S = 90.0

MakeRunProcess = Callable[[int, str], RunProcess]
"""Makes what runs a stage in a process, which inherits this file handle and uses this device."""


def child_processes(lock: int, device: str) -> RunProcess:
    """Return what runs a stage in a child process; one that has imported torch waits for it."""
    children = Children(child_environment() | one_gpu(device), keep_open=(lock,))
    children.prepare()
    return partial(run_stage_process, children=children)


def run_worker(
    settings: Settings,
    *,
    worker_id: str | None = None,
    device: str | None = None,
    migrate: bool = True,
    stop_with_parent: bool = False,
    make_run_process: MakeRunProcess = child_processes,
) -> NoReturn:
    """Work until SIGTERM or SIGINT; this call ends the process.

    Args:
        settings: Folders, database and limits.
        worker_id: Id of this worker, the same at each start; by default host and device.
        device: `cpu`, `cuda` or `cuda:N`; by default the GPU where the driver lists one.
        migrate: Make or update the tables first.
        stop_with_parent: Stop when the process that started this one is gone.
        make_run_process: Makes what runs a stage.

    Raises:
        JobError: If another living worker has this id.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    device = device or find_device()
    identity = Identity(
        executor_id=worker_id or default_id(device), boot=secrets.token_hex(8), device=device,
        device_name=device_name(device),
    )  # fmt: skip
    for handler in logging.getLogger().handlers:
        handler.addFilter(name_work)
    # An earlier process of this id may be about to end, and its child holds the lock too
    lock = hold_executor(settings.data, identity.executor_id, wait_s=BOOT_WAIT_S)
    service = open_service(settings, migrate=migrate)
    runner, liveness = _launch(service, identity, make_run_process(lock, device), stop, lock)
    reaper = Reaper(service, dead_after_s=settings.dead_after_s)
    for target, argument in ((reaper.run, stop), (_tend_on, service)):
        threading.Thread(target=target, args=(argument,), daemon=True).start()
    LOG.info("worker %s is ready on %s", identity.executor_id, identity.device_name)
    parent = os.getppid()
    while not stop.wait(0.5):
        if stop_with_parent and os.getppid() != parent:
            LOG.warning("the process that started this worker is gone")
            stop.set()
    _end(service, identity, runner, liveness)


def _launch(
    service: Service, identity: Identity, run_process: RunProcess, stop: threading.Event, lock: int
) -> tuple[StageRunner, Liveness]:
    """Enter the worker among the living and launch the engine under its id."""
    facts = machine_facts(identity.device)
    liveness = Liveness(
        service.workers, identity, dead_after_s=service.settings.dead_after_s, give_up=_give_up,
        facts=lambda: _facts_now(identity, facts, runner),
    )  # fmt: skip
    runner = StageRunner(
        service, identity, run_process, is_fresh=lambda: liveness.is_fresh, stop=stop, lock=lock
    )
    with shared_lock(service, f"boot-{identity.executor_id}", wait_s=BOOT_WAIT_S) as is_held:
        if not is_held:
            raise JobError(f"the recovery of worker {identity.executor_id} does not end: try again")
        service.workers.start(identity.executor_id, identity.boot, facts)
        liveness.start()
        DBOS(config=engine_config(engine_url(service.settings), identity.executor_id))
        define_workflows(runner.run, runner.finish, runner.priority_of)
        DBOS.launch()  # puts what an earlier process of this id had left back into the queue
    register_queues()
    return runner, liveness


def _facts_now(identity: Identity, facts: dict[str, Any], runner: StageRunner) -> dict[str, Any]:
    """Return what a beat tells."""
    fresh = machine_facts(identity.device) if identity.device != "cpu" else facts
    return fresh | runner.current


def _tend_on(service: Service) -> None:
    """Tidy up now and then for as long as the process lives."""
    cleaned = float("-inf")
    while True:
        try:
            tend(service)
            if time.monotonic() - cleaned > CLEAN_INTERVAL_S:
                cleaned = time.monotonic()
                clean(service)
        except (sa.exc.DBAPIError, JobError) as error:
            LOG.warning("could not tidy up, to be tried again: %s", error)
        except Exception:  # a full disk, say: nobody else would start this thread again
            LOG.exception("could not tidy up, to be tried again")
        time.sleep(TEND_INTERVAL_S)


def _give_up(reason: str) -> None:
    """End this process at once; its child ends with it, by the pipe between them."""
    LOG.error("this worker ends at once: %s", reason)
    os._exit(EXIT_GAVE_UP)


def _end(service: Service, identity: Identity, runner: StageRunner, liveness: Liveness) -> NoReturn:
    """Let the running stage write its checkpoint, say that we are gone, and go."""
    LOG.info("worker %s stops", identity.executor_id)
    if not runner.is_idle.wait(STOP_TIMEOUT_S):
        LOG.warning("the running stage did not stop in time; it goes on from its last checkpoint")
    liveness.stop()
    try:
        service.workers.stop(identity.executor_id, identity.boot)
    except sa.exc.DBAPIError as error:
        LOG.warning("could not say goodbye: %s", error.orig)
    logging.shutdown()
    os._exit(0)  # stages that were put back wait in threads which no one can end otherwise
