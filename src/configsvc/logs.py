"""Logs as JSON, one line an event, on standard error.

Modules use `logging` as usual. What a program should be able to search for is a field of its own, given in `extra=`:

    logger.info("listening", extra={"addresses": addresses})
    {"addresses": [...], "event": "listening", "level": "info", "logger": "configsvc.wiring", "timestamp": "..."}
"""

import json
import logging
import sys
import time
from contextvars import ContextVar
from datetime import UTC, datetime
from itertools import islice
from json.encoder import encode_basestring_ascii as _quoted
from typing import TextIO

# Every line that is logged in this context has it, as `request_id`. Empty: outside of any call.
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")

# `json.dumps` with options makes an encoder for each call.
_encode = json.JSONEncoder(default=repr).encode
# The attributes of a record that are not from `extra=`. A record gets these first. A handler may add the others.
_FIRST_ATTRIBUTES = len(vars(logging.makeLogRecord({})))
_ADDED_ATTRIBUTES = frozenset({"message", "asctime"})
_INFO_RECORD = vars(logging.makeLogRecord({"levelno": logging.INFO, "levelname": "INFO"}))


class EncodedRecord(logging.LogRecord):
    """A record whose fields are JSON already: `members`, as `"code": "OK", "actor": "ann"`, instead of `extra=`.

    For lines that are written so often that their cost counts. `logger.handle` takes it, if `logger.isEnabledFor` its
    level. It has what every record has, except where it was made, and `msecs`.
    """

    def __init__(self, name: str, event: str, members: str) -> None:
        attributes = self.__dict__ = _INFO_RECORD.copy()
        attributes["name"] = name
        attributes["msg"] = event
        attributes["created"] = time.time()
        attributes["members"] = members


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: its fields, `event`, `request_id`, `level`, `logger`, `timestamp`, `exception`.

    Each member is formatted by itself: nearly all are short texts, for which an encoder costs more than the encoding.
    """

    def __init__(self) -> None:
        super().__init__()
        # The time stamps of one second differ only in their microseconds.
        self._second = -1
        self._second_text = ""

    def format(self, record: logging.LogRecord) -> str:
        """A value that JSON does not know is written as its `repr`."""
        attributes = record.__dict__
        if isinstance(record, EncodedRecord):
            return (
                f'{{{attributes["members"]}, "event": "{record.msg}", "level": "info", "logger": "{record.name}",'
                f' "timestamp": "{self._timestamp(record.created)}"}}'
            )
        members = []
        for name, value in islice(attributes.items(), _FIRST_ATTRIBUTES, None):
            if name not in _ADDED_ATTRIBUTES:
                members.append(f"{_quoted(name)}: {_quoted(value) if type(value) is str else _encode(value)}, ")
        if (request_id := REQUEST_ID.get()) and "request_id" not in attributes:
            members.append(f'"request_id": {_quoted(request_id)}, ')
        exception = f', "exception": {_quoted(self.formatException(record.exc_info))}' if record.exc_info else ""
        return (
            f'{{{"".join(members)}"event": {_quoted(record.getMessage())}, "level": "{record.levelname.lower()}",'
            f' "logger": {_quoted(record.name)}, "timestamp": "{self._timestamp(record.created)}"{exception}}}'
        )

    def _timestamp(self, at: float) -> str:
        second = int(at)
        if second != self._second:
            self._second, self._second_text = second, datetime.fromtimestamp(second, UTC).isoformat()[:-6]
        return f"{self._second_text}.{int((at - second) * 1_000_000):06d}Z"


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes a line with one call: the standard error stream is flushed at the end of each line anyway."""

    def emit(self, record: logging.LogRecord) -> None:
        """A line that can't be written is dropped."""
        try:
            self.stream.write(f"{self.format(record)}\n")
        except Exception:
            self.handleError(record)


def write_as_json(level: str) -> None:
    """From now on, writes the events of all modules and libraries from `level` (`info` …) upwards.

    If a line can't be written, because the disk is full or the reader has gone, it is dropped.
    """
    handler = LineHandler()
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
