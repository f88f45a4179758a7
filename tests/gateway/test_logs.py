"""The log of a process, as whoever collects it reads it."""

import json
import subprocess
import sys

PROGRAM = """
import structlog
from configsvc.logs import write_as_json

logger = structlog.get_logger("access")
write_as_json("warning")
logger.info("left out")
logger.warning("call", peer="ünï\\nx", cause=ValueError("v"))
try:
    raise KeyError("k")
except KeyError:
    logger.exception("failed")
"""


def test_each_event_from_the_level_on_is_one_line_of_json() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    call, failed = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.stdout == ""
    assert {**call, "timestamp": ""} == {
        **{"event": "call", "level": "warning", "logger": "access", "timestamp": ""},
        **{"peer": "ünï\nx", "cause": "ValueError('v')"},
    }
    assert (failed["event"], failed["level"]) == ("failed", "error")
    assert "KeyError: 'k'" in failed["exception"]


def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", f"{PROGRAM}\nprint('went on')"],
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            check=False,
        )
    assert done.stdout == "went on\n"
