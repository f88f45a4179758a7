"""Strategies that pick one of several instances."""

from datetime import UTC, datetime

from configsvc.domain.balancing import Balancer
from configsvc.domain.instances import Instance


def instance(name: str, weight: int = 1) -> Instance:
    at = datetime(2025, 1, 1, tzinfo=UTC)
    return Instance("svc", name, f"http://{name}", "", "HEALTHY", {}, weight, "", "", 30, at, at, 1, "", "a", 1)


def test_round_robin_is_fair_and_weighted_turns_are_spread() -> None:
    three = [instance("a"), instance("b"), instance("c")]
    balancer = Balancer()
    assert [balancer.pick(three, "round_robin", "").instance_id for _ in range(6)] == ["a", "b", "c"] * 2
    heavy = [instance("a", 5), instance("b", 1), instance("c", 1)]
    turns = [Balancer.pick(smooth, heavy, "weighted", "").instance_id for smooth in [Balancer()] * 7]
    assert turns == ["a", "a", "b", "a", "c", "a", "a"]
    used = Balancer()
    assert {used.pick(three, "least_recently_used", "").instance_id for _ in range(3)} == {"a", "b", "c"}


def test_consistent_hash_moves_only_the_keys_of_the_removed_instance() -> None:
    four = [instance(name) for name in "abcd"]
    before = {key: Balancer().pick(four, "consistent_hash", key).instance_id for key in map(str, range(500))}
    after = {key: Balancer().pick(four[:3], "consistent_hash", key).instance_id for key in before}
    assert {key for key in before if before[key] != after[key]} == {key for key in before if before[key] == "d"}
    assert set(before.values()) == set("abcd")
