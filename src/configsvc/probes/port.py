"""One look at one instance. Adapters: `network` (http, https, tcp) here, `rpc.grpc_probe` for gRPC."""

from typing import Protocol


class Probe(Protocol):
    """Looks once, within its own time-out."""

    async def check(self, url: str) -> None:
        """Returns if the instance is well.

        Raises:
            ProbeFailedError: it is not, with the reason in words.
            ProbeBusyError: there was no look, since its target is being looked at by too many others. Try again later.
        """
        ...


class ProbeFailedError(Exception):
    """The instance is not well, or could not be asked. The text is for whoever may read results of checks."""


class ProbeUnansweredError(ProbeFailedError):
    """There was no answer.

    The text is the same whether the connection was refused, nothing came in time, the name is unknown, TLS failed, or what
    came is no answer: the URL comes from outside, and whoever sends it shall not learn from us what listens where. `detail`
    says it, for the log.
    """

    def __init__(self, detail: str) -> None:
        super().__init__("no answer: it was not reached, not in time, or not in a way that can be trusted or read")
        self.detail = detail


class ProbeBusyError(Exception):
    """There was no look: too many others look at the same target."""
