"""Which of several instances a caller gets.

Weighted round robin is nginx's smooth weighted round robin: each turn, every instance gains its weight as credit; the one
with the most credit is picked, and pays the sum of the weights. So the turns of heavy instances are spread. Consistent hash
is weighted rendezvous hashing (Thaler and Ravishankar 1998; weights as in Schindelhauer and Schomaker 2005): adding or
removing an instance moves only the keys that it gains or loses.
"""

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from configsvc.domain.instances import Instance
from configsvc.errors import InvalidInput

STRATEGIES = ("round_robin", "random", "weighted", "least_recently_used", "consistent_hash")
HASH_KEY_CHARACTERS = 512


@dataclass(slots=True)
class Balancer:
    """The turns of one service. Each pick changes its state."""

    _turn: int = 0
    _credit: dict[str, float] = field(default_factory=dict)
    _last_turn: dict[str, int] = field(default_factory=dict)

    def pick(self, instances: Sequence[Instance], strategy: str, hash_key: str) -> Instance:
        """One of the instances. There must be at least one; they must be in the order of id."""
        choose: dict[str, Callable[[], Instance]] = {
            "round_robin": lambda: instances[self._turn % len(instances)],
            "random": lambda: random.choice(instances),
            "weighted": lambda: self._weighted(instances),
            "least_recently_used": lambda: min(instances, key=lambda i: self._last_turn.get(i.instance_id, 0)),
            "consistent_hash": lambda: max(instances, key=lambda i: _score(i, hash_key)),
        }
        chosen = choose[strategy]()
        self._turn += 1
        self._last_turn[chosen.instance_id] = self._turn
        self._remove_absent(instances)
        return chosen

    def _weighted(self, instances: Sequence[Instance]) -> Instance:
        for instance in instances:
            self._credit[instance.instance_id] = self._credit.get(instance.instance_id, 0) + instance.weight
        chosen = max(instances, key=lambda i: self._credit[i.instance_id])
        self._credit[chosen.instance_id] -= sum(instance.weight for instance in instances)
        return chosen

    def _remove_absent(self, instances: Sequence[Instance]) -> None:
        """Removes instances that have left, now and then, so that memory is bounded by the size of the service."""
        if len(self._last_turn) + len(self._credit) > 4 * len(instances) + 64:
            present = {instance.instance_id for instance in instances}
            self._last_turn = {name: turn for name, turn in self._last_turn.items() if name in present}
            self._credit = {name: credit for name, credit in self._credit.items() if name in present}


def checked_strategy(strategy: str, hash_key: str) -> str:
    """The strategy; `round_robin` if it is empty. Raises `InvalidInput`."""
    strategy = strategy or STRATEGIES[0]
    if strategy not in STRATEGIES:
        raise InvalidInput.of("strategy", f"must be one of {', '.join(STRATEGIES)}; it is '{strategy[:64]}'")
    if strategy == "consistent_hash" and not hash_key:
        raise InvalidInput.of("hash_key", "is required for the strategy consistent_hash")
    if len(hash_key) > HASH_KEY_CHARACTERS:
        raise InvalidInput.of("hash_key", f"must be at most {HASH_KEY_CHARACTERS} characters; it has {len(hash_key)}")
    return strategy


def in_zone_first(instances: Sequence[Instance], zone: str) -> Sequence[Instance]:
    """The instances in the zone; all of them if the zone is empty or has none."""
    return [instance for instance in instances if zone and instance.zone == zone] or instances


def _score(instance: Instance, hash_key: str) -> float:
    digest = hashlib.blake2b(f"{len(hash_key)}:{hash_key}{instance.instance_id}".encode(), digest_size=8).digest()
    # In (0, 1) without both ends: the logarithm of 0 is undefined, and that of 1 is 0.
    uniform = (int.from_bytes(digest, "big") + 0.5) / 2**64
    return instance.weight / -math.log(uniform)
