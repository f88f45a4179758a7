"""The log of a process, as a log collector reads it."""

import json
import subprocess
import sys

PROGRAM = """
import logging
from configsvc.logs import REQUEST_ID, write_as_json

logger = logging.getLogger("access")
write_as_json("warning")
logger.info("left out")
logger.warning("call", extra={"peer": "ünï\\nx", "cause": ValueError("v")})
try:
    raise KeyError("k")
except KeyError:
    REQUEST_ID.set("r1")
    logger.exception("failed: %s", 7)
"""


def test_each_event_at_or_above_the_level_is_one_line_of_json() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    call, failed = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.stdout == ""
    assert {**call, "timestamp": ""} == {
        **{"event": "call", "level": "warning", "logger": "access", "timestamp": ""},
        **{"peer": "ünï\nx", "cause": "ValueError('v')"},
    }
    assert (failed["event"], failed["level"]) == ("failed: 7", "error")
    assert "KeyError: 'k'" in failed["exception"]
    assert (failed["request_id"], "request_id" in call) == ("r1", False)


def test_requests_of_health_checks_are_not_logged() -> None:
    program = """
import logging
from configsvc.logs import write_as_json

write_as_json("info")
logging.getLogger("httpx").info("HTTP Request: GET http://10.0.0.1/health")
logging.getLogger("httpx").warning("from httpx")
logging.getLogger("configsvc").info("from the service")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert [json.loads(line)["event"] for line in done.stderr.splitlines()] == ["from httpx", "from the service"]


def test_process_goes_on_if_its_log_cannot_be_written() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", f"{PROGRAM}\nprint('went on')"],
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            check=False,
        )
    assert done.stdout == "went on\n"
