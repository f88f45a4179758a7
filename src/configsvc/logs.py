"""Logs as JSON, one line an event, on standard error.

Modules use `logging` as usual. What a program should be able to search for is a field of its own, given in `extra=`:

    logger.info("listening", extra={"addresses": addresses})
    {"addresses": [...], "event": "listening", "level": "info", "logger": "configsvc.wiring", "timestamp": "..."}
"""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime

# Every line that is logged in this context has it, as `request_id`. Empty: outside of any call.
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")

# `json.dumps` with options makes an encoder for each call.
_encode = json.JSONEncoder(default=repr).encode
# The attributes of a record that are not from `extra=`.
_OWN_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: its fields, `event`, `request_id`, `level`, `logger`, `timestamp`, `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """A value that JSON does not know is written as its `repr`."""
        line = {name: value for name, value in vars(record).items() if name not in _OWN_ATTRIBUTES}
        line["event"] = record.getMessage()
        if request_id := REQUEST_ID.get():
            line.setdefault("request_id", request_id)
        line["level"] = record.levelname.lower()
        line["logger"] = record.name
        line["timestamp"] = f"{datetime.fromtimestamp(record.created, UTC).isoformat(timespec='microseconds')[:-6]}Z"
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encode(line)


def write_as_json(level: str) -> None:
    """From now on, writes the events of all modules and libraries from `level` (`info` …) upwards.

    If a line can't be written, because the disk is full or the reader has gone, it is dropped.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # It logs every health check.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # Don't collect what no line shows: the caller's file and line, the thread, the process, the task (Logging HOWTO,
    # "Optimization").
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    if sys.version_info >= (3, 12):
        logging.logAsyncioTasks = False
