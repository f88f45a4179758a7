"""The pauses between retries."""

from hypothesis import given
from hypothesis import strategies as st

from configsvc.backoff import Backoff


@given(failures=st.integers(min_value=0, max_value=60))
def test_pause_doubles_up_to_its_bound_and_is_at_least_half_of_it(failures: int) -> None:
    backoff = Backoff(0.1, 5.0)
    for _ in range(failures):
        backoff.next()
    bound = min(0.1 * 2**failures, 5.0)
    assert bound / 2 <= backoff.next() <= bound


def test_pauses_are_not_all_the_same() -> None:
    assert len({Backoff(1.0, 1.0).next() for _ in range(20)}) > 1


def test_reset_begins_with_the_shortest_pause_again() -> None:
    backoff = Backoff(0.1, 5.0)
    for _ in range(10):
        backoff.next()
    backoff.reset()
    assert backoff.next() <= 0.1
