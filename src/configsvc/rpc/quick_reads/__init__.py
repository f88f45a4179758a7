"""Reads that are answered from memory at once: from the request's bytes to the answer's bytes, without a coroutine.

An engine asks `QuickReads` before it begins the general path of a call (middleware, servicer, use case, conversion). A
quick read answers only if it is sure of the answer that the general path would give. For everything out of the ordinary
it returns None, and the general path runs as if nothing had happened.
"""

from configsvc.rpc.quick_reads.answers import Answer
from configsvc.rpc.quick_reads.configs import QuickConfigs
from configsvc.rpc.quick_reads.flags import QuickFlags
from configsvc.rpc.quick_reads.positions import Positions
from configsvc.rpc.quick_reads.registry import QuickRegistry
from configsvc.rpc.quick_reads.table import QuickReads

__all__ = ["Answer", "Positions", "QuickConfigs", "QuickFlags", "QuickReads", "QuickRegistry"]
