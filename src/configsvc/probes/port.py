"""One look at one instance. Adapters: `network` (http, https, tcp) here, `rpc.grpc_probe` for gRPC."""

from typing import Protocol


class Probe(Protocol):
    """Looks once, within its own time-out."""

    async def look(self, url: str) -> None:
        """Returns where the instance is well.

        Raises:
            ProbeFailedError: it is not, with the reason in words.
        """
        ...


class ProbeFailedError(Exception):
    """The instance is not well, or could not be asked."""
