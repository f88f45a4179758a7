"""Compiles a flag set without stopping other tasks for long."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from configsvc_client.evaluation import Flag, FlagSet

T = TypeVar("T")

# Other tasks run after each slice of this many flags, which takes some 30 ms.
SLICE_FLAGS = 500


async def compile_set(environment: str, stored: Sequence[T], flag_of: Callable[[T], Flag], revision: int) -> FlagSet:
    """The set of flags that are read from `stored`, at a revision."""
    flag_set = FlagSet(environment, (), revision)
    for start in range(0, len(stored), SLICE_FLAGS):
        flag_set = flag_set.with_changes(map(flag_of, stored[start : start + SLICE_FLAGS]), (), revision)
        await asyncio.sleep(0)
    return flag_set
