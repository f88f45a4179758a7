"""One health check of one instance. Adapters: `network` (http, https, tcp) and `grpc`."""

from typing import Protocol


class Probe(Protocol):
    """Checks an instance once, within its own time-out."""

    async def check(self, url: str) -> None:
        """Returns if the instance is healthy.

        Raises:
            ProbeFailedError: it is not. The text gives the reason.
            ProbeBusyError: there was no check, because too many checks of the same target are under way. Try again later.
        """
        ...


class ProbeFailedError(Exception):
    """The instance is not healthy, or could not be asked. The text is shown to everyone who may read results of checks."""


class ProbeUnansweredError(ProbeFailedError):
    """There was no answer.

    The text does not say why: a refused connection, a time-out, an unknown name, a failed TLS handshake and an invalid
    answer look the same. The URL comes from outside, and its sender must not learn from this service which hosts and ports
    exist. `detail` says why, for the log.
    """

    def __init__(self, detail: str) -> None:
        super().__init__("no answer: it was not reached, not in time, or not in a way that can be trusted or read")
        self.detail = detail


class ProbeBusyError(Exception):
    """There was no check: too many checks of the same target are under way."""
