"""Logs as JSON lines with the request's id and, where there is one, the job's."""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import IO

FIELDS = ("request_id", "job_id", "stage", "method", "path", "status", "seconds", "client", "code")
SECRET = re.compile(r"(dst_|hf_|token=)[A-Za-z0-9_-]{6,}")
ACCESS = logging.getLogger("app.access")


class JsonLines(logging.Formatter):
    """One JSON object a line; line ends inside are escaped, keys and tokens are left out."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": SECRET.sub(r"\1...", record.getMessage()),
        }
        for name in FIELDS:
            value = getattr(record, name, None)
            if value is not None:
                line[name] = value
        if record.exc_info:
            line["traceback"] = SECRET.sub(r"\1...", self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=True, default=str)


def log_json(stream: IO[str] | None = None, level: int = logging.INFO) -> None:
    """Send all logs of this process to a stream as JSON lines; called once, by a command."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "dbos"):
        logger = logging.getLogger(name)
        logger.handlers[:] = []
        logger.propagate = True
    logging.getLogger("uvicorn.access").disabled = True  # `app.access` says more
