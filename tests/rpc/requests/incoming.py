"""A call with metadata, as a servicer sees it."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class IncomingCall:
    """Implements `CallContext`."""

    metadata: tuple[tuple[str, str | bytes], ...] = ()

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        return self.metadata or None

    def peer(self) -> str:
        return "unix:"


def call(*metadata: tuple[str, str | bytes]) -> IncomingCall:
    return IncomingCall(metadata)
