"""A Redis that hangs, as a user of the service feels it: not at all, after the first few calls."""

import time
from collections.abc import Callable
from pathlib import Path

from configsvc_client.v1 import flag_pb2

from tests.engines.valkey import Valkey
from tests.replicas.fleet import ENVIRONMENT, Replica, eventually, fleet

USERS = 400
# Were each evaluation to wait for Redis, as the first ones do, for a quarter of a second or two, it would be 100 or 200.
MOST_SECONDS = 40.0


def evaluated(replica: Replica, user: str) -> bool:
    request = flag_pb2.EvaluateFlagRequest(flag_name="sticky", environment=ENVIRONMENT, user_id=user)
    return replica.flags.EvaluateFlag(request, timeout=15).evaluation.enabled


def test_a_hung_redis_costs_nothing_after_the_first_failures(
    private_valkey: Callable[[], Valkey], tmp_path: Path
) -> None:
    """Sticky flags are what asks Redis in the course of a call; everything else leaves copies behind the scenes."""
    valkey = private_valkey()
    with fleet(tmp_path, valkey.environment(), "one") as (one,):
        request = flag_pb2.CreateFlagRequest(
            name="sticky", environment=ENVIRONMENT, enabled=True, sticky=True, rollout_percentage=50
        )
        one.flags.CreateFlag(request, timeout=15)
        users = [f"u{number}" for number in range(USERS)]
        given = [evaluated(one, user) for user in users]
        valkey.pause()
        try:
            began = time.monotonic()
            # Nothing has changed in the flag, so that evaluating in process gives the same.
            assert [evaluated(one, user) for user in users] == given
            for number in range(USERS):
                one.put(f"key-{number % 7}", number)
                assert one.value(f"key-{number % 7}") == number
            assert time.monotonic() - began < MOST_SECONDS
            assert "has not answered since" in one.component("cache").detail
            assert one.is_ready()
        finally:
            valkey.resume()
        eventually(lambda: one.troubles() == [], "it is well again")
        lowered = flag_pb2.UpdateFlagRequest(
            name="sticky", environment=ENVIRONMENT, enabled=True, sticky=True, rollout_percentage=0
        )
        one.flags.UpdateFlag(lowered, timeout=15)
        eventually(lambda: [evaluated(one, user) for user in users] == given, "what was given is kept again")
