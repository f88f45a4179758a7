"""Some thousand random requests in the suite; `make fuzz` sets another number."""

import os
import random
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import start, stop
from tests.engines.ports import Port
from tests.fuzz.run import report, run_fuzz

REQUESTS = int(os.environ.get("FUZZ_REQUESTS") or 3_000)
SEED = int(os.environ.get("FUZZ_SEED") or random.randrange(1_000_000))
# A tenth of the slowest rate measured on two cores.
REQUESTS_A_SECOND = 20

SETTINGS = {
    # Health checks reach only loopback addresses, whatever is registered.
    "HEALTH_CHECK_DENIED_NETWORKS": "0.0.0.0/2,64.0.0.0/3,96.0.0.0/4,112.0.0.0/5,120.0.0.0/6,124.0.0.0/7,126.0.0.0/8,"
    "128.0.0.0/1,8000::/1,4000::/2,2000::/3",
    # Waiting for a future revision is not a hang.
    "DEFAULT_DEADLINE_SECONDS": "2",
}


@pytest.mark.timeout(REQUESTS / REQUESTS_A_SECOND + 120)
async def test_random_requests_break_neither_the_service_nor_a_neighbours_answers(tmp_path: Path) -> None:
    with Port() as port:
        running = start(tmp_path, port.number, **SETTINGS)
        began = time.monotonic()
        try:
            outcome = await run_fuzz(port.number, requests=REQUESTS, seed=SEED)
        finally:
            status = stop(running)
        text = report(outcome, time.monotonic() - began)
        log = running.log.read_text("utf-8", "replace")
        sys.stdout.write(f"\n{text}\n  the service's log: {running.log}\n")
        assert not outcome.violations, text
        assert outcome.sent >= REQUESTS
        # Most requests pass the first check.
        assert outcome.codes.get("200", 0) + outcome.codes.get("201", 0) + outcome.codes.get("OK", 0) > REQUESTS / 20
        assert "Traceback" not in log, log[log.index("Traceback") - 2_000 :][:6_000]
        assert '"level": "error"' not in log
        assert status == 0
