"""Logs as JSON, a line for each event, on standard error.

The access log is on the path of every call, so its lines take the short way: what the level leaves out costs a call of an
empty function, and a line is written as it is, without a record of `logging` around it. Libraries, and modules that have
only a sentence to say, use `logging` as usual.
"""

import contextlib
import json
import logging
import sys

import structlog

# Made once; json.dumps with options makes one for each call.
_encoded = json.JSONEncoder(default=repr).encode


class Lines:
    """Writes lines. `name` is the logger's, which its events tell."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def msg(self, line: str) -> None:
        """One event. Where it can't be written (the disk is full, the reader has gone), the service goes on without."""
        with contextlib.suppress(OSError):
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    debug = info = warning = error = critical = msg


def write_as_json(level: str) -> None:
    """From now on, events from `level` (`info` …) on, also those of modules and libraries that use `logging`."""
    always: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    shown: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(serializer=lambda event, **_: _encoded(event)),
    ]
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=always,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *shown],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # It would tell of each health check.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    structlog.configure(
        processors=[*always, *shown],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=Lines,
        cache_logger_on_first_use=True,
    )
