"""The near cache of a replica."""

import pytest

from configsvc.app.configs.near_cache import NearCache
from tests.app.replica import Replica


@pytest.fixture
def near_cache(replica: Replica) -> NearCache:
    return replica.following(NearCache(reader=replica.reader, tail=replica.tail, max_entries=100))
