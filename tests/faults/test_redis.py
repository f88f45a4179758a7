"""Redis hangs: callers notice nothing after the first few calls."""

import time
from collections.abc import Callable
from pathlib import Path

from configsvc_client.v1 import flag_pb2

from tests.engines.valkey import Valkey
from tests.replicas.fleet import ENVIRONMENT, Replica, eventually, fleet

USERS = 400
# If each evaluation waited for Redis for 0.25 to 0.5 s, as the first ones do, this would be 100 or 200.
MOST_SECONDS = 40.0


def evaluated(replica: Replica, user: str) -> bool:
    request = flag_pb2.EvaluateFlagRequest(flag_name="sticky", environment=ENVIRONMENT, user_id=user)
    return replica.flags.EvaluateFlag(request, timeout=15).evaluation.enabled


def test_hung_redis_delays_only_the_first_calls(private_valkey: Callable[[], Valkey], tmp_path: Path) -> None:
    """Only sticky flags use Redis during a call; all other copies are written in the background."""
    valkey = private_valkey()
    with fleet(tmp_path, valkey.environment(), "one") as (one,):
        request = flag_pb2.CreateFlagRequest(
            name="sticky", environment=ENVIRONMENT, enabled=True, sticky=True, rollout_percentage=50
        )
        one.flags.CreateFlag(request, timeout=15)
        users = [f"u{number}" for number in range(USERS)]
        assigned = [evaluated(one, user) for user in users]
        valkey.pause()
        try:
            began = time.monotonic()
            # The flag did not change, so an evaluation without assignments gives the same.
            assert [evaluated(one, user) for user in users] == assigned
            for number in range(USERS):
                one.put(f"key-{number % 7}", number)
                assert one.value(f"key-{number % 7}") == number
            assert time.monotonic() - began < MOST_SECONDS
            assert "has not answered since" in one.component("cache").detail
            assert one.is_ready()
        finally:
            valkey.resume()
        eventually(lambda: one.failures() == [], "health is up again")
        lowered = flag_pb2.UpdateFlagRequest(
            name="sticky", environment=ENVIRONMENT, enabled=True, sticky=True, rollout_percentage=0
        )
        one.flags.UpdateFlag(lowered, timeout=15)
        eventually(lambda: [evaluated(one, user) for user in users] == assigned, "assignments are kept again")
