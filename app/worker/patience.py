"""Reads and changes that wait for a database which is away for a while, such as one that restarts.

Only for calls that may safely happen twice: the first may have been kept without our hearing so.
"""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa

LOG = logging.getLogger(__name__)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0

Result = TypeVar("Result")


def patiently(call: Callable[[], Result]) -> Result:
    """Return what `call` returns, asking again for as long as the database cannot be reached."""
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return call()
        except (sa.exc.OperationalError, sa.exc.InterfaceError) as error:
            LOG.warning("the database did not answer, asking again: %s", error.orig)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
