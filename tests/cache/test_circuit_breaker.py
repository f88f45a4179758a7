"""When the circuit breaker allows a call."""

from configsvc.cache.circuit_breaker import LONGEST_PAUSE_SECONDS, SHORTEST_PAUSE_SECONDS, CircuitBreaker
from tests.app.fake_clock import FakeClock

FAILURES = 3


def opened(clock: FakeClock) -> CircuitBreaker:
    breaker = CircuitBreaker(clock, FAILURES)
    for _ in range(FAILURES):
        breaker.record_failure()
    return breaker


def test_only_failures_in_a_row_open_it() -> None:
    breaker = CircuitBreaker(FakeClock(), FAILURES)
    for _ in range(10):
        assert [breaker.record_failure() for _ in range(FAILURES - 1)] == [False] * (FAILURES - 1)
        assert breaker.allows_call()
        assert breaker.record_success() is False
    assert not breaker.is_open
    assert [breaker.record_failure() for _ in range(FAILURES)] == [False, False, True]
    assert breaker.is_open
    assert not breaker.allows_call()


async def test_open_breaker_allows_one_trial_after_each_pause() -> None:
    clock = FakeClock()
    breaker = opened(clock)
    pause = SHORTEST_PAUSE_SECONDS
    for _ in range(8):
        await clock.advance(pause / 2 - 0.001)
        assert not breaker.allows_call(), "a trial came before half of the pause"
        await clock.advance(pause / 2 + 0.001)
        assert breaker.allows_call()
        assert not breaker.allows_call(), "a second trial came in the same pause"
        assert breaker.record_failure() is False, "it was open already"
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


async def test_success_closes_it_and_the_next_pause_is_the_shortest() -> None:
    clock = FakeClock()
    breaker = opened(clock)
    for _ in range(8):
        await clock.advance(LONGEST_PAUSE_SECONDS)
        assert breaker.allows_call()
    assert breaker.record_success() is True
    assert all(breaker.allows_call() for _ in range(5))
    for _ in range(FAILURES):
        breaker.record_failure()
    await clock.advance(SHORTEST_PAUSE_SECONDS)
    assert breaker.allows_call()
